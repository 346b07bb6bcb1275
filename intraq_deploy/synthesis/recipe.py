"""The recipe by which images are made: a recipe is data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from intraq_deploy.errors import UsageError

MOST_IMAGES, MOST_ITERATIONS = 1_000_000, 10_000_000
"""Limits far beyond any use: more is a slip, and would run out of memory or never end."""
Weight = Annotated[float, Interval(ge=0, le=1e6)]
Positive = Annotated[float, Interval(gt=0, le=1e6)]
Share = Annotated[float, Interval(ge=0, le=1)]
Distance = Annotated[float, Interval(ge=0, le=2)]


@dataclass(frozen=True, slots=True)
class SynthesisRecipe:
    """Counts, optimiser, losses and what the network sees. IntraQ's constants have the paper's names."""

    images: Annotated[int, Interval(ge=2, le=MOST_IMAGES)]
    iterations: Annotated[int, Interval(ge=0, le=MOST_ITERATIONS)]
    """The number of iterations per batch; 0 leaves what a batch starts as."""
    batch: Annotated[int, Interval(ge=2, le=MOST_IMAGES)] = 256
    start: Literal["noise", "leaves"] = "noise"
    """The images that a batch starts as. "noise": Gaussian, as in the paper; "leaves": dead leaves
    (synthesis.leaves)."""
    resolution: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """The side of the images as a share of the network's own, to the nearest multiple of 32 pixels, where the network
    also takes such images; else they have its own size."""
    learning_rate: Positive = 0.1
    """The paper's 0.5 overshoots at short budgets: on ResNet-20, 128 images after 120 iterations are 7 times as far
    from the stored statistics as with 0.1 (BN distance 7.1 against 1.0)."""
    schedule: Literal["plateau", "cosine"] = "cosine"
    """The course of the learning rate. "plateau": times 0.1 after 50 iterations without improvement, at least 1e-4.
    "cosine": down to 0."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """The type of the network's convolutions while images are made; statistics and losses are float32. "auto": bfloat16
    where the device multiplies in it."""
    statistics: Literal["variance", "relative"] = "variance"
    """How far a batch is from the stored statistics: "variance" as in the paper, "relative" in units of each channel's
    stored deviation."""
    statistics_weight: Weight = 1.0
    shallow_weight: Weight = 1.0
    """The weight of the first half of the batch norms, relative to the second half's."""
    soft_inception: Weight = 1.0
    """The weight of L_SIL."""
    softest_target: Annotated[float, Interval(gt=0, le=1)] = 0.95
    """The least target epsilon, a probability; 1 makes hard targets."""
    marginal_distance: Weight = 1.0
    """The weight of L_lower and L_upper."""
    lower: Distance = 0.05
    """The cosine distance lambda_l from the class's centre below which an image is too near."""
    upper: Distance = 0.8
    """The cosine distance lambda_u from the class's centre above which an image is too far."""
    crop_probability: Share = 0.5
    """The probability of cropping in an iteration, for the whole batch."""
    smallest_crop: Annotated[float, Interval(gt=0, le=1)] = 0.5
    """The least fraction eta of the area that a crop covers."""
    bounded: bool = False
    """Whether every pixel is kept within what an image file can hold."""
    low_pass: Annotated[float, Interval(ge=0, le=10)] = 0.0
    """The cut-off of a Gaussian low-pass on the images, in cycles per pixel; 0 for none."""
    swing: bool = False
    """Whether the inputs of strided convolutions are shifted by random pixels."""
    labels: Literal["stratified", "uniform"] = "stratified"
    """The choice of labels. "stratified": every class equally often; "uniform": drawn, as in the paper."""

    def __post_init__(self) -> None:
        if self.iterations and not any((self.statistics_weight, self.soft_inception, self.marginal_distance)):
            raise UsageError(
                f"The recipe's synthesis has iterations = {self.iterations} and no loss: give statistics_weight or "
                "another one a weight above 0, or iterations = 0 for what a batch starts as."
            )
