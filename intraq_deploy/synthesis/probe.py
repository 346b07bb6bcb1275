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
    """The values read in one pass, float32: logits [N, K], features [N, D] or None, and the batch means and biased
    variances [C] of all channels that a BN layer reads, call after call (`Probe.widths`)."""

    logits: Tensor
    features: Tensor | None
    means: Tensor
    variances: Tensor


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a BN layer: the mean and biased variance of what it read, float32 [C], whose gradients are to be
    given as those of the sum of all values and of half the sum of their squares; and how many values a channel has."""

    mean: Tensor
    variance: Tensor
    count: int


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
        self._pools = [layer for layer in dict.fromkeys(calls) if isinstance(layer, nn.AdaptiveAvgPool2d)]
        self._strided = [layer for layer in dict.fromkeys(calls) if is_strided(layer)]
        means: list[Tensor] = [norm.running_mean for norm in norms]  # type: ignore[misc]
        variances: list[Tensor] = [norm.running_var for norm in norms]  # type: ignore[misc]
        self.widths = [len(mean) for mean in means]
        """The number of channels of each call: a batch norm that is used twice is read twice."""
        self.stored_means, self.stored_variances = torch.cat(means).float(), torch.cat(variances).float()
        """The stored statistics, float32 [C], as in a `Reading`."""

    @property
    def layers(self) -> int:
        """The number of batch norms."""
        return len(self._norms)

    def is_differentiable(self, input_shape: tuple[int, int, int]) -> bool:
        """Whether the gradients of all that is read reach the images. input_shape: channels, height, width."""
        images = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        try:
            logits, _, calls = self._run(images.requires_grad_(), torch.float32, None)
            read = [logits, *(call.variance for call in calls)]
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
        logits, features, calls = self._run(images, precision, swing)
        counts = [call.count for call in calls]
        tensors = [call.mean for call in calls] + [call.variance for call in calls]
        means, variances = _Together.apply(counts, *tensors)
        return Reading(logits.float(), features[0].float() if features else None, means, variances)

    def _run(
        self, images: Tensor, precision: torch.dtype, swing: Swing | None
    ) -> tuple[Tensor, list[Tensor], list[_Call]]:
        """The logits, [N, K], the features, if there are any, [N, D], and the calls of BN layers."""
        calls: list[_Call] = []
        features: list[Tensor] = []

        def on_norm(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            mean, variance = _BatchStatistics.apply(x)
            calls.append(_Call(mean, variance, x.numel() // x.shape[1]))

        def on_head(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            features.append(inputs[0].flatten(1))

        def on_pool(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].requires_grad:
                inputs[0].register_hook(_channels_last)

        fused = [norm for norm in self._norms if type(norm) is nn.BatchNorm2d and "forward" not in vars(norm)]
        hooks: list[tuple[nn.Module, Callable[..., Any]]] = [
            (norm, on_norm) for norm in self._norms if norm not in fused
        ]
        if self._head is not None:
            hooks.append((self._head, on_head))
        hooks += [(layer, on_pool) for layer in self._pools]
        if swing is not None:
            hooks += [(layer, swing) for layer in self._strided]
        low = precision != torch.float32
        with (
            _hooked(hooks),
            _fused(fused, calls),
            torch.autocast(self.device.type, precision, enabled=low, cache_enabled=False),
        ):
            return self._module(images), features, calls


def _channels_last(gradient: Tensor) -> Tensor:
    """The gradient, [N, C, H, W], as images and activations lie in memory.

    That of a mean over pixels lies channel by channel, and shortcuts would carry this through the whole network, whose
    convolutions then take half as long again.
    """
    return gradient.contiguous(memory_format=torch.channels_last)


@contextmanager
def _hooked(hooks: list[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _fused(norms: list[nn.BatchNorm2d], calls: list[_Call]) -> Iterator[None]:
    """Lets batch norms note their calls in `calls`, with one gradient for what they return and its statistics."""

    def forward_of(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            y: Tensor
            y, mean, variance = _NormWithStatistics.apply(x, norm)
            calls.append(_Call(mean, variance, x.numel() // x.shape[1]))
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
    """Mean and biased variance over all but dimension 1, whose gradients are given as those of `_Call`.

    Autograd would differentiate these reductions through several full-size temporaries.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        return _statistics(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _gradient(x, *gradients)


class _NormWithStatistics(torch.autograd.Function):
    """A batch norm in eval mode, without gradients of its own parameters, and the statistics of what it reads.

    On CPUs PyTorch's gradient of the former takes longer: it also sums what the parameters' gradients would need.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        ctx.save_for_backward(x)
        ctx.norm = norm
        y = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return y, *_statistics(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        by_output, *by_statistics = gradients
        (x,), norm = ctx.saved_tensors, ctx.norm
        gain = torch.rsqrt(norm.running_var + norm.eps)
        gain = gain if norm.weight is None else gain * norm.weight
        return _gradient(x, *by_statistics).addcmul_(by_output, gain.to(x.dtype).reshape(1, -1, 1, 1)), None


class _Together(torch.autograd.Function):
    """The statistics of all calls in one tensor each: what follows is a few operators for all, not for each.

    With n values per channel, and of L the gradients by mean and variance, those by the sum of all values and by half
    the sum of their squares are

        dL/dsum = (dL/dmean - 2 mean dL/dvar) / n        dL/dsquares = 2 dL/dvar / n

    and the gradient of a value x is dL/dsum + x dL/dsquares.
    """

    @staticmethod
    def forward(ctx: Any, counts: list[int], *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """tensors: the means of all calls, then their variances, float32 [C] each."""
        means, variances = torch.cat(tensors[: len(counts)]), torch.cat(tensors[len(counts) :])
        ctx.save_for_backward(means)
        ctx.counts, ctx.widths = counts, [len(tensor) for tensor in tensors[: len(counts)]]
        return means, variances

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_means, by_variances = gradients
        (means,) = ctx.saved_tensors
        by_squares = 2 * by_variances
        by_sums = by_means - by_squares * means
        by_call = [*by_sums.split(ctx.widths), *by_squares.split(ctx.widths)]
        return None, *torch._foreach_div(by_call, ctx.counts * 2)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the biased variance of each channel, in one pass: float32 [C] each, for bfloat16 too."""
    if x.dtype == torch.bfloat16:
        # Given running statistics, which momentum 0 leaves alone, the result has their type.
        zeros, ones = (make(x.shape[1], device=x.device) for make in (torch.zeros, torch.ones))
        mean, variance = torch.batch_norm_update_stats(x, zeros, ones, 0.0)
    else:
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)
    return mean, variance


def _gradient(x: Tensor, by_sum: Tensor, by_squares: Tensor) -> Tensor:
    """The gradient of x, of its shape and type, from those of each channel's sum and half its sum of squares, [C]."""
    zeros, ones = torch.zeros_like(by_sum), torch.ones_like(by_sum)
    # A factor and a summand per channel are a batch norm with mean 0 and variance 1, and fastest as one.
    gradient: Tensor = F.batch_norm(x, zeros, ones, by_squares, by_sum, eps=0.0)
    return gradient
