"""Says where the time of a step goes, beside that of its limit; and what compiling its passes would save.

    python benchmarks/throughput/parts.py [NETWORK ...]         # the profile, as a table for docs/throughput.md
    python benchmarks/throughput/parts.py --compiled            # passes over tensors, eager and by torch.compile
    python benchmarks/throughput/parts.py --bias                # the gradient of a convolution's bias, in it or apart

Times of operators are their own (self) on the CPU, medians of calls that are profiled in turn. NETWORK: as in run.py.
`--compiled` wants a C++ compiler. All print and keep nothing.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from run import _ITERATIONS, CPU, LIMIT, NETWORKS, OURS, WORK, works
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from intraq_deploy.pipeline.busy import keep_memory
from intraq_deploy.pipeline.devices import has_bfloat16
from intraq_deploy.pipeline.run import machine

_CALLS = 7
KINDS = {
    "convolutions": ("conv", "addmm", "aten::mm"),
    "batch norms": ("batch_norm",),
    "quantizers, ReLU6": ("hardtanh_backward", "aten::div", "aten::round", "aten::clamp", "aten::dot"),
}
"""Parts of operators' names; what has none of them is "other"."""
OTHER = "other"
CONVOLUTIONS = ((64, 16, 16, 32, 3), (16, 128, 128, 16, 3), (16, 24, 144, 32, 1), (16, 160, 960, 8, 1))
"""Images, channels read and made, pixels a side, and the kernel's."""
SHAPES = ((64, 16, 32, 32), (64, 64, 8, 8), (16, 64, 32, 32), (16, 96, 64, 64))


def parts(call: Callable[[], object]) -> dict[str, float]:
    """Returns the milliseconds of an iteration, by kind of operator."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        call()
    found: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), OTHER)
        if event.key == "aten::batch_norm_update_stats":
            kind = "statistics"
        found[kind] += event.self_cpu_time_total / 1e3
    return {kind: value / _ITERATIONS for kind, value in found.items()}


def write_profile(networks: list[str], chosen: list[str]) -> None:
    """Prints a row for each network, work and implementation."""
    kinds = ["convolutions", "batch norms", "statistics", "quantizers, ReLU6", OTHER]
    print(f"{machine()}, torch {torch.__version__}; ms of an iteration or step\n")
    print(f"| network, work | | {' | '.join(kinds)} |\n|---|---|{'---|' * len(kinds)}")
    precision = torch.bfloat16 if has_bfloat16(CPU) else torch.float32
    for network in networks:
        for work in chosen:
            runs = works(network, work, precision, CPU)
            times: dict[str, list[dict[str, float]]] = {OURS: [], LIMIT: []}
            for call in range(_CALLS + 1):
                for name, each in times.items():
                    found = parts(runs[name])
                    if call:  # the first one loads
                        each.append(found)
            for name, each in times.items():
                cells = (f"{statistics.median(found.get(kind, 0.0) for found in each):.1f}" for kind in kinds)
                print(f"| {network.rpartition('/')[2]}, {work} | {name} | {' | '.join(cells)} |", flush=True)


def quantized(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """A quantizer forward: what it keeps for the gradient, and its result. x: float32, any shape."""
    ratio = x / scale
    return ratio, ratio.clamp(0.0, 15.0).round() * scale


def quantized_back(gradient: Tensor, ratio: Tensor, result: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A quantizer backward: the gradient of x, and the two sums that its scale's gradient is made of."""
    by_x = torch.where((ratio > 0.0) & (ratio < 15.0), gradient, 0.0)
    return by_x, (gradient * result).sum(), (by_x * ratio).sum()


def quantized_eager(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """As `quantized`, in the passes of quantization/quantizer.py."""
    ratio = torch.div(x, scale)
    return ratio, torch.clamp(ratio, 0.0, 15.0).round_().mul_(scale)


def quantized_back_eager(gradient: Tensor, ratio: Tensor, result: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `quantized_back`, in the passes of quantization/quantizer.py."""
    by_x = torch.ops.aten.hardtanh_backward(gradient, ratio, 0.0, 15.0)
    return by_x, torch.dot(gradient, result), torch.dot(by_x, ratio)


def norm_back(gradient: Tensor, y: Tensor, x: Tensor, gain: Tensor, by_squares: Tensor, by_sum: Tensor) -> Tensor:
    """Backward through ReLU, batch norm and its statistics. All but the last three: float32 [N, C]; these: [C]."""
    return x * by_squares + by_sum + torch.where(y > 0, gradient, 0.0) * gain


def norm_back_eager(g: Tensor, y: Tensor, x: Tensor, gain: Tensor, by_squares: Tensor, by_sum: Tensor) -> Tensor:
    """As `norm_back`, in the passes of synthesis/probe.py."""
    masked = torch.ops.aten.threshold_backward(g, y, 0)
    scaled = F.batch_norm(x, torch.zeros_like(gain), torch.ones_like(gain), by_squares, by_sum, eps=0.0)
    return scaled.addcmul_(masked, gain)


def milliseconds(*works: Callable[[], object]) -> list[float]:
    """Medians of works that are done in turn."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(40):
        for work, own in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            if turn >= 5:
                own.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(own) for own in times]


def write_compiled() -> None:
    """Prints the times of passes by size, and the seconds of compiling them."""
    torch.set_grad_enabled(False)
    rows = []
    compiling = 0.0
    pairs = ((quantized_eager, quantized), (quantized_back_eager, quantized_back), (norm_back_eager, norm_back))
    for shape in SHAPES:
        channels = shape[1]
        x, gradient = (torch.randn(shape).permute(0, 2, 3, 1).reshape(-1) for _ in range(2))
        ratio, result = quantized_eager(x, torch.tensor(0.1))
        flat = [each.reshape(-1, channels) for each in (gradient, x.relu(), x)]
        given = ((x, torch.tensor(0.1)), (gradient, ratio, result), (*flat, *torch.rand(3, channels)))
        row = []
        for (eager, written), arguments in zip(pairs, given, strict=True):
            torch._dynamo.reset()
            compiled = torch.compile(written, dynamic=False)
            start = time.perf_counter()
            found = compiled(*arguments)
            compiling += time.perf_counter() - start
            torch.testing.assert_close(found, eager(*arguments), rtol=1e-3, atol=1e-3)
            row += milliseconds(lambda e=eager, a=arguments: e(*a), lambda c=compiled, a=arguments: c(*a))
        rows.append((shape, row))
    print(f"{machine()}, torch {torch.__version__}; {compiling:.0f} s of compiling; ms, eager then compiled\n")
    print("| images, channels, height, width | quantizer forward | backward | norm's backward |\n|---|---|---|---|")
    for shape, row in rows:
        cells = (f"{eager:.2f}, {compiled:.2f}" for eager, compiled in zip(row[::2], row[1::2], strict=True))
        print(f"| {' x '.join(map(str, shape))} | {' | '.join(cells)} |")


def write_bias() -> None:
    """Prints the times of convolutions backward, whose output is float32 [N, O, H, W] channel last."""
    torch.set_grad_enabled(False)
    print(f"{machine()}, torch {torch.__version__}; ms\n\n| convolution | in it | apart |\n|---|---|---|")
    for count, channels, outputs, side, kernel in CONVOLUTIONS:
        last = {"memory_format": torch.channels_last}
        x = torch.randn(count, channels, side, side).to(**last)
        weight = torch.randn(outputs, channels, kernel, kernel).to(**last)
        gradient = torch.randn(count, outputs, side, side).to(**last)
        how = ((1, 1), (kernel // 2, kernel // 2), (1, 1), False, (0, 0), 1)

        def inside(g: Tensor = gradient, x: Tensor = x, w: Tensor = weight, how: tuple = how) -> None:
            torch.ops.aten.convolution_backward(g, x, w, [len(w)], *how, (True, True, True))

        def apart(g: Tensor = gradient, x: Tensor = x, w: Tensor = weight, how: tuple = how) -> None:
            torch.ops.aten.convolution_backward(g, x, w, None, *how, (True, True, False))
            g.sum((0, 2, 3))

        cells = (f"{value:.2f}" for value in milliseconds(inside, apart))
        print(f"| {kernel}x{kernel}, {channels} to {outputs}, {count} x {side} x {side} | {' | '.join(cells)} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--work", choices=list(WORK))
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--bias", action="store_true")
    args = parser.parse_args()
    unknown = [network for network in args.networks if network not in NETWORKS]
    if unknown:
        parser.error(f"the network {unknown[0]!r} is unknown: choose of {', '.join(NETWORKS)}")
    keep_memory()
    if args.compiled:
        write_compiled()
    elif args.bias:
        write_bias()
    else:
        write_profile(args.networks or list(NETWORKS), [args.work] if args.work else list(WORK))
    return 0


if __name__ == "__main__":
    sys.exit(main())
