"""Reading a network while it runs: BN batch statistics and penultimate features, through hooks.

Hooks need no tracing and see each batch norm's input in the one pass that also gives the logits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.synthesis.swing import Swing, is_strided


@dataclass(frozen=True, slots=True)
class Reading:
    """The values read in one pass, float32: logits [N, K], features [N, D] or None, and for each call of a BN layer the
    batch mean and biased variance [C]."""

    logits: Tensor
    features: Tensor | None
    means: list[Tensor]
    variances: list[Tensor]


class Probe:
    """A reader of one network, which is used as it is: in eval mode, its parameters without gradients."""

    def __init__(self, module: nn.Module, input_shape: tuple[int, int, int]) -> None:
        """Makes the probe. Raises UnsupportedModelError for a network without stored BN statistics."""
        self._module = module
        self.device = next(module.parameters()).device
        calls = _calls(module, input_shape)
        norms = [layer for layer in calls if _has_statistics(layer)]
        self._norms = list(dict.fromkeys(norms))
        if not norms:
            raise UnsupportedModelError(
                "The network has no batch norm with stored statistics: images are made to match the statistics of its "
                "training data, and it keeps none. Use a variant with batch norm (vgg11_bn instead of vgg11; in place "
                "of an ONNX file with batch norms folded into convolutions, the checkpoint, or an export with "
                "optimize=False, before PyTorch 2.9 training=torch.onnx.TrainingMode.PRESERVE), or quantize with "
                "--calibration DIR, a folder of unlabelled images of your own."
            )
        self._head = _head(calls)
        self._strided = [layer for layer in dict.fromkeys(calls) if is_strided(layer)]
        # One entry per call: a batch norm that is used twice is read twice.
        self.stored_means: list[Tensor] = [norm.running_mean for norm in norms]  # type: ignore[misc]
        self.stored_variances: list[Tensor] = [norm.running_var for norm in norms]  # type: ignore[misc]

    @property
    def layers(self) -> int:
        """The number of batch norms."""
        return len(self._norms)

    def is_differentiable(self, input_shape: tuple[int, int, int]) -> bool:
        """Whether the gradients of all that is read reach the images. input_shape: channels, height, width."""
        images = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        try:
            reading = self.read(images.requires_grad_())
            read = [reading.logits, *reading.variances]
            if not all(tensor.requires_grad for tensor in read):
                return False
            torch.autograd.backward([tensor.sum() for tensor in read])
        except RuntimeError:  # checkpoints run the forward again, without the hooks
            return False
        return images.grad is not None

    def read(self, images: Tensor, precision: torch.dtype = torch.float32, swing: Swing | None = None) -> Reading:
        """Reads the network in one forward pass, differentiable in `images`, float32 [N, C, H, W].

        precision: of convolutions and products; what is read is float32. swing: what shifts the inputs of strided
        convolutions.
        """
        means: list[Tensor] = []
        variances: list[Tensor] = []
        features: list[Tensor] = []

        def keep(mean: Tensor, variance: Tensor) -> None:
            means.append(mean)
            variances.append(variance)

        def on_norm(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            keep(*batch_statistics(inputs[0]))

        def on_head(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            features.append(inputs[0].flatten(1))

        fused = [norm for norm in self._norms if type(norm) is nn.BatchNorm2d and "forward" not in vars(norm)]
        hooks: list[tuple[nn.Module, Callable[..., Any]]] = [
            (norm, on_norm) for norm in self._norms if norm not in fused
        ]
        if self._head is not None:
            hooks.append((self._head, on_head))
        if swing is not None:
            hooks += [(layer, swing) for layer in self._strided]
        low = precision != torch.float32
        with (
            _hooked(hooks),
            _fused(fused, keep),
            torch.autocast(self.device.type, precision, enabled=low, cache_enabled=False),
        ):
            logits = self._module(images)
        return Reading(logits.float(), features[0].float() if features else None, means, variances)


@contextmanager
def _hooked(hooks: list[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _fused(norms: list[nn.BatchNorm2d], keep: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """Lets batch norms give the statistics of what they read to `keep`, with one gradient for both."""

    def forward_of(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            y: Tensor
            y, mean, variance = _NormWithStatistics.apply(x, norm)
            keep(mean, variance)
            return y

        return forward

    for norm in norms:
        norm.forward = forward_of(norm)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _has_statistics(module: nn.Module) -> bool:
    return getattr(module, "running_mean", None) is not None and getattr(module, "running_var", None) is not None


def _calls(module: nn.Module, input_shape: tuple[int, int, int]) -> list[nn.Module]:
    """The modules in the order in which they are called."""
    calls: list[nn.Module] = []

    def note(layer: nn.Module, _: Any) -> None:
        calls.append(layer)

    device = next(module.parameters()).device
    with _hooked([(layer, note) for layer in module.modules()]), torch.no_grad():
        module(torch.zeros(1, *input_shape, device=device))
    return calls


def _head(calls: list[nn.Module]) -> nn.Module | None:
    """The first linear layer behind the last convolution or batch norm: its input is phi, the pooled features."""
    head = None
    for layer in calls:
        if isinstance(layer, nn.Conv2d) or _has_statistics(layer):
            head = None
        elif isinstance(layer, nn.Linear) and head is None:
            head = layer
    return head


class _BatchStatistics(torch.autograd.Function):
    """Mean and biased variance over all but dimension 1.

    Autograd would differentiate these reductions through several full-size temporaries; the gradient is one line,
    dL/dx = (dL/dmean + 2 (x - mean) dL/dvar) / n. On CPUs this makes a synthesis step about 1.7 times as fast.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = _statistics(x)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        return _gradient(x, mean, *gradients)


class _NormWithStatistics(torch.autograd.Function):
    """A batch norm in eval mode, without gradients of its own parameters, and the statistics of what it reads.

    On CPUs PyTorch's gradient of the former takes seven times as long as the two lines below: it also sums what the
    parameters' gradients would need (64 channels of 32 x 32, float32, AVX2).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = _statistics(x)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = torch.rsqrt(norm.running_var + norm.eps)
        ctx.save_for_backward(x, mean, gain if norm.weight is None else gain * norm.weight)
        y = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        by_output, *by_statistics = gradients
        x, mean, gain = ctx.saved_tensors
        gradient = _gradient(x, mean, *by_statistics)
        return gradient.addcmul_(by_output, gain.to(x.dtype).reshape(1, -1, 1, 1)), None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the biased variance of each channel, in one pass: float32 [C] each, for bfloat16 too."""
    # Given running statistics, which momentum 0 leaves alone, the result has their type.
    kind = torch.promote_types(x.dtype, torch.float32)
    zeros, ones = (make(x.shape[1], dtype=kind, device=x.device) for make in (torch.zeros, torch.ones))
    mean, variance = torch.batch_norm_update_stats(x, zeros, ones, 0.0)
    return mean, variance


def _gradient(x: Tensor, mean: Tensor, by_mean: Tensor, by_variance: Tensor) -> Tensor:
    """The gradient of x through its mean and variance, of its shape and type; those of the two: float32 [C]."""
    count = x.numel() // x.shape[1]
    slope = 2 * by_variance / count
    offset = by_mean / count - slope * mean
    # x slope + offset per channel is a batch norm with mean 0 and variance 1, and fastest as one.
    gradient: Tensor = F.batch_norm(x, torch.zeros_like(mean), torch.ones_like(mean), slope, offset, eps=0.0)
    return gradient


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the biased variance of each channel of x, float32 [N, C, ...]: float32 [C] each."""
    mean, variance = _BatchStatistics.apply(x)
    return mean, variance
