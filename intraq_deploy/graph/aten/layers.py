"""Convolutions, linear layers, and the norms and constants that scale channels."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from intraq_deploy.graph.aten.shapes import channels_first, channels_last
from intraq_deploy.graph.aten.translator import CallError, Translator, arguments, child_name, pair, translates
from intraq_deploy.graph.graph import BatchNorm, Weights
from intraq_deploy.graph.ops import HAS_WEIGHT, ChannelNorm, Conv2d, Flatten, Linear, Reshape


@translates("aten.conv2d.default", "aten.conv2d.padding")
def _conv2d(t: Translator, call: fx.Node) -> None:
    x, weight, bias, stride, padding, dilation, groups = arguments(
        call,
        ("input", None),
        ("weight", None),
        ("bias", None),
        ("stride", 1),
        ("padding", 0),
        ("dilation", 1),
        ("groups", 1),
    )
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


@translates("aten.linear.default")
def _linear(t: Translator, call: fx.Node) -> None:
    x, weight, bias = arguments(call, ("input", None), ("weight", None), ("bias", None))
    kernel = t.constant(weight)
    assert kernel is not None
    name = t.parameter_owner(weight) or child_name(call, "linear")
    shape = t.shape(call)
    if len(shape) == 1:
        t.emit(call, Linear(), [t.value(x)], name, Weights(kernel, t.constant(bias), None))
    elif len(shape) == 3:  # the same weights at every position: a 1x1 convolution over [C, H, W]
        weights = Weights(kernel[:, :, None, None], t.constant(bias), None)
        source = channels_first(t, t.value(x))
        convolution = Conv2d((1, 1), (0, 0, 0, 0), (1, 1), 1)
        t.same(call, channels_last(t, t.add(name, convolution, [source], (shape[2], *shape[:2]), weights)))
    else:
        raise CallError(f"an input of {len(shape) + 1} dimensions (2 and 4 are supported)")


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


def scale(t: Translator, call: fx.Node, x: Any, gain: Tensor, shift: Tensor) -> None:
    """Translates `call`, which is x * gain + shift.

    gain, shift: constants, float32, each a single number or one per channel: [C], [C, 1, 1] or [1, C, 1, 1].
    """
    name = t.value(x)
    last = len(t.shape_of(name)) == 3 and gain.dim() <= 1 and shift.dim() <= 1 and gain.numel() + shift.numel() > 2
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
    t.same(call, channels_last(t, scaled) if last else scaled)


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
    if list(values.shape) != spread:
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
    channels = shape[0]
    source = name if len(shape) == 3 else t.add(f"{own}.image", Reshape((channels, 1, 1)), [name], (channels, 1, 1))
    convolution = Conv2d((1, 1), (0, 0, 0, 0), (1, 1), channels)
    image = shape if len(shape) == 3 else (channels, 1, 1)
    scaled = t.add(own, convolution, [source], image, Weights(torch.ones(channels, 1, 1, 1), None, norm))
    return scaled if len(shape) == 3 else t.add(f"{own}.flatten", Flatten(), [scaled], shape)


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
    last = len(shape) == 3
    source = (
        channels_first(t, name) if last else t.add(f"{own}.image", Reshape((channels, 1, 1)), [name], (channels, 1, 1))
    )
    y = t.add(f"{own}.normalize", ChannelNorm(float(epsilon)), [source], t.shape_of(source))
    gamma_, beta_ = t.constant(gamma), t.constant(beta)
    if gamma_ is not None or beta_ is not None:
        norm = BatchNorm(
            torch.ones(channels) if gamma_ is None else gamma_,
            torch.zeros(channels) if beta_ is None else beta_,
            torch.zeros(channels),
            torch.ones(channels),
            0.0,
        )
        y = _normalise(t, y, norm, own)
    t.same(call, channels_last(t, y) if last else t.add(f"{own}.flatten", Flatten(), [y], shape))
