"""Compensated rounding: what it leaves of the output's error, and inputs that carry nothing."""

from dataclasses import replace

import pytest
import torch

from intraq_deploy.quantization.spec import weight_spec
from intraq_deploy.training import compensation
from intraq_deploy.training.compensation import _DAMPINGS, best_damping, compensated
from intraq_deploy.training.moments import Moments, MomentSums

SHAPES = {"dense": (1, 24, 96), "depthwise": (32, 1, 9), "grouped": (4, 6, 27)}


def moments_of(rows, student, teacher):
    """Moments of a layer of weights `rows` that is to give what it gives on the teacher's inputs."""
    sums = MomentSums(rows.shape, torch.device("cpu"))
    sums.add(student.float(), (teacher.double() @ rows.mT).float())
    return sums.moments()


def random_moments(rows, patches=2000, noise=0.0, seed=0):
    """Moments of correlated inputs; the student's are the teacher's with noise."""
    generator, (groups, _, values) = torch.Generator().manual_seed(seed), rows.shape
    mixing = torch.randn(groups, values, values, generator=generator) / values**0.5
    teacher = torch.randn(groups, patches, values, generator=generator) @ mixing + 1
    student = teacher + noise * torch.randn(teacher.shape, generator=generator)
    return moments_of(rows, student, teacher), student.double(), teacher.double()


def random_rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def error(fitted, rows, student, teacher):
    """The centred error of the outputs, relative to the outputs."""
    y, t = student @ fitted.mT, teacher @ rows.mT
    y, t = y - y.mean(1, keepdim=True), t - t.mean(1, keepdim=True)
    return float((y - t).square().sum() / t.square().sum())


def nearest(rows, spec):
    """Every weight rounded by itself, with the same search of steps."""
    unit = torch.eye(rows.shape[2], dtype=torch.float64).expand(rows.shape[0], -1, -1)
    zero = torch.zeros(rows.shape[0], rows.shape[2], dtype=torch.float64)
    codes, scale = compensated(rows, Moments(unit, rows, zero, rows[:, :, 0] * 0), spec, 1e-9, parts=1)
    return codes * scale[:, :, None]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_outputs_error_falls_below_that_of_the_nearest_codes(shape, bits):
    spec, rows = weight_spec(bits), random_rows(*SHAPES[shape])
    found, student, teacher = random_moments(rows)
    codes, scale = compensated(rows, found, spec, 0.01, parts=1)
    low, high = spec.symmetric_range()
    assert torch.equal(codes, codes.round())
    assert low <= codes.min()
    assert codes.max() <= high
    plain = error(nearest(rows, spec), rows, student, teacher)
    assert error(codes * scale[:, :, None], rows, student, teacher) < 0.75 * plain


def test_what_the_layers_before_did_is_undone():
    """The student's input is the teacher's, other channels mixed in: at 8 bits next to nothing is left of it."""
    rows = random_rows(1, 16, 24)
    *_, teacher = random_moments(rows)
    mixed = teacher @ (torch.eye(24) + 0.2 * torch.randn(24, 24, generator=torch.Generator().manual_seed(1))).double()
    codes, scale = compensated(rows, moments_of(rows, mixed, teacher), weight_spec(8), 1e-6, parts=1)
    assert error(rows, rows, mixed, teacher) > 0.1
    assert error(codes * scale[:, :, None], rows, mixed, teacher) < 1e-3


def halves(rows, patches):
    """Moments of each of two draws, whose mixing is one: few patches tell little of it."""
    _, student, teacher = random_moments(rows, 2 * patches, noise=1.0)
    return [moments_of(rows, x, t) for x, t in zip(student.chunk(2, 1), teacher.chunk(2, 1), strict=True)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_damping_is_the_one_that_errs_least_on_the_other_half(shape):
    rows, spec = random_rows(*SHAPES[shape]), weight_spec(4)
    importance = torch.ones(rows.shape[:2], dtype=torch.float64)
    few, many = (best_damping(rows, halves(rows, count), spec, importance, parts=1) for count in (30, 20_000))
    assert few > many
    first, second = halves(rows, 30)
    errors = {}
    for damping in _DAMPINGS:
        codes, scale = compensated(rows, first, spec, damping, parts=1)
        y = codes * scale[:, :, None]
        gain = (first.cross * y).sum(2) / ((y @ first.covariance) * y).sum(2)
        error = gain**2 * ((y @ second.covariance) * y).sum(2) - 2 * gain * (second.cross * y).sum(2)
        errors[damping] = float(error.sum())
    # It searches less than `compensated` does, so that two may change places that are nearly as good.
    worst = max(errors.values())
    assert errors[few] - min(errors.values()) < 0.2 * (worst - min(errors.values()))


def test_a_row_that_counts_for_nothing_has_no_say():
    rows, spec = random_rows(1, 2, 40), weight_spec(4)
    found = halves(rows, 60)
    one = [replace(half, cross=half.cross[:, :1], target_mean=half.target_mean[:, :1]) for half in found]
    importance = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert best_damping(rows, found, spec, importance, parts=1) == best_damping(
        rows[:, :1], one, spec, importance[:, :1], parts=1
    )


def test_with_one_image_the_ridge_is_the_greatest():
    rows = random_rows(1, 4, 9)
    importance = torch.ones(1, 4, dtype=torch.float64)
    assert best_damping(rows, halves(rows, 100)[:1], weight_spec(4), importance, parts=1) == max(_DAMPINGS)


def test_with_much_damping_weights_stay_where_they_were():
    rows, spec = random_rows(1, 8, 24), weight_spec(8)
    found, *_ = random_moments(rows, noise=1.0)
    codes, scale = compensated(rows, found, spec, 1e5, parts=1)
    assert ((codes * scale[:, :, None] - rows).abs() <= 0.51 * scale[:, :, None]).all()


def test_blocks_of_columns_change_nothing(monkeypatch):
    rows = random_rows(1, 8, 96)
    found, *_ = random_moments(rows)
    codes = []
    for block in (1, 40, 500):
        monkeypatch.setattr(compensation, "_BLOCK", block)
        codes.append(compensated(rows, found, weight_spec(4), 0.1, parts=1)[0])
    assert torch.equal(codes[0], codes[1])
    assert torch.equal(codes[1], codes[2])


def test_rows_are_solved_alike_however_many_at_a_time(monkeypatch):
    rows = random_rows(1, 8, 96)
    found, *_ = random_moments(rows)
    whole = compensated(rows, found, weight_spec(4), 0.1, parts=1)
    monkeypatch.setattr(compensation, "_AT_ONCE", 3 * 96)
    for one, other in zip(whole, compensated(rows, found, weight_spec(4), 0.1, parts=1), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", SHAPES)
def test_more_steps_and_moving_codes_again_leave_less_error(shape, monkeypatch):
    spec, rows = weight_spec(4), random_rows(*SHAPES[shape])
    found, student, teacher = random_moments(rows, noise=0.3)
    errors = []
    for steps, sweeps in (((1.0,), 0), (compensation._AROUND, 0), (compensation._AROUND, 4)):
        monkeypatch.setattr(compensation, "_AROUND", steps)
        monkeypatch.setattr(compensation, "_SWEEPS", sweeps)
        codes, scale = compensated(rows, found, spec, 1e-6, parts=1)
        errors.append(error(codes * scale[:, :, None], rows, student, teacher))
    assert errors[0] > errors[1] > errors[2]


def test_no_single_code_can_move_for_the_better(monkeypatch):
    monkeypatch.setattr(compensation, "_SWEEPS", 100)
    rows, spec = random_rows(2, 4, 12), weight_spec(3)
    found, student, teacher = random_moments(rows)
    codes, scale = compensated(rows, found, spec, 1e-9, parts=1)
    least = error(codes * scale[:, :, None], rows, student, teacher)
    low, high = spec.symmetric_range()
    for group in range(2):
        for row in range(4):
            for column in range(12):
                for by in (-1, 1):
                    other = codes.clone()
                    other[group, row, column] += by
                    if low <= other[group, row, column] <= high:
                        assert error(other * scale[:, :, None], rows, student, teacher) > least - 1e-9


def test_parts_share_their_steps():
    rows = random_rows(3, 8, 32)
    found, student, teacher = random_moments(rows)
    codes, scale = compensated(rows, found, weight_spec(4), 0.1, parts=3)
    assert scale.shape == (3, 8)
    assert torch.equal(scale[0], scale[2])
    assert error(codes * scale[:, :, None], rows, student, teacher) < 0.05


@pytest.mark.parametrize("inputs", ["constant", "one patch", "a dead channel", "huge", "tiny"])
def test_inputs_that_carry_nothing_leave_finite_weights(inputs):
    rows = random_rows(2, 4, 9)
    patches = torch.randn(2, 50, 9, generator=torch.Generator().manual_seed(3))
    if inputs == "constant":
        patches[:] = 3
    elif inputs == "one patch":
        patches = patches[:, :1]
    elif inputs == "a dead channel":
        patches[:, :, 4] = 0
        rows[:, :, 5] = 0
    else:
        patches *= 1e15 if inputs == "huge" else 1e-15
    codes, scale = compensated(rows, moments_of(rows, patches, patches), weight_spec(4), 0.01, parts=1)
    assert codes.isfinite().all()
    assert (scale > 0).all()
    assert ((codes * scale[:, :, None] - rows).square().mean() < 0.2 * rows.square().mean()).all()
