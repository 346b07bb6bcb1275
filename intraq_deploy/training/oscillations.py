"""Freezing weights that oscillate between two codes (Nagel et al., "Overcoming Oscillations in Quantization-Aware
Training", ICML 2022).

At few bits a latent weight near a rounding border changes its code back and forth, most of all in depthwise layers,
whose outputs then never match what the layers behind them learn. Per weight, with code c_t,

    o_t = [c_t != c_{t-1} and the change is against the last one]
    f_t = m o_t + (1 - m) f_{t-1}        a_t = m c_t + (1 - m) a_{t-1}        m = 0.01

and once f_t exceeds the threshold, the weight is held at the code round(a_t).
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from intraq_deploy.quantization.network import FakeQuantNetwork, QuantizedLayer
from intraq_deploy.quantization.quantizer import by_row

_MOMENTUM = 0.01
_PARTS = ("codes", "direction", "frequency", "average", "frozen")


class OscillationFreezer:
    """A watcher of all weights of a student; `step` is called after each step of the optimiser."""

    def __init__(self, student: FakeQuantNetwork, threshold: float) -> None:
        self._student, self._threshold = student, threshold
        self._state: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, layer in self._layers():
                codes = layer.quantizer.codes(layer.weight).float()
                for part in _PARTS:
                    self._state[f"{name}:{part}"] = torch.zeros_like(codes)
                self._state[f"{name}:codes"].copy_(codes)
                self._state[f"{name}:average"].copy_(codes)

    @property
    def frozen(self) -> int:
        """How many weights are held."""
        return sum(int(self._state[f"{name}:frozen"].sum()) for name, _ in self._layers())

    @torch.no_grad()
    def step(self) -> None:
        """Updates the state of each weight, and holds the frozen ones at their codes."""
        for name, layer in self._layers():
            codes, direction, frequency, average, frozen = (self._state[f"{name}:{part}"] for part in _PARTS)
            scale = by_row(layer.quantizer(layer.weight)[1], layer.weight)
            held = frozen.bool()
            layer.weight.copy_(torch.where(held, average * scale, layer.weight))
            now = layer.quantizer.codes(layer.weight).float()
            change = (now - codes).sign()
            back = (change * direction < 0).float()
            frequency.lerp_(back, _MOMENTUM)
            average.copy_(torch.where(held, average, average.lerp(now, _MOMENTUM)))
            direction.copy_(torch.where(change != 0, change, direction))
            codes.copy_(now)
            newly = (frequency > self._threshold) & ~held
            average.copy_(torch.where(newly, average.round(), average))
            frozen.copy_((held | newly).float())

    def _layers(self) -> Iterator[tuple[str, QuantizedLayer]]:
        return ((node.name, self._student.layer(node.name)) for node in self._student.graph.layers())

    def state(self) -> dict[str, Tensor]:
        """The state for a checkpoint: float32 of the weights' shapes, by layer and part."""
        return dict(self._state)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state that `state` gave: float32 of the weights' shapes, by layer and part."""
        for name, tensor in self._state.items():
            tensor.copy_(state[name])
