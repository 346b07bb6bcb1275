"""Calibration of confidence, on numbers worked out by hand."""

import pytest
import torch

from intraq_deploy.evaluation.accuracy import evaluate
from intraq_deploy.evaluation.reliability import BINS, reliability


def test_two_bins():
    """Of a hundred percent sure half are right, of fifty percent sure all: half off in both."""
    probability = torch.tensor([1.0, 1.0, 0.5, 0.5])
    found = reliability(probability, torch.tensor([True, False, True, True]))
    assert found.error == pytest.approx(50.0)
    assert found.images.tolist() == [0] * 7 + [2] + [0] * 6 + [2]
    assert (found.confidence[7], found.right[7]) == (50, 100)
    assert (found.confidence[14], found.right[14]) == (100, 50)
    assert len(found.images) == BINS


def test_a_sure_network_that_is_right_has_no_error():
    assert reliability(torch.ones(3), torch.ones(3, dtype=torch.bool)).error == 0


def test_accuracy_has_the_probability_of_each_answer():
    logits = torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    accuracy = evaluate(lambda _: logits, [(torch.zeros(2, 3, 4, 4), torch.tensor([1, 0]))])
    assert accuracy.probability.tolist() == [0.5, 1.0]
    assert accuracy.confidence == 75
