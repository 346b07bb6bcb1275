"""A recipe: how images are made, what prepares the network, how it is reconstructed and trained."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intraq_deploy.quantization.recipe import QuantizationRecipe
    from intraq_deploy.synthesis.recipe import SynthesisRecipe
    from intraq_deploy.training.recipe import ReconstructionRecipe, StudentRecipe, TrainingRecipe


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a method decides, for one network. Who gets a quantizer, and of how many bits, is a scheme's."""

    synthesis: "SynthesisRecipe"
    quantization: "QuantizationRecipe"
    training: "TrainingRecipe"
    reconstruction: "ReconstructionRecipe"

    @property
    def student(self) -> "StudentRecipe":
        """The part of it that trains a calibrated student."""
        from intraq_deploy.training.recipe import StudentRecipe  # noqa: PLC0415  it comes with torch

        return StudentRecipe(self.reconstruction, self.quantization.correct, self.training)
