"""Integer parity: does a runtime compute the integers that the Program defines? No label is needed.

Every tensor is compared with what the reference makes of the *runtime's own* codes of the tensors before it. Where no
integer differs, that is the reference's run from the images on. Where one does, it is counted once, at its origin, and
does not hide or excuse what comes behind it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from intraq_deploy.program.program import Grid, Program
from intraq_deploy.program.reference import Reference
from intraq_deploy.program.ties import TieReference

Observed = Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor]]]
"""A function from images [N, C, H, W] to a runtime's logits, float32 [N, classes], and codes, int16 [N, ...]."""


@dataclass(frozen=True, slots=True)
class TensorParity:
    """The comparison of one quantized tensor, over all compared images."""

    name: str
    compared: int
    mismatched: int
    beyond_rounding: int
    """How many mismatches no order of float32 arithmetic explains: all where the runtime has the program's order."""
    largest_difference: int
    """The greatest difference between two codes."""
    tolerance: float | None
    """The greatest share of codes that may differ, each by one; None for an exact tensor, where none may."""
    reason: str | None
    """Why the tensor is not exact."""
    codes_used: int
    """How many different codes occurred."""
    codes_available: int

    @property
    def passes(self) -> bool:
        if self.tolerance is None:
            return self.beyond_rounding == 0 and self.largest_difference <= 1
        return self.largest_difference <= 1 and self.mismatched <= math.ceil(self.tolerance * self.compared)

    @property
    def underused(self) -> bool:
        """Whether less than half the codes occurred: the range is too wide, or the input is nearly constant."""
        return 2 * self.codes_used < self.codes_available


@dataclass(frozen=True, slots=True)
class Parity:
    """The comparison of a whole program with one runtime."""

    tensors: tuple[TensorParity, ...]
    expected: Tensor
    """The reference's logits, float32 [N, classes], from the images over which integers were compared."""
    found: Tensor
    """The runtime's logits from the same images, float32 [N, classes]."""
    logits_difference: float
    """Greatest difference between the runtime's logits and what the reference makes of the codes before them, as a
    multiple of the largest logit."""
    logits_tolerance: float | None
    """The greatest `logits_difference` that may be; None for exact logits."""
    near_ties: Tensor
    """How many of an image's integers may differ because another order of float32 arithmetic rounds them otherwise,
    int64 [N]; zeros where the order is the runtime's too."""
    rounding_effect: Tensor
    """How far the reference's logits move if all of these integers are the other ones, as a share of the largest logit,
    float32 [N]."""

    @property
    def compared(self) -> int:
        return sum(tensor.compared for tensor in self.tensors)

    @property
    def mismatched(self) -> int:
        return sum(tensor.mismatched for tensor in self.tensors)

    @property
    def logits_pass(self) -> bool:
        return self.logits_difference <= (self.logits_tolerance or 0.0)

    @property
    def failures(self) -> list[TensorParity]:
        return [tensor for tensor in self.tensors if not tensor.passes]


class _Tally:
    """Counts of one tensor, over batches."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._seen = torch.zeros(grid.code_max - grid.code_min + 1, dtype=torch.bool)
        self.compared = self.mismatched = self.beyond = self.largest = 0

    def add(self, expected: Tensor, found: Tensor, near: Tensor | None) -> None:
        """Counts codes of one batch, int16 or float32 [N, ...]. near: where the two may differ, bool; None: nowhere."""
        if expected.shape != found.shape:  # a comparer that broadcasts would lie
            raise ValueError(f"shapes {tuple(expected.shape)} and {tuple(found.shape)}")
        difference = (expected.to(torch.int32) - found.to(torch.int32)).abs()
        self.compared += difference.numel()
        self.mismatched += int(torch.count_nonzero(difference))
        explained = torch.zeros_like(difference, dtype=torch.bool) if near is None else near & (difference <= 1)
        self.beyond += int(torch.count_nonzero(difference.where(~explained, 0)))
        self.largest = max(self.largest, int(difference.max()))
        codes = expected.to(torch.int64).flatten() - self._grid.code_min
        self._seen |= codes.bincount(minlength=len(self._seen)) > 0

    def result(self, program: Program, name: str) -> TensorParity:
        tolerance = program.tolerances.get(name)
        return TensorParity(
            name=name,
            compared=self.compared,
            mismatched=self.mismatched,
            beyond_rounding=self.beyond,
            largest_difference=self.largest,
            tolerance=None if tolerance is None else tolerance.bound,
            reason=None if tolerance is None else tolerance.reason,
            codes_used=int(self._seen.sum()),
            codes_available=len(self._seen),
        )


def compare(program: Program, observed: Observed, images: Tensor, batch: int, *, own_rounding: bool = False) -> Parity:
    """Compares all quantized tensors of `program` and its logits: the reference's with a runtime's, on the same images.

    images: what the program takes, float32 or uint8 [N, C, H, W]. own_rounding: the runtime's order of float32
    arithmetic is not the program's, so exact tensors may differ where `program.ties` says that they can. Raises
    KeyError if the runtime leaves a tensor out.
    """
    reference = TieReference(program) if own_rounding else Reference(program)
    near = reference.near if isinstance(reference, TieReference) else {}
    tallies = {name: _Tally(grid) for name, grid in program.grids.items()}
    expected_logits, hop_logits, found_logits, ties, effects = [], [], [], [], []
    for part in images.split(batch):
        logits, found = observed(part)
        before = sum(tally.mismatched for tally in tallies.values())

        def hop(name: str, codes: Tensor, found: Mapping[str, Tensor] = found) -> Tensor:
            tallies[name].add(codes, found[name], near.get(name))
            return found[name].to(codes.dtype)

        hop_logits.append(reference.run(part, hop))
        ties.append(sum((mask.flatten(1).sum(1) for mask in near.values()), torch.zeros(len(part), dtype=torch.int64)))
        differs = sum(tally.mismatched for tally in tallies.values()) > before
        expected_logits.append(reference.run(part) if differs else hop_logits[-1])
        other = _other_logits(reference, part) if isinstance(reference, TieReference) else expected_logits[-1]
        effects.append((other - expected_logits[-1]).abs().amax(1))
        found_logits.append(logits)
    hops, found_all, expected = torch.cat(hop_logits), torch.cat(found_logits), torch.cat(expected_logits)
    tolerance = program.tolerances.get(program.graph.output)
    return Parity(
        tensors=tuple(tally.result(program, name) for name, tally in tallies.items()),
        expected=expected,
        found=found_all,
        logits_difference=_relative_difference(hops, found_all),
        logits_tolerance=None if tolerance is None else tolerance.bound,
        near_ties=torch.cat(ties),
        rounding_effect=torch.cat(effects) / expected.abs().max(),
    )


def _other_logits(reference: TieReference, images: Tensor) -> Tensor:
    """The reference's logits with the other code everywhere near a tie, float32 [N, classes]."""
    return reference.run(images, lambda name, _: reference.other.get(name))


def _relative_difference(expected: Tensor, found: Tensor) -> float:
    """The greatest difference by the largest logit: 0 only if all are equal; NaN, which passes no bound, if one is."""
    if torch.equal(expected, found):
        return 0.0
    return float((expected - found).abs().max() / expected.abs().max())


def agreement(a: Tensor, b: Tensor) -> float:
    """Percent of images that two networks give the same class. a, b: their logits, float32 [N, classes]."""
    return 100 * float((a.argmax(1) == b.argmax(1)).float().mean())
