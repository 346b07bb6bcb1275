"""Convolutions, linear layers, and the norms and constants that scale channels."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from intraq_deploy.graph.aten.calls import CONVOLUTION, arguments, child_name, pair
from intraq_deploy.graph.aten.shapes import channels_first, channels_last, through_transpose
from intraq_deploy.graph.aten.translator import SPELLED, CallError, Translator, translates
from intraq_deploy.graph.graph import BatchNorm, Weights
from intraq_deploy.graph.ops import HAS_WEIGHT, ChannelNorm, Conv2d, Flatten, Reshape, Transpose, Unary, UnitNorm


@translates("aten.conv2d.default", "aten.conv2d.padding")
def _conv2d(t: Translator, call: fx.Node) -> None:
    x, weight, bias, stride, padding, dilation, groups = arguments(call, *CONVOLUTION)
    kernel = t.constant(weight)
    assert kernel is not None
    stride, dilation = pair(stride), pair(dilation)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel.shape[2:], strict=True)]
        top, left = (value // 2 for value in total)
        pads = (top, left, total[0] - top, total[1] - left)
    else:
        vertical, horizontal = (0, 0) if padding == "valid" else pair(padding)
        pads = (vertical, horizontal, vertical, horizontal)
    name = t.parameter_owner(weight) or child_name(call, "conv")
    weights = Weights(kernel, t.constant(bias), None)
    t.emit(call, Conv2d(stride, pads, dilation, int(groups)), [t.value(x)], name, weights)


@translates("aten.conv1d.default")
def _conv1d(t: Translator, call: fx.Node) -> None:
    """Translates a convolution over [C, L] as one over [C, 1, L]."""
    x, weight, bias, stride, padding, dilation, groups = arguments(call, *CONVOLUTION)
    kernel = t.constant(weight)
    assert kernel is not None
    name = t.parameter_owner(weight) or child_name(call, "conv")
    source = t.value(x)
    channels, length = t.shape_of(source)
    image = t.add(f"{name}.image", Reshape((channels, 1, length)), [source], (channels, 1, length))
    side = pair(padding)[1]
    op = Conv2d((1, pair(stride)[1]), (0, side, 0, side), (1, pair(dilation)[1]), int(groups))
    outputs, positions = t.shape(call)
    y = t.add(name, op, [image], (outputs, 1, positions), Weights(kernel[:, :, None], t.constant(bias), None))
    t.same(call, t.add(f"{name}.positions", Reshape((outputs, positions)), [y], (outputs, positions)))


@translates("aten._native_batch_norm_legit_no_training.default")
def _batch_norm(t: Translator, call: fx.Node) -> None:
    x, gamma, beta, mean, variance, _, epsilon = call.args
    mean_, variance_ = t.constant(mean), t.constant(variance)
    assert mean_ is not None
    assert variance_ is not None
    gamma_, beta_ = t.constant(gamma), t.constant(beta)
    norm = BatchNorm(
        torch.ones_like(mean_) if gamma_ is None else gamma_,
        torch.zeros_like(mean_) if beta_ is None else beta_,
        mean_,
        variance_,
        float(epsilon),  # type: ignore[arg-type]
    )
    t.same(call, _normalise(t, t.value(x), norm, t.parameter_owner(gamma) or child_name(call, "norm")))


@translates("aten._native_batch_norm_legit.no_stats", "aten.instance_norm.default", "aten.group_norm.default")
def _of_the_batch(t: Translator, call: fx.Node) -> None:
    raise CallError("statistics of the images at hand (a batch norm with stored ones is supported)")


def scale(t: Translator, call: fx.Node, x: Any, gain: Tensor, shift: Tensor) -> None:
    """Translates `call`, which is x * gain + shift.

    gain, shift: constants, float32, each a single number or one per channel: [C], [C, 1, 1] or [1, C, 1, 1], with
    channels last [1, 1, 1, C].
    """
    name = t.value(x)
    if bool((gain == 1).all()) and bool((shift == 0).all()):
        t.same(call, name)
        return
    gain, shift = _trimmed(gain), _trimmed(shift)
    before = t.shape_of(name)
    if len(before) == 2 and before in (tuple(gain.shape), tuple(shift.shape)):  # one per entry of a matrix
        name = t.add(child_name(call, "entries"), Flatten(), [name], (math.prod(before),))
        gain, shift = (torch.broadcast_to(values, before).flatten() for values in (gain, shift))
    flat = len(t.shape_of(name)) == 3 and gain.dim() <= 1 and shift.dim() <= 1
    last = flat and (isinstance(t.raw(name).node.op, Transpose) or gain.numel() + shift.numel() > 2)
    if last:  # one per entry of the last dimension
        name = channels_first(t, name)
    channels = t.shape_of(name)[0]
    norm = BatchNorm(
        _per_channel(gain, channels, len(t.shape_of(name)), last=last),
        _per_channel(shift, channels, len(t.shape_of(name)), last=last),
        torch.zeros(channels),
        torch.ones(channels),
        0.0,
    )
    scaled = _normalise(t, name, norm, child_name(call, "scale"))
    if last:
        scaled = channels_last(t, scaled)
    t.same(
        call, scaled if t.shape_of(scaled) == before else t.add(f"{scaled}.matrix", Reshape(before), [scaled], before)
    )


def _trimmed(values: Tensor) -> Tensor:
    """The values without the dimensions of size 1 before all others, which say nothing."""
    while values.dim() > 1 and values.shape[0] == 1:
        values = values[0]
    return values


def times(t: Translator, name: str, factor: Tensor, own: str) -> str:
    """Multiplies the tensor `name` by a number, float32 [], or one for each channel, [C], in a layer named `own`, and
    returns the name of the result."""
    channels = t.shape_of(name)[0]
    zeros, ones = torch.zeros(channels), torch.ones(channels)
    return _scaled(t, name, BatchNorm(factor * ones, zeros, zeros, ones, 0.0), own)


def _per_channel(values: Tensor, channels: int, dims: int, *, last: bool) -> Tensor:
    """The values as float32 [C], from a number, [C], [C, 1, 1] or [1, C, 1, 1]."""
    if values.numel() == 1:
        return values.reshape(1).expand(channels).clone()
    spread = [1] * values.dim()
    spread[-1 if last or dims == 1 else max(0, values.dim() - dims)] = channels
    if list(values.shape) != spread or (values.dim() < dims and not last):
        raise CallError(f"a constant of shape {tuple(values.shape)} (a number or one per channel is supported)")
    return values.reshape(channels)


def _normalise(t: Translator, name: str, norm: BatchNorm, own: str) -> str:
    """A batch norm on the tensor `name`: into the layer that makes it, where nothing else reads that, else as a layer
    of its own."""
    raw = t.raw(name)
    if isinstance(raw.node.op, HAS_WEIGHT) and t.consumers(name) == 1 and raw.weights is not None:
        before = raw.weights.batch_norm
        raw.weights = replace(raw.weights, batch_norm=norm if before is None else before.followed_by(norm))
        return name
    return _scaled(t, name, norm, own)


def _scaled(t: Translator, name: str, norm: BatchNorm, own: str) -> str:
    """A batch norm as a depthwise 1x1 convolution with weights of one: integers scale channels as they convolve."""
    shape = t.shape_of(name)
    image = shape if len(shape) == 3 else (shape[0], math.prod(shape[1:]), 1)
    source = name if image == shape else t.add(f"{own}.image", Reshape(image), [name], image)
    convolution = Conv2d((1, 1), (0, 0, 0, 0), (1, 1), shape[0])
    scaled = t.add(own, convolution, [source], image, Weights(torch.ones(shape[0], 1, 1, 1), None, norm))
    back = Flatten() if len(shape) == 1 else Reshape(shape)
    return scaled if image == shape else t.add(f"{own}.flatten", back, [scaled], shape)


@translates("aten.layer_norm.default")
def _layer_norm(t: Translator, call: fx.Node) -> None:
    x, normalized, gamma, beta, epsilon = arguments(
        call, ("input", None), ("normalized_shape", None), ("weight", None), ("bias", None), ("eps", 1e-5)
    )
    name = t.value(x)
    shape = t.shape_of(name)
    if len(normalized) != 1 or len(shape) not in (1, 3):
        raise CallError(f"the normalised shape {list(normalized)} (the last of 2 or 4 dimensions is supported)")
    channels = shape[-1]
    own = t.parameter_owner(gamma) or child_name(call, "norm")
    gamma_, beta_ = t.constant(gamma), t.constant(beta)
    gain: BatchNorm | None = None
    if gamma_ is not None or beta_ is not None:
        gain = BatchNorm(
            torch.ones(channels) if gamma_ is None else gamma_,
            torch.zeros(channels) if beta_ is None else beta_,
            torch.zeros(channels),
            torch.ones(channels),
            0.0,
        )
    t.same(call, _channel_norm(t, name, ChannelNorm(float(epsilon)), own, gain))


def _channel_norm(t: Translator, name: str, op: ChannelNorm | UnitNorm, own: str, gain: BatchNorm | None = None) -> str:
    """The name of the norm of the tensor `name`, [H, W, C] or [C], over its last dimension, with a gain behind it."""
    shape = t.shape_of(name)
    last = len(shape) == 3
    source = channels_first(t, name) if last else t.add(f"{own}.image", Reshape((*shape, 1, 1)), [name], (*shape, 1, 1))
    y = t.add(f"{own}.normalize", op, [source], t.shape_of(source))
    if gain is not None:
        y = _normalise(t, y, gain, own)
    return channels_last(t, y) if last else t.add(f"{own}.flatten", Flatten(), [y], shape)


@translates(SPELLED)
def _spelled(t: Translator, call: fx.Node) -> None:
    group = t.group(call)
    name = t.value(group.source)
    own = child_name(call, group.op.function.lower() if isinstance(group.op, Unary) else "norm")
    if not isinstance(group.op, Unary) and (group.dim != 1 or len(t.shape_of(name)) == 1):
        t.same(call, _channel_norm(t, name, group.op, own))
        return
    t.same(call, through_transpose(t, [name], lambda x: t.add(own, group.op, x, t.shape_of(x[0]))))
