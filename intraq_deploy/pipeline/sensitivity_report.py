"""The sensitivity table: the cost of each layer's weight bits."""

import csv
import io

from pydantic import BaseModel, ConfigDict

from intraq_deploy.quantization.sensitivity import Loss
from intraq_deploy.quantization.spec import MAX_BITS


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LayerSensitivity(_Record):
    """The losses of one layer."""

    name: str
    operator: str
    weights: int
    """Number of weights."""
    channels: int
    """Number of output channels."""
    loss: dict[int, Loss]
    """The loss by bits of its weights; everything else has 8."""


class SensitivityReport(_Record):
    """The cost of each layer's weight bits, layers in execution order."""

    architecture: str
    scheme: str
    images: int
    reference_bits: int = MAX_BITS
    reference: Loss
    """The loss with everything at 8 bits."""
    layers: list[LayerSensitivity]

    @property
    def widths(self) -> list[int]:
        """The bits that were tried."""
        return list(self.layers[0].loss)

    def kl_increase(self, layer: LayerSensitivity, bits: int) -> float:
        """Returns the increase of KL(float || quantized) against the reference, in nats."""
        return layer.loss[bits].kl - self.reference.kl

    def agreement_lost(self, layer: LayerSensitivity, bits: int) -> float:
        """Returns the top-1 agreement that is lost against the reference, in points."""
        return self.reference.agreement - layer.loss[bits].agreement

    def to_json(self) -> str:
        """Returns the table as JSON."""
        return self.model_dump_json(indent=1)

    def to_csv(self) -> str:
        """Returns a CSV line per layer and width; the last two figures are against the reference."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["layer", "operator", "weights", "channels", "bits", "kl", "agreement", "kl_increase", "agreement_lost"]
        )
        for layer in self.layers:
            for bits, loss in layer.loss.items():
                changes = self.kl_increase(layer, bits), self.agreement_lost(layer, bits)
                figures = [f"{value:.6g}" for value in (loss.kl, loss.agreement, *changes)]
                writer.writerow([layer.name, layer.operator, layer.weights, layer.channels, bits, *figures])
        return text.getvalue()
