"""Labelled images, for measuring, and a person's own without labels, in place of synthetic ones."""
