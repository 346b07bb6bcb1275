"""When a deployed network answers worse than the one that was trained."""

import pytest
import torch

from intraq_deploy.data.labelled import LabelledImages
from intraq_deploy.evaluation.accuracy import Accuracy, evaluate
from intraq_deploy.models.model import Preprocessing
from intraq_deploy.pipeline.comparison import ComparisonRow
from intraq_deploy.pipeline.gate import accuracy_failures, eval_warnings, speed_warnings


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


@pytest.mark.parametrize(
    ("milliseconds", "note", "slower"),
    [(1.9, None, False), (2.08, None, False), (2.12, None, True), (9.0, "on a GPU", False), (None, None, False)],
)
def test_a_file_that_is_slower_than_float_is_warned_of(milliseconds, note, slower):
    def row(name, time, **more):
        return ComparisonRow(name=name, top1=None, top5=None, bytes=1, milliseconds=time, **more)

    rows = [row("float32", 2.0), row("it", milliseconds, note=note)]
    found = list(speed_warnings(rows, {"it": None}))
    assert [(each.target, each.milliseconds, each.float_milliseconds) for each in found] == (
        [("it", milliseconds, 2.0)] if slower else []
    )


def labelled(labels, **more):
    """Images that are never read."""
    return LabelledImages("photos", labels, None, Preprocessing((8, 8), (0.5,), (0.5,)), **more)


def measured(answers, labels, logit=5.0, classes=12):
    """The accuracy of a network that gives these answers, and is as sure as the logit."""
    logits = logit * torch.nn.functional.one_hot(answers, classes).float()
    return evaluate(lambda x: x, [(logits, labels)])


LABELS = torch.arange(12).repeat(5)


def test_numbered_folders_are_warned_of_with_both_accuracies():
    as_text = torch.tensor(sorted(range(12), key=str)).argsort()[LABELS]
    accuracy = measured(as_text, LABELS)
    found = {each.kind: each for each in eval_warnings(labelled(LABELS, sorted_labels=as_text), accuracy)}
    assert found["numbered-folders"].top1 == pytest.approx(100 * 2 / 12)
    assert found["numbered-folders"].sorted_top1 == 100
    assert found["float-inaccurate"].top1 == pytest.approx(100 * 2 / 12)
    assert not list(eval_warnings(labelled(LABELS), measured(LABELS, LABELS)))


@pytest.mark.parametrize(
    ("answers", "logit", "images", "doubted"),
    [
        (LABELS, 5.0, 60, False),
        (LABELS.roll(1), 5.0, 60, True),  # sure and wrong
        (torch.zeros_like(LABELS), 0.1, 60, True),  # one answer for all, and not sure
        (torch.where(torch.arange(60) % 3 == 0, LABELS, 0), 0.1, 60, False),  # few right, and not sure
        (LABELS.roll(1), 5.0, 12, False),  # too few to tell
    ],
    ids=["right", "sure-and-wrong", "one-answer", "unsure", "few"],
)
def test_a_float_network_that_is_wrong_is_doubted(answers, logit, images, doubted):
    accuracy = measured(answers[:images], LABELS[:images], logit)
    kinds = [each.kind for each in eval_warnings(labelled(LABELS[:images]), accuracy)]
    assert kinds == ["float-inaccurate"] * doubted


def test_empty_class_folders_are_named():
    found = list(eval_warnings(labelled(LABELS, empty=("cat",)), measured(LABELS, LABELS)))
    assert [(each.kind, each.folders) for each in found] == [("empty-class-folders", ["cat"])]
