"""The sentence of advice says what the figures say."""

import pytest

from intraq_deploy.pipeline.measurement import advice
from intraq_deploy.pipeline.report import ComparisonRow


def rows(**figures):
    """name=(top-1, milliseconds)"""
    return [
        ComparisonRow(name=name, top1=top1, top5=99.0, bytes=size, milliseconds=milliseconds)
        for size, (name, (top1, milliseconds)) in zip((8000, 2000, 1100), figures.items(), strict=True)
    ]


@pytest.mark.parametrize(
    ("eight", "ours", "words"),
    [
        ((92.4, 1.0), (91.2, 1.0), "W8A8 is as fast here and loses 0.1 points where W4A4 loses 1.3: ship W8A8 unless"),
        ((92.4, 1.0), (91.2, 2.0), "W8A8 is 2.0x as fast here and loses 0.1 points where W4A4 loses 1.3: ship W8A8"),
        ((92.4, 1.0), (91.2, 1.0), "unless size counts (W4A4's file is 0.55 of its; both run in INT8 kernels)."),
        ((92.4, 1.0), (91.2, 0.5), "W4A4 is 2.0x as fast as W8A8 and loses 1.3 points (W8A8: 0.1)."),
        ((92.4, 1.0), (92.4, 1.0), "W4A4 is no less accurate than W8A8 here and as fast"),
        ((92.4, 1.0), (92.4, 2.0), "W8A8 is 2.0x as fast here, and W4A4 no less accurate"),
        ((92.4, 3.0), (91.2, 4.0), "float32 is 2.0x as fast as either here"),
    ],
)
def test_four_bits(eight, ours, words):
    assert words in advice(rows(float32=(92.5, 1.5), w8a8=eight, onnxruntime=ours), "onnxruntime", "W4A4")


def test_eight_bits_are_compared_with_float_only():
    sentence = advice(rows(float32=(92.5, 1.5), w8a8=(92.4, 1), onnxruntime=(92.4, 1)), "onnxruntime", "W8A8")
    assert sentence == "W8A8 loses 0.1 points against float."


def test_what_activations_of_fewer_bits_cost():
    measured = rows(float32=(92.5, 1.5), w8a8=(92.4, 1), onnxruntime=(91.2, 1))
    wide = ComparisonRow(name="a8", top1=91.9, top5=99.0, bytes=1100, milliseconds=1.0)
    sentence = advice([*measured, wide], "onnxruntime", "W4A4")
    assert sentence.startswith(advice(measured, "onnxruntime", "W4A4"))
    assert "W4A8 (--activation-bits 8)" in sentence
    assert "loses 0.6 points before any fine-tuning, W4A4 1.3 after it" in sentence
