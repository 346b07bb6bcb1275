"""Integer arithmetic as runtimes do it, and the enumerations that show where their forms agree.

A runtime is free to compute a sum, a product, a mean or a function of quantized tensors in several ways that differ in
the last bit, and so, near ties, in the code. Where the inputs' codes are few, all of them can be tried:
`add_disagreements` and `multiply_disagreements` run every pair of codes, `average_disagreements` every possible sum,
`unary_disagreements` every code. A grid for which all forms agree is safe on every runtime.
Everything here is float32 on the CPU unless it says float64; torch rounds half to even and never fuses.
"""

import math

import torch
from torch import Tensor

from intraq_deploy.graph.execute import FUNCTIONS
from intraq_deploy.graph.ops import Unary
from intraq_deploy.program.program import Grid

F32 = torch.float32
_COMMON_TIE = 1 << 16
_SMALL_ACCUMULATOR = 1 << 10
_NEAR = 5e-7
"""The relative error that summing a few hundred products in float32 leaves open."""
_SMALLEST_SUM = 64.0
"""Accumulators below it are sums whose parts cancel: their error is no smaller than this one's (3e-5 accumulator
steps; ResNet-20 at W3A3: 5e-6 in the mean, 1e-4 at most)."""
_FUNCTION_ERROR = 1e-6
"""A relative error: several times what the float32 kernels of torch and ONNX Runtime leave open (tests/targets)."""


def f32(value: float) -> float:
    """Returns `value` rounded to float32."""
    return float(torch.tensor(value, dtype=F32))


def quantize(x: Tensor, grid: Grid) -> Tensor:
    """Quantizes values, float32 [N, ...], to codes, float32 integers of the same shape: clip(rint(x / scale))."""
    return (x / torch.tensor(grid.scale, dtype=F32, device=x.device)).round_().clamp_(grid.code_min, grid.code_max)


def quantize_by_reciprocal(x: Tensor, grid: Grid) -> Tensor:
    """Quantizes as TensorRT does: clip(rint(x f32(1 / scale))). x: float32 [N, ...] -> float32 integers [N, ...]."""
    reciprocal = 1 / torch.tensor(grid.scale, dtype=F32)
    return (x * reciprocal).round_().clamp_(grid.code_min, grid.code_max)


def dequantize(codes: Tensor, grid: Grid) -> Tensor:
    """The values f32(scale c) of codes, of any dtype [N, ...]: float32 [N, ...]."""
    return codes.to(F32) * torch.tensor(grid.scale, dtype=F32, device=codes.device)


def accumulator_scale(input_scale: float, weight_scale: Tensor) -> Tensor:
    """The step of the accumulator and of the bias, f32(s_x s_w): float32 [O], as the weight's scales."""
    return torch.tensor(input_scale, dtype=F32) * weight_scale


def multiplier(input_scale: float, weight_scale: Tensor, output_scale: float) -> Tensor:
    """The factor from accumulators to output codes, f32(f32(s_x s_w) / s_y): float32 [O], as the weight's scales."""
    return accumulator_scale(input_scale, weight_scale) / torch.tensor(output_scale, dtype=F32)


def add(a: Tensor, b: Tensor, grid_a: Grid, grid_b: Grid, grid_y: Grid) -> Tensor:
    """The reference's sum of codes, float32 [N, ...]: rint of f32(f32(s_a c_a) + f32(s_b c_b)) / s_y, clipped."""
    return quantize(dequantize(a, grid_a) + dequantize(b, grid_b), grid_y)


def _add_exactly(a: Tensor, b: Tensor, grid_a: Grid, grid_b: Grid, grid_y: Grid) -> Tensor:
    """The sum of codes in float64, rounded and clipped: float32 [N, ...]."""
    y = (a.double() * grid_a.scale + b.double() * grid_b.scale) / grid_y.scale
    return y.round().clamp(grid_y.code_min, grid_y.code_max).to(F32)


def _add_fused(a: Tensor, b: Tensor, grid_a: Grid, grid_b: Grid, grid_y: Grid) -> Tensor:
    """ONNX Runtime's QLinearAdd on x86: rint(fma(q_a, r_a, fma(q_b, r_b, k))) on stored unsigned bytes q, with
    r_a = f32(s_a / s_y), r_b = f32(s_b / s_y), k = f32(z_y - (r_a z_a + r_b z_b))."""
    ratio_a, ratio_b = f32(grid_a.scale / grid_y.scale), f32(grid_b.scale / grid_y.scale)
    z_a, z_b, z_y = (float(grid.unsigned_zero_point) for grid in (grid_a, grid_b, grid_y))
    offset = f32(z_y - f32(f32(ratio_a * z_a) + f32(ratio_b * z_b)))
    inner = _fma(b + z_b, ratio_b, torch.tensor(offset))
    stored = _fma(a + z_a, ratio_a, inner).round().clamp(0, 255)
    return (stored - z_y).clamp(grid_y.code_min, grid_y.code_max)


def _add_fixed_point(a: Tensor, b: Tensor, grid_a: Grid, grid_b: Grid, grid_y: Grid) -> Tensor:
    """ONNX Runtime's QLinearAdd on arm64: (c_a m_a + c_b m_b) / 2^k in integers, rounded half away from zero, with the
    ratios r_a = f32(s_a / s_y) and r_b as multipliers m = rint(2^k r), the greater of which has 22 bits."""
    ratio_a, ratio_b = f32(grid_a.scale / grid_y.scale), f32(grid_b.scale / grid_y.scale)
    step = 2.0 ** (22 - math.frexp(max(ratio_a, ratio_b))[1])
    total = (a.double() * round(ratio_a * step) + b.double() * round(ratio_b * step)) / step
    y = total.sign() * (total.abs() + 0.5).floor()
    return y.clamp(grid_y.code_min, grid_y.code_max).to(F32)


def _add_by_reciprocal(a: Tensor, b: Tensor, grid_a: Grid, grid_b: Grid, grid_y: Grid) -> Tensor:
    """TensorRT's sum of codes: the reference's sum, times f32(1 / s_y)."""
    return quantize_by_reciprocal(dequantize(a, grid_a) + dequantize(b, grid_b), grid_y)


def _fma(x: Tensor, y: float, z: Tensor) -> Tensor:
    """Computes x y + z with one rounding: the product of two float32 is exact in float64."""
    return (x.double() * y + z.double()).to(F32)


def add_disagreements(grid_a: Grid, grid_b: Grid, grid_y: Grid) -> int:
    """Counts the pairs of input codes for which the forms of a sum do not all give one code."""
    a, b = _pairs(grid_a, grid_b)
    reference = add(a, b, grid_a, grid_b, grid_y)
    forms = [
        form(a, b, grid_a, grid_b, grid_y) for form in (_add_exactly, _add_fused, _add_fixed_point, _add_by_reciprocal)
    ]
    return _disagreements(reference, *forms)


def _pairs(grid_a: Grid, grid_b: Grid) -> tuple[Tensor, Tensor]:
    """Every code of one tensor [A, B] beside every code of another [A, B]."""
    a, b = torch.broadcast_tensors(_codes(grid_a)[:, None], _codes(grid_b)[None, :])
    return a, b


def _codes(grid: Grid) -> Tensor:
    return torch.arange(grid.code_min, grid.code_max + 1, dtype=F32)


def _disagreements(reference: Tensor, *forms: Tensor) -> int:
    return int(torch.stack([form != reference for form in forms]).any(0).sum())


def multiply(a: Tensor, b: Tensor, grid_a: Grid, grid_b: Grid, grid_y: Grid) -> Tensor:
    """The reference's product of codes, float32 [N, ...]: rint of f32(f32(s_a c_a) f32(s_b c_b)) / s_y, clipped."""
    return quantize(dequantize(a, grid_a) * dequantize(b, grid_b), grid_y)


def multiply_disagreements(grid_a: Grid, grid_b: Grid, grid_y: Grid) -> int:
    """Counts the pairs of input codes for which the forms of a product do not all give one code.

    The forms are the reference's, TensorRT's, the exact one, and those on the product of codes with the ratio
    f32(f32(s_a s_b) / s_y) and the stored zero-point added in float32, with one rounding or two.
    """
    a, b = _pairs(grid_a, grid_b)
    products = a * b  # below 2^24
    ratio = f32(f32(grid_a.scale * grid_b.scale) / grid_y.scale)
    zero_point = torch.tensor(float(grid_y.unsigned_zero_point))
    exact = products.double() * (grid_a.scale * grid_b.scale / grid_y.scale)

    def clipped(y: Tensor) -> Tensor:
        return y.round().clamp(grid_y.code_min, grid_y.code_max).to(F32)

    return _disagreements(
        multiply(a, b, grid_a, grid_b, grid_y),
        quantize_by_reciprocal(dequantize(a, grid_a) * dequantize(b, grid_b), grid_y),
        clipped(exact),
        clipped(products * ratio),
        clipped((products * ratio + zero_point).round() - zero_point),
        clipped(_fma(products, ratio, zero_point).round() - zero_point),
    )


def unary_table(op: Unary, grid_x: Grid, grid_y: Grid) -> Tensor:
    """The code of a function's value for every input code from code_min on, float32 [codes].

    Values are computed in float64 from f32(s_x c), and clipped.
    """
    return unary_values(op, grid_x, grid_y).round().clamp(grid_y.code_min, grid_y.code_max).to(F32)


def unary_values(op: Unary, grid_x: Grid, grid_y: Grid) -> Tensor:
    """The value of a function in steps of its output, before rounding, for every input code: float64 [codes]."""
    return FUNCTIONS[op.function](dequantize(_codes(grid_x), grid_x).double(), op.alpha) / grid_y.scale


def unary_errors(op: Unary, grid_x: Grid, grid_y: Grid) -> Tensor:
    """The greatest distance of a float32 kernel of the function from `unary_values`, float64 [codes]."""
    x = _codes(grid_x).double() * (grid_x.scale / grid_y.scale)
    y = unary_values(op, grid_x, grid_y)
    # Near a zero of the function its parts cancel, and the error is theirs.
    return _FUNCTION_ERROR * torch.maximum(y.abs(), x.abs().clamp(max=float(y.abs().max())))


def unary_disagreements(op: Unary, grid_x: Grid, grid_y: Grid) -> int:
    """Counts the input codes for which a float32 kernel of the function could give another code than the table."""
    y, error = unary_values(op, grid_x, grid_y), unary_errors(op, grid_x, grid_y)
    low, high = (bound.round().clamp(grid_y.code_min, grid_y.code_max) for bound in (y - error, y + error))
    return int((low != high).sum())


def average(total: Tensor, count: int, grid_x: Grid, grid_y: Grid) -> Tensor:
    """The reference's mean of `count` codes from their sum: rint(total * f32(s_x / f32(s_y count))), clipped.

    total: integers of any dtype [N, ...]. Returns codes, float32 [N, ...].
    """
    step = f32(grid_x.scale / f32(grid_y.scale * count))
    return (total.to(F32) * step).round_().clamp_(grid_y.code_min, grid_y.code_max)


def average_disagreements(count: int, grid_x: Grid, grid_y: Grid) -> int:
    """Counts the sums of `count` codes for which the forms of a mean do not all give one code.

    The forms are the reference's, the exact one, the mean of dequantized values, and a convolution's with weights of
    f32(1 / count).
    """
    low, high = min(grid_x.code_min, 0), max(grid_x.code_max, 0)  # zeros pad
    total = torch.arange(count * low, count * high + 1, dtype=torch.float64)
    exact = (total * grid_x.scale / (count * grid_y.scale)).round().clamp(grid_y.code_min, grid_y.code_max).to(F32)
    step = f32(f32(grid_x.scale * f32(1 / count)) / grid_y.scale)
    convolved = (total.to(F32) * step).round().clamp(grid_y.code_min, grid_y.code_max)
    unfused = quantize(dequantize(total, grid_x) / count, grid_y)
    return _disagreements(average(total, count, grid_x, grid_y), exact, unfused, convolved)


def near_ties(multipliers: Tensor, grid: Grid) -> int:
    """Counts small accumulators so near the middle between two codes that float arithmetic may go either way.

    multipliers: float32 [O].

    Small accumulators are frequent: one such value (81 for a multiplier of 1 / 32.4: 81 / 32.4 = 2.5) turns up in
    every image. Integers round it alike everywhere; the fake-quant module, which sums floats, does not.
    """
    m = multipliers.double()[:, None]
    middles = torch.arange(grid.code_min, grid.code_max, dtype=torch.float64) + 0.5
    accumulators = (middles / m).round()
    near = (accumulators * m - middles).abs() <= _NEAR * m * accumulators.abs().clamp(min=_SMALLEST_SUM)
    return int((near & (accumulators.abs() <= _SMALL_ACCUMULATOR)).sum())


def ties_are_common(multipliers: Tensor) -> Tensor:
    """Whether more than one accumulator in 65,536 lies exactly between two codes, of each channel: bool [O].

    multipliers: float32 [O]. With m = p / 2^e, p odd, acc * m ends in .5 only for multiples of 2^(e - 1). A random
    float32 has e far above 16; a power of two does not.
    """
    mantissa, exponent = torch.frexp(multipliers.double())
    integer = (mantissa * (1 << 24)).to(torch.int64)
    trailing = torch.log2((integer & -integer).double())
    halves = 24 - exponent - trailing - 1
    return (halves < math.log2(_COMMON_TIE)) & (halves >= 0)
