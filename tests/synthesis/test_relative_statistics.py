"""Statistics in units of the stored deviations."""

import torch

from intraq_deploy.synthesis.objectives import statistics_distance
from intraq_deploy.synthesis.relative_statistics import RelativeStatistics

MEANS = [torch.tensor([0.0, 5.0, -1.0]), torch.tensor([2.0])]
VARIANCES = [torch.tensor([1.0, 100.0, 0.04]), torch.tensor([9.0])]


def distances(scale, means, variances):
    relative = RelativeStatistics([scale * m for m in MEANS], [scale**2 * v for v in VARIANCES])
    return (
        statistics_distance(relative.means([scale * m for m in means]), relative.stored_means),
        statistics_distance(relative.deviations([scale**2 * v for v in variances]), relative.stored_deviations),
    )


def test_the_stored_statistics_have_distance_zero():
    for distance in distances(1.0, MEANS, VARIANCES):
        assert float(distance) < 1e-12


def test_the_size_of_a_networks_values_does_not_matter():
    means, variances = [m + 0.3 for m in MEANS], [1.5 * v for v in VARIANCES]
    for small, large in zip(distances(1.0, means, variances), distances(100.0, means, variances), strict=True):
        torch.testing.assert_close(small, large)
        assert float(small) > 1e-4


def test_a_channel_counts_by_its_own_deviation():
    one = [torch.tensor([1.0, 5.0, -1.0]), MEANS[1]]  # one deviation of a channel of deviation 1
    other = [torch.tensor([0.0, 15.0, -1.0]), MEANS[1]]  # one of a channel of deviation 10
    torch.testing.assert_close(
        distances(1.0, one, VARIANCES)[0], distances(1.0, other, VARIANCES)[0], rtol=0.05, atol=0
    )


def test_shallow_layers_weigh_less():
    batch, stored = [torch.ones(2), torch.zeros(2)], [torch.zeros(2), torch.zeros(2)]
    torch.testing.assert_close(statistics_distance(batch, stored, 0.25), torch.tensor(0.25 / 1.25))
    torch.testing.assert_close(statistics_distance(batch, stored), torch.tensor(0.5))
