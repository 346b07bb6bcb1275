"""Fine-tuning the low-bit student on synthetic images."""

from intraq_deploy.training.loop import Trainer
from intraq_deploy.training.recipe import TrainingRecipe

__all__ = ["Trainer", "TrainingRecipe"]
