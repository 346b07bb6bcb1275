"""How the student is trained: a recipe is data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from intraq_deploy.errors import UsageError
from intraq_deploy.synthesis.recipe import Positive, Share, Weight

MOST_STEPS = 10_000_000
"""Far beyond any use: what is more is a slip, and would never end."""
Batch = Annotated[int, Interval(ge=1, le=1_000_000)]


@dataclass(frozen=True, slots=True)
class ReconstructionRecipe:
    """Whether, before it is trained, the student is rounded block by block to what its blocks' outputs need, and how
    (training.reconstruction)."""

    enabled: bool = False
    steps: Annotated[int, Interval(ge=1, le=MOST_STEPS)] = 200
    """Per block."""
    batch: Batch = 32
    learning_rate: Positive = 0.1
    """Of the rounding variables, by Adam: from one code to the next is a way of about 5."""
    scale_rate: Weight = 1e-3
    """The rate of activation scales, relative to their own size."""
    rounding_weight: Weight = 0.5
    """lambda: how much weights that are between two codes count beside the block's relative error."""
    drop: Share = 0.5
    """How often a value that a block reads is the float network's."""


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """Steps, optimiser, loss weights and what is kept."""

    steps: Annotated[int, Interval(ge=0, le=MOST_STEPS)]
    """0: no fine-tuning."""
    batch: Batch
    learning_rate: Positive
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the convolutions of the teacher and of the student's gradients; the student's values are float32."""
    rate_unit: Literal["value", "step"] = "value"
    """"step": a layer's weights move at this multiple of its mean quantization step (training.optimizer)."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """"sgd": Nesterov momentum 0.9."""
    weight_decay: Weight = 0.0
    schedule: Literal["cosine", "steps"] = "cosine"
    """"cosine": down to 0. "steps": times 0.1 at each of `milestones`."""
    milestones: tuple[Share, ...] = ()
    """Fractions of all steps."""
    scale_rate: Weight = 0.1
    """The rate of learned scales, relative to their own size, as a multiple of `learning_rate`."""
    temperature: Positive = 4.0
    distillation: Weight = 1.0
    centred_logits: Weight = 0.5
    features: Weight = 0.0
    """Of the differences at the ends of blocks."""
    cross_entropy: Weight = 0.0
    """Weights of the losses."""
    least_confidence: Share = 0.0
    """Cross-entropy only where the teacher gives an image's class at least this probability."""
    smallest_crop: Annotated[float, Interval(gt=0, le=1)] = 0.5
    """Area fraction of the random crops; 1 switches augmentation off, flips included."""
    mixup: bool = True
    """Mix each image with another by U(0, 1); the teacher sees the mixed image too."""
    average: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Decay of the moving average of weights and scales that is kept in the end; 0: the last step's."""
    freeze_oscillations: Share = 0.0
    """Reversals of a code per step, averaged, above which a weight is frozen; 0: none is."""

    def __post_init__(self) -> None:
        if not any((self.distillation, self.centred_logits, self.features, self.cross_entropy)):
            raise UsageError("The recipe's training has no loss: give distillation or another one a weight above 0.")
        if self.cross_entropy and self.mixup and not self.least_confidence:
            raise UsageError(
                "The recipe's cross-entropy wants one class per image, and mixed images have two: set mixup = false, "
                "or least_confidence, below which an image does not count."
            )
