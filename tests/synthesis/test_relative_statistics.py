"""Statistics in units of the stored deviations."""

import torch

from intraq_deploy.synthesis.objectives import channel_shares, statistics_distance
from intraq_deploy.synthesis.relative_statistics import RelativeStatistics

MEANS = [torch.tensor([0.0, 5.0, -1.0]), torch.tensor([2.0])]
WIDTHS = [3, 1]
VARIANCES = [torch.tensor([1.0, 100.0, 0.04]), torch.tensor([9.0])]


def distances(scale, means, variances):
    relative = RelativeStatistics(scale * torch.cat(MEANS), scale**2 * torch.cat(VARIANCES), WIDTHS)
    shares = channel_shares(WIDTHS)
    deviations = relative.deviations(scale**2 * torch.cat(variances))
    return (
        statistics_distance(relative.means(scale * torch.cat(means)), relative.stored_means, shares),
        statistics_distance(deviations, relative.stored_deviations, shares),
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
    batch, stored = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.zeros(4)
    for weight, expected in ((0.25, 0.25 / 1.25), (1.0, 0.5)):
        shares = channel_shares([2, 2], weight)
        torch.testing.assert_close(statistics_distance(batch, stored, shares), torch.tensor(expected))
