"""Maps that become larger or smaller: pixels that are repeated and chosen, and means of these."""

from torch import fx

from intraq_deploy.graph.aten.calls import call_name, child_name
from intraq_deploy.graph.aten.pooling import average
from intraq_deploy.graph.aten.shapes import broadcast, pick
from intraq_deploy.graph.aten.translator import CallError, Translator, translates
from intraq_deploy.graph.ops import AveragePool2d, Reshape

_ROUND = 1e-3


@translates(
    "aten.upsample_nearest2d.vec", "aten.upsample_nearest2d.default", "aten._upsample_nearest_exact2d.vec",
    "aten._upsample_nearest_exact2d.default",
)  # fmt: skip
def _nearest(t: Translator, call: fx.Node) -> None:
    name, own = t.image(call.args[0]), child_name(call, "nearest")
    before, after = t.shape_of(name), t.shape(call)
    _check_factors(call, before, after)
    if not (after[1] % before[1] or after[2] % before[2]):
        t.same(call, _repeated(t, name, (after[1] // before[1], after[2] // before[2]), own))
        return
    shift = 1 if "exact" in call_name(call) else 0  # in halves of a pixel
    for axis in (1, 2):
        chosen = [(2 * i + shift) * before[axis] // (2 * after[axis]) for i in range(after[axis])]
        name = pick(t, name, axis, chosen, f"{own}.{'rows' if axis == 1 else 'columns'}")
    t.same(call, name)


def _check_factors(call: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    """Raises CallError where torch places pixels by a factor that sizes do not show."""
    factors = call.args[-1]
    given = factors if isinstance(factors, (list, tuple)) and isinstance(factors[0], float) else []
    if any(abs(factor * size - out) > _ROUND for factor, size, out in zip(given, before[1:], after[1:], strict=False)):
        raise CallError(f"the factors {list(given)} of {before[1]}x{before[2]} pixels (give sizes)")


def _repeated(t: Translator, name: str, factors: tuple[int, int], own: str) -> str:
    """Repeats rows and columns of the tensor `name`, [C, H, W], and returns the name of [C, a H, b W]."""
    channels, height, width = t.shape_of(name)
    rows, columns = factors
    apart, after = (channels, height, 1, width, 1), (channels, height * rows, width * columns)
    part = t.add(f"{own}.apart", Reshape(apart), [name], apart)
    part = broadcast(t, part, (channels, height, rows, width, columns), f"{own}.copies")
    return t.add(own, Reshape(after), [part], after)


@translates("aten.upsample_bilinear2d.vec", "aten.upsample_bilinear2d.default")
def _bilinear(t: Translator, call: fx.Node) -> None:
    """Translates linear interpolation as means: a line from one pixel to the next is a mean of both, each repeated.

    A factor f makes 2 f of each pixel; windows of 2 f with stride 2, from 1 - f on, are the values between. A factor
    1 / f takes the two pixels around the middle of f.
    """
    x, _, corners, *_ = call.args
    name, own, after = t.image(x), child_name(call, "bilinear"), t.shape(call)
    _check_factors(call, t.shape_of(name), after)
    kernel, stride = [1, 1], [1, 1]
    for axis in (1, 2):
        before, out = t.shape_of(name)[axis], after[axis]
        if before == out:
            continue
        if before == 1:  # lines from one pixel are that pixel
            name = _repeated(t, name, (out, 1) if axis == 1 else (1, out), f"{own}.{axis}")
            continue
        if corners or (out % before and before % out):
            raise CallError(
                f"{before} pixels that become {out}{', aligned by their corners' if corners else ''} (whole factors "
                "are supported, aligned by their edges)"
            )
        factor, share = out // before, before // out
        if factor > 1:
            name = _repeated(t, name, (2 * factor, 1) if axis == 1 else (1, 2 * factor), f"{own}.{axis}")
            last = 2 * out - 1
            indices = [0] * (factor - 1) + [*range(last + 1)] + [last] * (factor - 1)
            kernel[axis - 1], stride[axis - 1] = 2 * factor, 2
        else:
            indices = [share * i + middle for i in range(out) for middle in ((share - 1) // 2, share // 2)]
            kernel[axis - 1], stride[axis - 1] = 2, 2
        name = pick(t, name, axis, indices, f"{own}.{axis}.edges")
    average(t, call, name, AveragePool2d((kernel[0], kernel[1]), (stride[0], stride[1])))
