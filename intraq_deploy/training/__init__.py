"""Reconstructing and fine-tuning the low-bit student on synthetic images."""

from intraq_deploy.training.correction import correct
from intraq_deploy.training.loop import Trainer
from intraq_deploy.training.recipe import ReconstructionRecipe, TrainingRecipe
from intraq_deploy.training.reconstruction import reconstruct

__all__ = ["ReconstructionRecipe", "Trainer", "TrainingRecipe", "correct", "reconstruct"]
