"""The choice of bits for each layer: the least summed loss that a budget buys.

    minimise sum_l loss(l, b_l)        subject to sum_l cost(l, b_l) <= budget

(a multiple-choice knapsack, one choice per layer), for all budgets at once by dynamic programming:

    least_l(c) = min_b least_{l-1}(c - cost(l, b)) + loss(l, b)        least_0(c) = 0

Costs are counted from each layer's cheapest choice, in units of their greatest common divisor. That is exact up to 2^20
units (ResNet-50: 400,000); beyond, units are coarser and costs rounded up, so that a budget is kept in any case.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_MOST_UNITS = 1 << 20


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store one layer."""

    bits: int
    cost: int
    """The cost in what the budget counts: bytes, or bits."""
    loss: float
    """The loss, which is added over layers."""


class Allocations:
    """The best allocations of a network, from the cheapest on, each of less loss than the one before."""

    def __init__(self, layers: Mapping[str, Sequence[Choice]]) -> None:
        """Finds all allocations at once. layers: at least one choice each, by layer."""
        self._layers = {name: list(choices) for name, choices in layers.items()}
        self._base = {name: min(choice.cost for choice in choices) for name, choices in layers.items()}
        best = {name: min(choices, key=lambda choice: (choice.loss, choice.cost)) for name, choices in layers.items()}
        extras = [choice.cost - self._base[name] for name, choices in layers.items() for choice in choices]
        most = sum(choice.cost - self._base[name] for name, choice in best.items())
        unit = math.gcd(*extras) or 1
        self._unit = unit * max(1, -(-most // (unit * _MOST_UNITS)))
        # Rounded up, the best choices of all layers may need a unit more each.
        size = sum(-(-(choice.cost - self._base[name]) // self._unit) for name, choice in best.items()) + 1
        least, self._taken = np.zeros(size), []
        for name, choices in self._layers.items():
            least, taken = self._with_layer(least, name, choices)
            self._taken.append(taken)
        self._ends = np.flatnonzero(np.diff(least, prepend=np.inf) < 0)
        """Numbers of units at which one more first buys less loss."""

    def _with_layer(self, before: np.ndarray, name: str, choices: Sequence[Choice]) -> tuple[np.ndarray, np.ndarray]:
        """`least` with one more layer, and which choice it takes, uint8, by units spent."""
        least, taken = np.full(len(before), np.inf), np.zeros(len(before), np.uint8)
        for index, choice in enumerate(choices):
            units = self._units(name, choice)
            if units >= len(before):
                continue
            candidate = before[: len(before) - units] + choice.loss
            better = candidate < least[units:]
            least[units:][better] = candidate[better]
            taken[units:][better] = index
        return least, taken

    def _units(self, name: str, choice: Choice) -> int:
        return -(-(choice.cost - self._base[name]) // self._unit)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> dict[str, int]:
        """Bits by layer."""
        spent, bits = int(self._ends[index]), {}
        for (name, choices), taken in reversed(list(zip(self._layers.items(), self._taken, strict=True))):
            choice = choices[taken[spent]]
            bits[name] = choice.bits
            spent -= self._units(name, choice)
        return {name: bits[name] for name in self._layers}

    def within(self, budget: int) -> dict[str, int]:
        """The best allocation that costs at most `budget`. Raises ValueError below the cheapest."""
        spare = budget - sum(self._base.values())
        if spare < 0:
            raise ValueError(f"{budget} buys no allocation: the cheapest costs {budget - spare}")
        return self[int(np.searchsorted(self._ends, spare // self._unit, side="right")) - 1]


def stored_bytes(channels: int, weights: int, bits: int) -> int:
    """The bytes that a layer of `channels` outputs and `weights` weights takes.

    Codes of up to 4 bits are stored two to a byte, wider ones a byte each; every channel adds a float32 scale, a
    zero-point of one byte and an int32 bias.
    """
    codes = -(-weights // 2) if bits <= 4 else weights
    return codes + (4 + 1 + 4) * channels
