"""The decision on which bits to ship, from the figures."""

import pytest

from intraq_deploy.pipeline.advice import advise
from intraq_deploy.pipeline.comparison import ComparisonRow


def rows(**figures):
    """name=(top-1, milliseconds)"""
    return [
        ComparisonRow(name=name, top1=top1, top5=99.0, bytes=size, milliseconds=milliseconds)
        for size, (name, (top1, milliseconds)) in zip((8000, 2000, 1100), figures.items(), strict=True)
    ]


def decided(w8a8, low, runtime="onnxruntime", *, images=10_000, only_w8a8=False):
    measured = rows(float32=(92.5, 1.5), w8a8=w8a8, it=low)
    return advise(measured, "it", runtime, images=images, only_w8a8=only_w8a8)


@pytest.mark.parametrize(
    ("w8a8", "low", "verdict", "speed"),
    [
        ((92.4, 1.0), (91.2, 1.0), "w8a8", 1.0),
        ((92.4, 1.0), (91.2, 2.0), "w8a8", 0.5),
        ((92.4, 1.0), (91.2, 0.5), "low-bits-are-faster", 2.0),
        ((92.4, 1.0), (92.4, 1.0), "equal", 1.0),
        ((92.4, 1.0), (92.4, 2.0), "w8a8-is-faster", 0.5),
        ((92.4, 3.0), (91.2, 4.0), "float-is-fastest", 0.75),
        ((92.4, 1.0), (91.2, None), "not-timed", None),
    ],
)
def test_verdicts(w8a8, low, verdict, speed):
    advice = decided(w8a8, low)
    assert (advice.verdict, advice.speed) == (verdict, speed)
    assert advice.lost == pytest.approx(92.5 - low[0])
    assert advice.w8a8_lost == pytest.approx(0.1)
    assert advice.size == 0.55
    assert advice.a8_lost is None


def test_eight_bits_are_compared_with_float_only():
    assert decided((92.4, 1), (92.4, 1), only_w8a8=True).verdict == "only-w8a8"


@pytest.mark.parametrize(("images", "verdict"), [(100, "equal"), (1000, "equal"), (1200, "w8a8"), (10_000, "w8a8")])
def test_a_difference_that_so_few_images_cannot_show_is_none(images, verdict):
    """0.5 points are five of a thousand images, and six of 1,200: five that differ the same way are chance in more than
    one of twenty cases."""
    assert decided((92.4, 1.0), (91.9, 1.0), images=images).verdict == verdict


def test_times_of_a_gpu_and_of_a_cpu_are_not_compared():
    advice = decided((92.4, 1), (92.4, 1), "onnxruntime-tensorrt")
    assert (advice.verdict, advice.speed, advice.float_speed) == ("timed-apart", None, None)


def test_the_cost_of_activations_of_fewer_bits():
    wide = ComparisonRow(name="a8", top1=91.9, top5=99.0, bytes=1100, milliseconds=1.0)
    measured = [*rows(float32=(92.5, 1.5), w8a8=(92.4, 1), it=(91.2, 1)), wide]
    assert advise(measured, "it", "onnxruntime", images=1000, only_w8a8=False).a8_lost == pytest.approx(0.6)
