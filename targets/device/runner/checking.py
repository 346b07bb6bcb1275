"""The command `check`: the parity images are run, and codes and logits compared with the expected ones."""

import math
from argparse import Namespace
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

from .arrays import Array, np
from .backends import ModelSession
from .base import LARGEST_BATCH, OUTPUT, Problem
from .choosing import Choice, Result
from .manifest import UNPACK, Bundle, ModelEntry, TensorEntry

AFTER_A_FLIP = 0.1
"""How far logits may be from the expected ones, as a share of the largest, where a code before them differs."""
_FAR = 1 << 20


class Comparison:
    """Codes that were found beside those that were expected, tensor by tensor, in the order in which they are computed.

    A code is judged in images in which every tensor that it is computed from has all its expected codes; what comes
    behind a difference is counted apart.
    """

    def __init__(self, images: int) -> None:
        self._images = images
        self._differs: Dict[str, Array] = {}
        self.compared = self.differ = self.behind = self.differ_behind = self.ties = 0
        self.failures: List[str] = []
        self.never_judged: List[str] = []

    def add(self, tensor: TensorEntry, expected: Array, found: Array, near: Optional[Array]) -> None:
        """Compares one tensor's codes, arrays of integers [N, ...].

        near: flat positions at which rounding in another order may give the next code; None where the runtime's order
        is the program's.
        """
        name = tensor["name"]
        if expected.shape != found.shape:  # arrays that broadcast would compare too few
            self.failures.append(f"{name} has shape {found.shape} in place of {expected.shape}.")
            self._differs[name] = np.ones(self._images, dtype=bool)
            return
        apart = np.abs(expected.astype(np.int32) - found.astype(np.int32)).reshape(self._images, -1)
        self._differs[name] = np.asarray(apart.any(axis=1))
        behind = np.zeros(self._images, dtype=bool)
        for source in tensor["inputs"]:
            behind |= self._differs[source]
        self.compared += apart.size
        self.differ += int(np.count_nonzero(apart))
        self.behind += int(apart[behind].size)
        self.differ_behind += int(np.count_nonzero(apart[behind]))
        if behind.all():
            self.never_judged.append(name)
        self._judge(tensor, apart, ~behind, near)

    def _judge(self, tensor: TensorEntry, apart: Array, judged: Array, near: Optional[Array]) -> None:
        wrong = apart.copy()
        wrong[~judged] = 0
        if near is not None:
            flat = wrong.reshape(-1)
            tied = near[flat[near] == 1]
            self.ties += len(tied)
            flat[tied] = 0
        count, largest = int(np.count_nonzero(wrong)), int(wrong.max()) if wrong.size else 0
        allowed = 0 if tensor["share"] is None else math.ceil(tensor["share"] * int(apart[judged].size))
        if count > allowed or largest > 1:
            self.failures.append(
                f"{count:,} of {apart[judged].size:,} integers of {tensor['name']} differ by up to {largest} "
                f"({allowed:,} may, by 1)."
            )

    def any_differs(self) -> Array:
        """Whether any code of an image differs, bool [N]."""
        found = np.zeros(self._images, dtype=bool)
        for differs in self._differs.values():
            found |= differs
        return found


class CheckResult(NamedTuple):
    """The result of `check`, as its JSON has it."""

    passes: bool
    failures: List[str]
    images: int
    images_with_codes: int
    tensors: int
    integers: int
    differ: int
    at_near_ties: int
    behind_a_difference: int
    differ_behind: int
    tensors_never_judged: List[str]
    logits_difference: Optional[float]
    """The greatest one, as a share of the largest logit; None where logits are no numbers."""
    top1_agreement: Optional[float]
    """The percentage of images with the expected class."""


def check(bundle: Bundle, choice: Choice, options: Namespace) -> Result:
    """Runs the parity images, and compares. Raises Problem where they cannot be run."""
    found = _compared(bundle, choice, options.cache)
    return Result(found._asdict(), _check_lines(choice.words(), found), 0 if found.passes else 3)


def _compared(bundle: Bundle, choice: Choice, cache: Path) -> CheckResult:
    about, model = bundle.manifest["check"], choice.model
    images = np.load(str(bundle.path(about["images"])), allow_pickle=False)
    expected = np.load(str(bundle.path(about["expected"])), allow_pickle=False)
    with_codes = about["images_with_codes"]
    found = _batched(choice.backend.prepare(bundle, model, cache, True), images[:with_codes])
    shipped = _batched(choice.backend.prepare(bundle, model, cache, False), images)[OUTPUT]
    comparison = Comparison(with_codes)
    for index, tensor in enumerate(about["tensors"]):
        if tensor["value"] not in found:
            raise Problem(f"the runtime gives no {tensor['value']}", UNPACK)
        near = None
        if model["own_rounding"]:
            near = expected[f"near{index}"] if f"near{index}" in expected.files else np.zeros(0, dtype=np.int64)
        zero = tensor["zero_point"] if model["zero_points"] else 0
        comparison.add(tensor, expected[f"codes{index}"], _integers(found[tensor["value"]]) - zero, near)
    failures = comparison.failures
    allowed = _allowed(comparison, expected["near_ties"], model)
    difference, agreement = _judge_logits(shipped, expected["logits"], allowed, failures)
    looked = _apart(shipped[:with_codes], found[OUTPUT])
    if not (looked <= allowed[:with_codes]).all():
        failures.append(f"looking at the codes changes the logits by {float(np.max(looked)):.1e} of the largest.")
    return CheckResult(
        passes=not failures,
        failures=failures,
        images=len(images),
        images_with_codes=with_codes,
        tensors=len(about["tensors"]),
        integers=comparison.compared,
        differ=comparison.differ,
        at_near_ties=comparison.ties,
        behind_a_difference=comparison.behind,
        differ_behind=comparison.differ_behind,
        tensors_never_judged=comparison.never_judged,
        logits_difference=difference,
        top1_agreement=agreement,
    )


def _integers(codes: Array) -> Array:
    """Codes as int32. What is no number must not become 0, which arm64 makes of NaN: it is far from every code."""
    if codes.dtype.kind not in "iu":
        codes = np.clip(np.rint(np.nan_to_num(codes, nan=_FAR)), -_FAR, _FAR)
    return codes.astype(np.int32)


def _allowed(comparison: Comparison, near_ties: Array, model: ModelEntry) -> Array:
    """How far each image's logits may be off, as a share of the largest, float64 [N].

    It is more where a code before them differs, or may: the shipped model can round otherwise than the one whose codes
    are seen, and not all images are compared in codes.
    """
    differs = near_ties > 0 if model["own_rounding"] else np.full(len(near_ties), comparison.differ > 0)
    seen = comparison.any_differs()
    differs[: len(seen)] = seen | differs[: len(seen)] if model["own_rounding"] else seen
    return np.where(differs, AFTER_A_FLIP, model["logits_share"] or 0.0)


def _judge_logits(
    found: Array, expected: Array, allowed: Array, failures: List[str]
) -> Tuple[Optional[float], Optional[float]]:
    """Judges the shipped model's logits: the greatest difference, and the percentage with the expected class.

    A class may be another one only where the two best are closer than that.
    """
    if found.shape != expected.shape:
        failures.append(f"the logits have shape {found.shape} in place of {expected.shape}.")
        return None, None
    apart = _apart(found, expected)
    if not (apart <= allowed).all():
        worst = int(np.argmax(np.nan_to_num(apart - allowed, nan=np.inf)))
        failures.append(
            f"the logits of image {worst} are off by {float(apart[worst]):.1e} of the largest "
            f"({float(allowed[worst]):.0e} may be)."
        )
    same = found.argmax(axis=1) == expected.argmax(axis=1)
    two = np.sort(expected, axis=1)[:, -2:]
    clear = (two[:, -1] - two[:, 0]) > 2 * allowed * np.abs(expected).max()
    if (~same & clear).any():
        failures.append(f"{int((~same & clear).sum())} of {len(same)} images have another class.")
    most = float(np.max(apart))
    return most if math.isfinite(most) else None, 100 * float(same.mean())


def _apart(found: Array, expected: Array) -> Array:
    """The greatest difference of each image's logits, as a share of the largest logit, float64 [N]."""
    largest = float(np.abs(expected).max()) or 1.0
    difference: Array = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(axis=1)
    return difference / largest


def _batched(session: ModelSession, images: Array) -> Dict[str, Array]:
    """All outputs by name, from batches that an engine takes."""
    parts = [session.run(images[start : start + LARGEST_BATCH]) for start in range(0, len(images), LARGEST_BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_lines(where: str, result: CheckResult) -> List[str]:
    lines = [
        f"{where}: {result.differ:,} of {result.integers:,} integers differ ({result.tensors} tensors, "
        f"{result.images_with_codes} images)."
    ]
    if result.at_near_ties:
        lines.append(
            f"{result.at_near_ties:,} of them by one, where rounding in another order gives the next code; "
            f"{result.differ_behind:,} among the {result.behind_a_difference:,} that are computed from such."
        )
    if result.tensors_never_judged:
        lines.append(f"Not judged in any image: {', '.join(result.tensors_never_judged)}.")
    if result.top1_agreement is not None:
        most = result.logits_difference
        by = "are not all numbers" if most is None else f"differ by {most:.1e} of the largest at most"
        lines.append(f"Logits of {result.images} images {by}; {result.top1_agreement:.2f} % have the expected class.")
    return [*lines, *(f"Check failed: {failure}" for failure in result.failures[:8])]
