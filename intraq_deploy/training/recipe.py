"""The recipes by which the student is reconstructed and trained: a recipe is data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from intraq_deploy.errors import UsageError
from intraq_deploy.synthesis.recipe import Positive, Share, Weight

MOST_STEPS = 10_000_000
"""A limit far beyond any use: more is a slip, and would never end."""
Batch = Annotated[int, Interval(ge=1, le=1_000_000)]


@dataclass(frozen=True, slots=True)
class FittingRecipe:
    """The recipe of fitting layers in closed form, before any gradient (training.layerwise)."""

    compensate: bool = False
    """Whether weights are rounded so that the layer's output keeps to the float network's (training.compensation)."""
    correct: bool = False
    """Whether every channel's mean and gain then move to the float network's (training.correction); without it nothing
    is fitted."""
    images: Annotated[int, Interval(ge=1, le=1_000_000)] = 512
    """The number of images, at most; their crops come on top."""
    crops: Annotated[int, Interval(ge=0, le=100)] = 2
    """The number of random crops of each image that are taken beside it."""
    smallest_crop: Annotated[float, Interval(gt=0, le=1)] = 0.3
    """The least fraction of the area that a crop covers."""

    def __post_init__(self) -> None:
        if self.compensate and not self.correct:
            raise UsageError("The recipe's fitting compensates and does not correct: set correct = true beside it.")


@dataclass(frozen=True, slots=True)
class ReconstructionRecipe:
    """The recipe of reconstruction: whether and how the student is rounded block by block, before it is trained
    (training.reconstruction)."""

    enabled: bool = False
    steps: Annotated[int, Interval(ge=1, le=MOST_STEPS)] = 200
    """The number of steps per block."""
    batch: Batch = 32
    learning_rate: Positive = 0.1
    """Adam's rate of the rounding variables: from one code to the next is a way of about 5."""
    scale_rate: Weight = 1e-3
    """The rate of activation scales, relative to their own size."""
    rounding_weight: Weight = 0.5
    """The weight lambda: how much weights that are between two codes count beside the block's relative error."""
    drop: Share = 0.5
    """How often a value that a block reads is the float network's."""


@dataclass(frozen=True, slots=True)
class TrainingRecipe:
    """The recipe of fine-tuning: steps, optimiser, loss weights and what is kept."""

    steps: Annotated[int, Interval(ge=0, le=MOST_STEPS)]
    """The number of steps; 0 for no fine-tuning."""
    batch: Batch
    learning_rate: Positive
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """The type of the teacher's convolutions and of the student's gradients; the student's values are float32. "auto":
    bfloat16 where the device multiplies in it."""
    rate_unit: Literal["value", "step"] = "value"
    """The unit of `learning_rate`. "step": a layer's weights move at this multiple of its mean quantization step
    (training.optimizer)."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """The optimiser. "sgd": with Nesterov momentum 0.9."""
    weight_decay: Weight = 0.0
    schedule: Literal["cosine", "steps"] = "cosine"
    """The course of the rates. "cosine": down to 0. "steps": times 0.1 at each of `milestones`."""
    milestones: tuple[Share, ...] = ()
    """Fractions of all steps."""
    scale_rate: Weight = 0.1
    """The rate of learned scales, relative to their own size, as a multiple of `learning_rate`."""
    temperature: Positive = 4.0
    distillation: Weight = 1.0
    centred_logits: Weight = 0.5
    features: Weight = 0.0
    """The weight of the differences at the ends of blocks."""
    cross_entropy: Weight = 0.0
    """The weight of the cross-entropy; those above are the weights of the other losses."""
    least_confidence: Share = 0.0
    """The least probability that the teacher must give an image's class for the cross-entropy to count the image."""
    smallest_crop: Annotated[float, Interval(gt=0, le=1)] = 0.5
    """The least area fraction of random crops; 1 switches augmentation off, flips included."""
    mixup: bool = True
    """Whether each image is mixed with another by U(0, 1); the teacher sees the mixed image too."""
    average: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """The decay of the moving average of weights and scales that is kept in the end; 0 keeps the last step's."""
    freeze_oscillations: Share = 0.0
    """The averaged reversals of a code per step above which a weight is frozen; 0 freezes none."""

    def __post_init__(self) -> None:
        if not any((self.distillation, self.centred_logits, self.features, self.cross_entropy)):
            raise UsageError("The recipe's training has no loss: give distillation or another one a weight above 0.")
        if self.cross_entropy and self.mixup and not self.least_confidence:
            raise UsageError(
                "The recipe's cross-entropy wants one class per image, and mixed images have two: set mixup = false, "
                "or least_confidence, below which an image does not count."
            )


@dataclass(frozen=True, slots=True)
class StudentRecipe:
    """The work that makes a calibrated student a trained one."""

    fitting: FittingRecipe
    reconstruction: ReconstructionRecipe
    training: TrainingRecipe

    @property
    def images(self) -> int:
        """Number of images that go through the student: in reconstruction a step in each of the blocks goes through all
        of it once."""
        return self.reconstruction_images + self.training.steps * self.training.batch

    @property
    def reconstruction_images(self) -> int:
        """Number of images that go through the student in reconstruction."""
        return self.reconstruction.steps * self.reconstruction.batch if self.reconstruction.enabled else 0
