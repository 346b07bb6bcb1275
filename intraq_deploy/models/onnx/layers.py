"""ONNX's operators with constant weights, as torch modules."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from intraq_deploy.models.onnx.attributes import Attributes, NodeError, padded, pair, sides


class _Conv(nn.Conv2d):
    """A convolution whose padding may differ on each side."""

    def __init__(self, a: Attributes, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
        if weight.ndim != 4:
            raise NodeError(f"a kernel of {weight.ndim - 2} dimensions")
        outputs, inputs, height, width = weight.shape
        groups, stride, dilation = a.get("group", 1), pair(a, "strides"), pair(a, "dilations")
        super().__init__(inputs * groups, outputs, (height, width), stride, 0, dilation, groups, bias is not None)
        self._attributes = a
        _set(self, weight=weight, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, H, W] to [N, O, H', W'], float32."""
        return super().forward(padded(x, sides(self._attributes, x, self.kernel_size)))


class _ConvTranspose(nn.ConvTranspose2d):
    """A transposed convolution, whose padding is the same on opposite sides."""

    def __init__(self, a: Attributes, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
        if weight.ndim != 4 or a.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in a:
            raise NodeError("another size than its pads and strides give")
        top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
        # Rows that the end is cut by are rows that it lacks.
        more = tuple(
            m + p - q for m, p, q in zip(a.get("output_padding", (0, 0)), (top, left), (bottom, right), strict=True)
        )
        if min(more) < 0:
            raise NodeError(f"pads {[top, left, bottom, right]}")
        inputs, outputs, height, width = weight.shape
        groups, stride, dilation = a.get("group", 1), pair(a, "strides"), pair(a, "dilations")
        super().__init__(
            inputs, outputs * groups, (height, width), stride, (top, left), more, groups, bias is not None, dilation
        )
        _set(self, weight=weight, bias=bias)


class _BatchNorm(nn.BatchNorm2d):
    """A batch norm over the second dimension, of tensors of any rank."""

    def __init__(
        self, a: Attributes, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray
    ) -> None:
        if a.get("training_mode", 0):
            raise NodeError("the statistics of each batch: export the network in eval mode")
        super().__init__(len(mean), eps=a.get("epsilon", 1e-5))
        _set(self, weight=gamma, bias=beta, running_mean=mean, running_var=variance)

    def _check_input_dim(self, x: Tensor) -> None:
        """Takes any rank."""


def _gemm(a: Attributes, weight: np.ndarray, bias: np.ndarray | None = None) -> nn.Module:
    if a.get("transA", 0):
        raise NodeError("a transposed input")
    weight = weight if a.get("transB", 0) else weight.T
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1), weight.shape[:1]) * a.get("beta", 1.0)
    return _linear(weight * a.get("alpha", 1.0), bias)


def _matmul(_: Attributes, weight: np.ndarray) -> nn.Module:
    if weight.ndim != 2:
        raise NodeError(f"a matrix of {weight.ndim} dimensions")
    return _linear(weight.T, None)


def _linear(weight: np.ndarray, bias: np.ndarray | None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    _set(layer, weight=weight, bias=bias)
    return layer


def _set(layer: nn.Module, **arrays: np.ndarray | None) -> None:
    """Sets parameters and buffers, float32, from arrays of the same shapes."""
    tensors = {name: torch.tensor(np.asarray(array, np.float32)) for name, array in arrays.items() if array is not None}
    layer.load_state_dict(tensors, strict=False)


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "Conv": _Conv,
    "ConvTranspose": _ConvTranspose,
    "BatchNormalization": _BatchNorm,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
"""Functions that make an operator's module, from its attributes and its weights, float32 arrays."""
