"""Every sentence about a finding, once."""

import pytest

from intraq_deploy.pipeline import findings as f
from intraq_deploy.pipeline.advice import Advice
from intraq_deploy.pipeline.sentences import advice_sentence, failure_sentence, warning_sentence

TENSOR = f.TensorDiffers(
    target="it",
    tensor="conv1",
    mismatched=3,
    compared=1000,
    largest_difference=2,
    beyond_rounding=3,
    allowed_share=None,
)


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (TENSOR, "it: 3 of 1,000 integers of conv1 differ by up to 2 (none may)."),
        (
            TENSOR.model_copy(update={"allowed_share": 0.001}),
            "it: 3 of 1,000 integers of conv1 differ by up to 2 (0.1% may, by 1).",
        ),
        (
            TENSOR.model_copy(update={"beyond_rounding": 1}),
            "it: 3 of 1,000 integers of conv1 differ by up to 2 (2 of them by rounding in another order, which may).",
        ),
        (
            f.LogitsDiffer(target="it", difference=0.00123, allowed=1e-5),
            "it: its logits differ from the reference's by 1.2e-03 of the largest (1e-05 is allowed).",
        ),
        (
            f.LogitsDiffer(target="it", difference=0.00123, allowed=None),
            "it: its logits differ from the reference's by 1.2e-03 of the largest (they may not).",
        ),
        (
            f.InstrumentsDisturb(target="it"),
            "it: looking at its integers changes its logits; the comparison says nothing about it.",
        ),
        (
            f.LayersNotInt8(target="it", layers=dict.fromkeys("abcde", "HALF"), of=20),
            "it: 5 of 20 layers do not multiply INT8 in the engine: a (HALF), b (HALF), c (HALF), d (HALF).",
        ),
        (
            f.AccuracyLost(
                target="it", top1=86, fake_quant_top1=90, images=1000, became_wrong=50, became_right=10, allowed=23.2
            ),
            "it: its top-1 is 86.00, below the fake-quant module's 90.00: of 1,000 answers 50 became wrong and 10 "
            "right, and 23 more wrong than right are allowed.",
        ),
    ],
)
def test_failures(failure, sentence):
    assert failure_sentence(failure) == sentence


@pytest.mark.parametrize(
    ("warning", "sentence"),
    [
        (f.NotOnProvider(target="it", reason="It is absent."), "it was not run on its provider. It is absent."),
        (
            f.FloatKernels(target="it", kernels={"Conv": 2, "Gemm": 1}),
            "it: 2 Conv, 1 Gemm run in float; `intraq-deploy inspect` says why.",
        ),
        (
            f.LayersLeftInFloat(target="it", layers=2),
            "it: 2 layers that could run on integers run in float: the results are right, and slower than they could "
            "be.",
        ),
        (
            f.UnderusedTensors(target="it", tensors=list("abcde")),
            "it: 5 tensors use less than half of their codes (a, b, c, d).",
        ),
        (
            f.LargerThanAsked(target="it", bytes=3 << 20, stored_bytes=1 << 20, max_size=1.5),
            "it: its file has 3.00 MiB; --max-size 1.5 counts codes, scales and biases (1.00 MiB), and the file also "
            "holds a graph and may store codes wider.",
        ),
        (
            f.SlowerThanFloat(target="it", milliseconds=2.5, float_milliseconds=2),
            "it: an image takes 2.50 ms here, and in float32 2.00 ms: on this CPU the quantized file is smaller, not "
            "faster.",
        ),
        (
            f.NumberedFolders(target="float", top1=16.67, sorted_top1=100),
            "The class folders are numbers, and were taken as class indices: float top-1 is 16.67 %. Sorted as text "
            "(0, 1, 10, ...), as torchvision's ImageFolder takes them, it is 100.00 %: for that order give --classes, "
            "a file with one folder name per line, in that order.",
        ),
        (
            f.EmptyClassFolders(target="float", folders=["cat"]),
            "1 class folder has no image of a known format (cat), and did not count.",
        ),
        (
            f.EmptyClassFolders(target="float", folders=list("abcde")),
            "5 class folders have no image of a known format (a, b, c, d), and did not count.",
        ),
        (
            f.FloatInaccurate(target="float", top1=8, confidence=93, chance=10),
            "The float network itself is right on 8.00 % of the labelled images, and on average 93 % sure (one answer "
            "for all would get 10.0 %): probably the order of the classes (--classes) is not that of its outputs, or "
            "--mean, --std, --input-size are not those of its training.",
        ),
    ],
)
def test_warnings(warning, sentence):
    assert warning_sentence(warning) == sentence


def advice(verdict, **figures):
    given = {"lost": 1.3, "w8a8_lost": 0.1, "speed": 1.0, "float_speed": 0.7, "size": 0.55} | figures
    return advice_sentence(Advice(target="it", verdict=verdict, **given), "W4A4", "W4")


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (advice("only-w8a8"), "W4A4 loses 1.3 points against float32."),
        (advice("only-w8a8", lost=-0.3), "W4A4 gains 0.3 points against float32."),
        (advice("only-w8a8", lost=-0.04), "W4A4 loses nothing against float32."),
        (
            advice("only-w8a8", lost=-0.3, images=1000),
            "As far as 1,000 images tell, W4A4 loses nothing against float32.",
        ),
        (
            advice("equal", lost=0.5, images=1000),
            "As far as 1,000 images tell, W4A4 loses nothing, W8A8 loses nothing, and they are equally fast here: "
            "ship W4A4 (W4A4's file has 0.55 times the size of W8A8's).",
        ),
        (
            advice("timed-apart", speed=None, float_speed=None),
            "W4A4 loses 1.3 points, W8A8 loses 0.1 points. it was timed on the GPU and W8A8 on the CPU, so their times "
            "do not compare. Both would run in the same INT8 kernels.",
        ),
        (
            advice("not-timed", speed=None, float_speed=None),
            "W4A4 loses 1.3 points, W8A8 loses 0.1 points. How fast they are is measured on the device.",
        ),
        (
            advice("float-is-fastest", float_speed=2.0),
            "float32 is 2.0x as fast here as W4A4 or W8A8: quantize this network for size, not for speed. W4A4 loses "
            "1.3 points, W8A8 loses 0.1 points.",
        ),
        (
            advice("low-bits-are-faster", speed=2.0),
            "W4A4 is 2.0x as fast as W8A8. W4A4 loses 1.3 points, W8A8 loses 0.1 points.",
        ),
        (
            advice("w8a8"),
            "W4A4 loses 1.3 points, W8A8 loses 0.1 points and is as fast: ship W8A8, unless size counts (W4A4's file "
            "has 0.55 times the size of W8A8's).",
        ),
        (
            advice("w8a8", speed=0.5),
            "W4A4 loses 1.3 points, W8A8 loses 0.1 points and is 2.0x as fast: ship W8A8, unless size counts (W4A4's "
            "file has 0.55 times the size of W8A8's).",
        ),
        (
            advice("w8a8-is-faster", lost=0.1, speed=0.5),
            "W4A4 loses 0.1 points, W8A8 loses 0.1 points and is 2.0x as fast: ship W8A8 for speed, W4A4 for size "
            "(W4A4's file has 0.55 times the size of W8A8's).",
        ),
        (
            advice("w8a8", a8_lost=0.6),
            "W4A4 loses 1.3 points, W8A8 loses 0.1 points and is as fast: ship W8A8, unless size counts (W4A4's file "
            "has 0.55 times the size of W8A8's). In INT8 kernels, activations of fewer than 8 bits make it neither "
            "smaller nor faster: W4A8 (--activation-bits 8) usually loses less.",
        ),
    ],
)
def test_advice(sentence, expected):
    assert sentence == expected
