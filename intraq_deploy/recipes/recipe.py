"""A recipe: how images are made, what prepares the network, how it is reconstructed and trained."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from intraq_deploy.quantization.recipe import QuantizationRecipe
    from intraq_deploy.synthesis.recipe import SynthesisRecipe
    from intraq_deploy.training.recipe import FittingRecipe, ReconstructionRecipe, StudentRecipe, TrainingRecipe


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a method decides, for one network. Who gets a quantizer, and of how many bits, is a scheme's."""

    synthesis: "SynthesisRecipe"
    quantization: "QuantizationRecipe"
    fitting: "FittingRecipe"
    training: "TrainingRecipe"
    reconstruction: "ReconstructionRecipe"

    def on(self, *, bfloat16: bool) -> "Recipe":
        """This recipe for a device, the precision "auto" decided. bfloat16: whether the device multiplies in it."""
        fastest: Literal["bfloat16", "float32"] = "bfloat16" if bfloat16 else "float32"
        synthesis, training = self.synthesis, self.training
        if synthesis.precision == "auto":
            synthesis = replace(synthesis, precision=fastest)
        if training.precision == "auto":
            training = replace(training, precision=fastest)
        return replace(self, synthesis=synthesis, training=training)

    @property
    def student(self) -> "StudentRecipe":
        """The part of it that trains a calibrated student."""
        from intraq_deploy.training.recipe import StudentRecipe  # noqa: PLC0415  it comes with torch

        return StudentRecipe(self.fitting, self.reconstruction, self.training)
