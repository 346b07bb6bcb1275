"""The loss terms against their definitions, written out with loops."""

import pytest
import torch
from torch.nn import functional as F

from intraq_deploy.synthesis import objectives


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_statistics_distance_is_a_mean_over_layers_of_means_over_channels():
    batch, stored = torch.tensor([1.0, 3.0, 0.0, 0.0, 0.0, 2.0]), torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    shares = objectives.channel_shares([2, 4])
    assert float(objectives.statistics_distance(batch, stored, shares)) == pytest.approx(((1 + 4) / 2 + 4 / 4) / 2)
    assert float(objectives.statistics_distance(stored, stored, shares)) == 0


def test_soft_inception_sees_the_target_class_only():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    labels, targets = torch.tensor([0, 2]), torch.tensor([1.0, 0.6])
    p = [F.softmax(logits[0], 0)[0], F.softmax(logits[1], 0)[2]]
    expected = ((p[0] - 1.0) ** 2 + (p[1] - 0.6) ** 2) / 2
    torch.testing.assert_close(objectives.soft_inception(logits, labels, targets), expected)


def test_marginal_distance_keeps_images_between_two_radii():
    features, centres = torch.randn(40, 8, generator=generator()), torch.randn(5, 8, generator=generator(1))
    labels = torch.arange(40) % 5
    known = torch.tensor([True, True, False, True, False])
    below, above = objectives.marginal_distance(features, centres, known, labels, 0.7, 1.1)
    near = far = count = 0.0
    for x, label in zip(features, labels, strict=True):
        if known[label]:
            d = 1 - float(F.cosine_similarity(x, centres[label], dim=0))
            near, far, count = near + max(0.7 - d, 0), far + max(d - 1.1, 0), count + 1
    assert float(below) == pytest.approx(near / count, rel=1e-5)
    assert float(above) == pytest.approx(far / count, rel=1e-5)


def test_marginal_distance_is_nothing_without_centres():
    features = torch.randn(4, 3, generator=generator(), requires_grad=True)
    known = torch.zeros(2, dtype=torch.bool)
    below, above = objectives.marginal_distance(
        features, torch.zeros(2, 3), known, torch.tensor([0, 1, 0, 1]), 0.5, 0.6
    )
    assert below.item() == above.item() == 0
    (below + above).backward()
    assert bool(torch.isfinite(features.grad).all())
