"""The rounding rules, and the enumerations that find where runtimes would disagree."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intraq_deploy.program import arithmetic as a
from intraq_deploy.program.program import Grid

BYTE = Grid(0.05, 8, -128, 127, -128)
SCALES = st.floats(2**-10, 8, width=32)


def grid(scale, low=-128, high=127):
    return Grid(a.f32(scale), 8, low, high, low)


@given(scale=SCALES, low=st.integers(-128, 0))
@settings(max_examples=200, deadline=None)
def test_requantizing_a_grid_changes_nothing(scale, low):
    """Rule behind every operator that moves data: Q(DQ(c)) = c, for every scale."""
    bounds = grid(scale, low, 255 + low)
    codes = torch.arange(bounds.code_min, bounds.code_max + 1, dtype=torch.float32)
    assert torch.equal(a.quantize(a.dequantize(codes, bounds), bounds), codes)


@given(scale=SCALES, high=st.floats(0.125, 20, width=32), seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_clipping_codes_is_clipping_values(scale, high, seed):
    """ReLU-like functions in front of a quantizer become integer bounds."""
    values = torch.randn(2000, generator=torch.Generator().manual_seed(seed)) * 10
    full = grid(scale)
    bound = int(a.quantize(torch.tensor(high), full))
    narrow = grid(scale, 0, bound)
    assert torch.equal(a.quantize(values.clamp(0, high), full), a.quantize(values, narrow))


def test_ties_go_to_even():
    codes = a.quantize(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), grid(1.0))
    assert codes.tolist() == [0, 2, 2, 0, -2]


def test_sums_on_aligned_scales_are_ambiguous_and_a_nudge_helps():
    """(s, s, 2s) puts every odd sum on a tie; the forms then differ for many pairs."""
    aligned = a.add_disagreements(grid(0.1), grid(0.1), grid(0.2))
    assert aligned > 1000
    assert a.add_disagreements(grid(0.1), grid(0.1), grid(0.2 * (1 + 3e-6))) < aligned / 10


def test_the_forms_of_a_sum_rarely_disagree_elsewhere():
    generator = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(40):
        x, y, z = (0.01 + torch.rand(3, generator=generator)).tolist()
        counts.append(a.add_disagreements(grid(x), grid(y), grid(z)))
    assert sum(counts) / len(counts) < 3
    assert 0 in counts


def test_fixed_point_sums_round_half_away_from_zero():
    """ONNX Runtime's on arm64; the other forms round half to even."""
    codes = torch.tensor([0.0, 1, 3, 5, -1, -3])
    y = a._add_fixed_point(codes, torch.zeros(6), grid(0.1), grid(0.1), grid(0.2))
    assert y.tolist() == [0, 1, 2, 3, -1, -2]
    assert a.add(codes, torch.zeros(6), grid(0.1), grid(0.1), grid(0.2)).tolist() == [0, 0, 2, 2, 0, -2]


def test_the_mean_of_codes_is_the_rounded_mean():
    x, y = Grid(a.f32(0.1), 4, 0, 15, 0), grid(0.07)
    codes = torch.randint(0, 16, (100, 49), generator=torch.Generator().manual_seed(0))
    expected = (codes.double().mean(1) * 0.1 / 0.07).round()
    assert torch.equal(a.average(codes.sum(1), 49, x, y), expected.float())


def test_means_on_aligned_scales_are_ambiguous():
    assert a.average_disagreements(3, Grid(a.f32(0.3), 4, 0, 15, 0), grid(0.2)) > 0


@pytest.mark.parametrize(
    ("multiplier", "common"),
    [(0.5, True), (2.0**-10, True), (0.75, True), (2.0**-20, False), (1 / 3, False), (0.0123456, False), (0.0, False)],
)
def test_ties_are_common_near_powers_of_two(multiplier, common):
    assert a.ties_are_common(torch.tensor([multiplier])).tolist() == [common]


@given(st.integers(1, 2**24 - 1), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_a_multiplier_called_tie_prone_has_a_tie(mantissa, exponent):
    """By the definition: the smallest accumulator on a tie is 2^(e - 1), with m = p / 2^e and p odd."""
    multiplier = torch.tensor([mantissa * 2.0**-exponent], dtype=torch.float64).float()
    value = float(multiplier)
    tie = next((k for k in range(17) if (value * 2**k) % 1 == 0.5), None)
    assert bool(a.ties_are_common(multiplier)) == (tie is not None and tie < 16)
