"""Labelled images, for measuring."""

from intraq_deploy.data.labelled import LabelledImages, normalise
from intraq_deploy.data.loading import load_labelled

__all__ = ["LabelledImages", "load_labelled", "normalise"]
