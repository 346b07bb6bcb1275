"""How the student is trained: a recipe is data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """Steps, optimiser and loss weights."""

    steps: int
    """0: ranges only, no fine-tuning."""
    batch: int
    learning_rate: float
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """"sgd": Nesterov momentum 0.9."""
    weight_decay: float = 0.0
    schedule: Literal["cosine", "steps"] = "cosine"
    """"cosine": down to 0. "steps": times 0.1 at each of `milestones`."""
    milestones: tuple[float, ...] = ()
    """Fractions of all steps."""
    scale_rate: float = 0.1
    """The rate of learned scales, relative to their own size, as a multiple of `learning_rate`."""
    temperature: float = 4.0
    distillation: float = 1.0
    centred_logits: float = 0.5
    cross_entropy: float = 0.0
    """Weights of the losses."""
    smallest_crop: float = 0.5
    """Area fraction of the random crops; 1 switches augmentation off, flips included."""
    mixup: bool = True
    """Mix each image with another by U(0, 1); the teacher sees the mixed image too."""
