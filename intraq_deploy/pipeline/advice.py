"""Which bits to ship: a decision with its numbers. The command line words it."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from intraq_deploy.pipeline.comparison import A8, FLOAT32, W8A8, ComparisonRow

_FASTER = 1.1
"""The ratio of times from which on one is called faster."""
_POINTS = 0.05
"""A difference of top-1, in percent, that is none once it is rounded to a tenth."""
_FEWEST = 6
"""The fewest images by which two networks can differ so that it is no chance: that five of five answers that differ
speak for one of them happens by chance in 6 % of cases (a sign test of both sides), five of more of them more often."""

Verdict = Literal[
    "only-w8a8",
    "timed-apart",
    "not-timed",
    "float-is-fastest",
    "low-bits-are-faster",
    "w8a8",
    "equal",
    "w8a8-is-faster",
]


class Advice(BaseModel):
    """A run's bits beside W8A8 with its ranges only, and beside float32. Points lost are of top-1, against float32."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str
    verdict: Verdict
    """The decision. only-w8a8: the run's bits are W8A8; timed-apart: the run was timed on a GPU, W8A8 on the CPU;
    float-is-fastest: quantize for size only; w8a8: it is more accurate, and not slower; equal: the run's bits lose no
    more, as far as the images tell, and are as fast; w8a8-is-faster: the same, and W8A8 is faster."""
    lost: float
    """Points that the run's bits lose."""
    w8a8_lost: float
    speed: float | None
    """How many times the run's bits are as fast as W8A8; None where the two cannot be compared."""
    float_speed: float | None
    """How many times float32 is as fast as the faster of the two."""
    size: float
    """The bytes of the run's file over those of W8A8's."""
    a8_lost: float | None = None
    """Points that the run's weight bits lose with 8-bit activations, ranges only; None where it has them anyway."""
    images: int = 0
    """The number of labelled images."""

    @property
    def least_points(self) -> float:
        """Points of top-1 below which a difference on these images says nothing."""
        return _least_points(self.images)


def advise(rows: Sequence[ComparisonRow], target: str, runtime: str, *, images: int, only_w8a8: bool) -> Advice:
    """Decides which bits to ship for `target`.

    rows: with their accuracy, and FLOAT32, W8A8 and `target` among them. runtime: the target's. images: the number of
    labelled images. only_w8a8: the run's bits are W8A8 too.
    """
    by_name = {row.name: row for row in rows}
    plain, w8a8, low = by_name[FLOAT32], by_name[W8A8], by_name[target]
    lost, w8a8_lost = _lost(low, plain), _lost(w8a8, plain)
    apart = runtime == "onnxruntime-tensorrt" and low.milliseconds is not None
    times = [row.milliseconds for row in (plain, w8a8, low) if row.milliseconds is not None]
    speed = float_speed = None
    if len(times) == 3 and not apart:
        speed, float_speed = times[1] / times[2], min(times[1:]) / times[0]
    verdict: Verdict
    if only_w8a8:
        verdict = "only-w8a8"
    elif apart:
        verdict = "timed-apart"
    elif speed is None or float_speed is None:
        verdict = "not-timed"
    elif float_speed > _FASTER:
        verdict = "float-is-fastest"
    elif speed > _FASTER:
        verdict = "low-bits-are-faster"
    elif lost - w8a8_lost >= _least_points(images):
        verdict = "w8a8"
    else:
        verdict = "equal" if as_fast(speed) else "w8a8-is-faster"
    return Advice(
        target=target,
        verdict=verdict,
        lost=lost,
        w8a8_lost=w8a8_lost,
        speed=speed,
        float_speed=float_speed,
        size=low.bytes / w8a8.bytes,
        a8_lost=_lost(by_name[A8], plain) if A8 in by_name else None,
        images=images,
    )


def _lost(row: ComparisonRow, plain: ComparisonRow) -> float:
    """Returns the points of top-1 that a row has less than float32."""
    assert row.top1 is not None
    assert plain.top1 is not None
    return plain.top1 - row.top1


def _least_points(images: int) -> float:
    """Returns the points of top-1 below which a difference on so many images says nothing; 0 images: not known."""
    return max(_POINTS, 100 * _FEWEST / images) if images else _POINTS


def as_fast(speed: float) -> bool:
    """Whether one is called as fast as another whose time it takes 1 / `speed` times."""
    return speed > 0.9
