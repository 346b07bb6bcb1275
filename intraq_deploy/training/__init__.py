"""Reconstructing and fine-tuning the low-bit student on synthetic images."""

from intraq_deploy.training.layerwise import fit_layers
from intraq_deploy.training.loop import Trainer
from intraq_deploy.training.recipe import FittingRecipe, ReconstructionRecipe, TrainingRecipe
from intraq_deploy.training.reconstruction import reconstruct

__all__ = ["FittingRecipe", "ReconstructionRecipe", "Trainer", "TrainingRecipe", "fit_layers", "reconstruct"]
