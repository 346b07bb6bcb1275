"""When a deployed network answers worse than the one that was trained."""

import pytest
import torch

from intraq_deploy.evaluation.accuracy import Accuracy, evaluate
from intraq_deploy.pipeline.gate import accuracy_failures


def accuracy(wrong: slice, images: int) -> Accuracy:
    """Of a network that is right except on the images `wrong`."""
    logits = torch.tensor([[1.0, 0.0]]).repeat(images, 1)
    logits[wrong] = torch.tensor([0.0, 1.0])
    return evaluate(lambda x: x, [(logits, torch.zeros(images, dtype=torch.int64))])


@pytest.mark.parametrize(
    ("images", "trained", "deployed", "passes"),
    [
        (1000, slice(0, 100), slice(0, 103), True),  # three images
        (1000, slice(0, 100), slice(0, 110), False),  # ten, none gained
        (1000, slice(0, 100), slice(10, 120), True),  # twenty lost, ten gained
        (1000, slice(0, 100), slice(10, 150), False),  # fifty lost, ten gained
        (10_000, slice(0, 800), slice(0, 810), True),  # a tenth of a point
        (10_000, slice(0, 800), slice(100, 930), True),  # 130 lost, 100 gained
        (10_000, slice(0, 800), slice(0, 820), False),
        (1000, slice(0, 100), slice(0, 0), True),  # better is no failure
    ],
)
def test_more_lost_than_chance_takes_fails(images, trained, deployed, passes):
    found = accuracy_failures("onnxruntime", {"fake_quant": accuracy(trained, images),
                                              "onnxruntime": accuracy(deployed, images)})  # fmt: skip
    assert (not list(found)) == passes


def test_a_failure_says_what_was_lost():
    accuracies = {"fake_quant": accuracy(slice(0, 100), 1000), "onnxruntime": accuracy(slice(10, 150), 1000)}
    (found,) = accuracy_failures("onnxruntime", accuracies)
    assert (found.target, found.top1, found.fake_quant_top1) == ("onnxruntime", 86, 90)
    assert (found.images, found.became_wrong, found.became_right) == (1000, 50, 10)
    assert found.allowed == pytest.approx(3 * 60**0.5)
