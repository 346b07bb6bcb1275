"""A moving average of the trained parameters (Polyak and Juditsky 1992; as used in QAT by Nagel et al., ICML 2022).

    a_t = d_t a_{t-1} + (1 - d_t) w_t        d_t = min(decay, (1 + t) / (10 + t))

The growing decay lets an early start count for little. The student keeps a in the end.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class MovingAverage:
    """The moving average of the trained parameters of one module."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._averages = {name: parameter.detach().clone() for name, parameter in self._trained.items()}

    def update(self, step: int) -> None:
        """Updates the averages after step number `step`, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self._averages.values()), list(self._trained.values()), 1 - decay)

    def keep(self) -> None:
        """Puts the averages in the parameters' place."""
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(self._averages[name])

    def state(self) -> dict[str, Tensor]:
        """The averages for a checkpoint: float32 of any shape, by parameter name."""
        return dict(self._averages)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores averages that `state` gave: float32 of any shape, by parameter name."""
        for name, average in self._averages.items():
            average.copy_(state[name])
