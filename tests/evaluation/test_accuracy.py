"""Counting right answers, and timing side by side."""

import time

import pytest
import torch

from intraq_deploy.evaluation.accuracy import evaluate
from intraq_deploy.evaluation.latency import interleaved, medians
from intraq_deploy.evaluation.parity import agreement


def test_top1_and_top5_over_uneven_batches():
    logits = torch.eye(8)[[0, 1, 2, 3, 4]] + torch.linspace(0, 0.1, 8)
    labels = torch.tensor([0, 1, 2, 7, 0])
    batches = [(logits[:3], labels[:3]), (logits[3:], labels[3:])]
    result = evaluate(lambda x: x, batches)
    assert result.images == 5
    assert result.top1 == pytest.approx(60)
    assert result.top5 == pytest.approx(80)


def test_few_classes_have_a_top5_of_all():
    result = evaluate(lambda x: x, [(torch.tensor([[0.0, 1.0, 0.5]]), torch.tensor([0]))])
    assert (result.top1, result.top5) == (0, 100)


def test_agreement_is_in_percent():
    assert agreement(torch.eye(4), torch.eye(4)[[0, 1, 3, 2]]) == 50


def test_medians_are_paired_and_in_milliseconds():
    calls = []
    runs = {"slow": lambda: (calls.append("slow"), time.sleep(0.004)), "fast": lambda: calls.append("fast")}
    found = medians(interleaved(runs, rounds=16, seconds=0.1, threads=1))
    assert found["slow"] >= 4 > found["fast"] > 0
    assert calls[:2] == ["slow", "slow"], "warm before any is timed"
    assert calls.count("slow") == calls.count("fast") >= 3 + 2 * 15
