"""Labelled images, for measuring, and a person's own without labels, in place of synthetic ones."""

from intraq_deploy.data.labelled import LabelledImages, normalise
from intraq_deploy.data.loading import load_labelled
from intraq_deploy.data.unlabelled import UnlabelledImages, load_unlabelled

__all__ = ["LabelledImages", "UnlabelledImages", "load_labelled", "load_unlabelled", "normalise"]
