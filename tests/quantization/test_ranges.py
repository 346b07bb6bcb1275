"""Where scales start."""

import pytest
import torch
from support import SMALL_SHAPE, random_images, small_network

from intraq_deploy.graph.trace import trace
from intraq_deploy.quantization.placement import place
from intraq_deploy.quantization.ranges import EXPONENT, _Extremes, calibrate, range_of, search, search_weight
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.quantization.spec import activation_spec, code_bounds, weight_spec


def error(values, candidate, spec):
    low, high = code_bounds(spec, candidate.zero_point)
    quantized = (values / candidate.scale).round().clamp(low, high) * candidate.scale
    return float((quantized - values).abs().pow(EXPONENT).sum())


@pytest.mark.parametrize("spec", [activation_spec(4), activation_spec(3), activation_spec(8, symmetric=True)], ids=str)
def test_the_search_beats_the_full_range(spec):
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).relu() ** 2
    full = range_of(float(values.min()), float(values.max()), spec)
    found = search(values, spec)
    assert error(values, found, spec) <= error(values, full, spec)
    if spec.bits < 8:
        assert found.scale < 0.9 * full.scale


def test_the_search_is_near_the_best_of_a_finer_grid():
    spec, values = activation_spec(4), torch.rand(5000, generator=torch.Generator().manual_seed(0)) ** 3
    fine = min(error(values, range_of(0, f, spec), spec) for f in torch.linspace(0.05, 1, 2000).tolist())
    assert error(values, search(values, spec), spec) <= 1.05 * fine


def test_weights_are_searched_per_channel():
    weight = (
        torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-3, 2, 6)[:, None, None, None]
    )
    together = search_weight(weight, weight_spec(4))
    apart = torch.cat([search_weight(row[None], weight_spec(4)) for row in weight])
    torch.testing.assert_close(together, apart)
    assert bool((together > 0).all())


def test_ranges_cover_zero():
    assert range_of(2.0, 5.0, activation_spec(4)) == range_of(0.0, 5.0, activation_spec(4))
    assert range_of(0.0, 0.0, activation_spec(4)).scale > 0


def test_averaged_extremes_are_corrected_from_the_first_batch_on():
    observer = _Extremes()
    for _ in range(3):
        observer.see(torch.tensor([-1.0, 4.0]))
        observer.end_batch()
        assert observer.bounds() == pytest.approx((-1.0, 4.0))


def test_parts_of_a_concatenation_are_one_batch():
    """In any order."""
    parts = torch.tensor([-1.0, 1.0]), torch.tensor([0.0, 40.0])
    for order in (parts, parts[::-1]):
        observer = _Extremes()
        for _ in range(3):
            for part in order:
                observer.see(part)
            observer.end_batch()
        assert observer.bounds() == pytest.approx((-1.0, 40.0))


@pytest.mark.parametrize("scheme", ["integer", "paper"])
def test_calibration_is_reproducible_and_complete(scheme):
    graph, chosen = trace(small_network("resnet"), SMALL_SHAPE), make_scheme(scheme, 4, 4)
    placement, images = place(graph, chosen), random_images(70)
    first = calibrate(graph, placement, images, chosen.ranges, seed=3)
    assert list(first) == placement.quantized()
    assert first == calibrate(graph, placement, images, chosen.ranges, seed=3)
    assert first["conv1"].zero_point == 0, "behind a ReLU"
