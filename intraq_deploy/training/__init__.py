"""Reconstructing and fine-tuning the low-bit student on synthetic images."""
