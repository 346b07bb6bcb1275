"""Times synthesis and fine-tuning against the hardware's limit and against a plain implementation.

    python benchmarks/throughput/run.py [NETWORK ...] [--seconds 60] [--threads N] [--device cuda]

Rows go into benchmarks/throughput/results.csv, and from there into docs/throughput.md: steps of all implementations
run in turn, in an order drawn for each round, and ratios are of one round (median, 95 % interval). The limit of
synthesis is the same network, eager, forward and the gradient of its images; that of fine-tuning the float network
forward, and once more forward and backward. Where the processor multiplies in bfloat16, synthesis and its limit use it,
as recipes do.
"""

import argparse
import copy
import csv
import datetime
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import plain
import torch
from torch import Tensor, nn

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("latency", "accuracy")]
from models import realistic
from rows import commit

from intraq_deploy.evaluation.latency import interleaved, speed
from intraq_deploy.graph.trace import trace
from intraq_deploy.models.architecture import find_architecture
from intraq_deploy.models.loading import load_model
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline.busy import keep_memory
from intraq_deploy.pipeline.devices import has_bfloat16
from intraq_deploy.pipeline.run import machine
from intraq_deploy.quantization.build import empty_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.recipes import builtin
from intraq_deploy.synthesis.loop import SetInputs, synthesize_batch
from intraq_deploy.synthesis.make import probe_of
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training.loop import Trainer
from intraq_deploy.training.teacher import Teacher

HERE = Path(__file__).parent
RESULTS = HERE / "results.csv"
PAGE = HERE.parents[1] / "docs" / "throughput.md"
BEGIN, END = "<!-- throughput: begin -->\n", "<!-- throughput: end -->"
COLUMNS = (
    "network", "work", "precision", "implementation", "images", "pixels", "images_per_s", "vs_limit", "vs_limit_low",
    "vs_limit_high", "vs_plain", "vs_plain_low", "vs_plain_high", "peak_mib", "cpu", "threads", "date", "commit",
    "versions",
)  # fmt: skip
NETWORKS = {
    "builtin:resnet20-cifar10": (64, 32),
    "torchvision:resnet18": (16, 128),
    f"{HERE.parent / 'published.py'}:MobileNetV1": (16, 128),
    "torchvision:mobilenet_v2": (16, 128),
}
"""Images of a step, and their pixels a side: as many as `quick` takes at a time would hold a round up."""
OURS, LIMIT, PLAIN = "ours", "limit", "plain"
SYNTHESIS, FINE_TUNING = "synthesis", "fine-tuning"
_ITERATIONS = 3
_STEPS = 1_000_000
CPU = torch.device("cpu")


def model_of(network: str, pixels: int) -> Model:
    """The network with random weights, realistic batch norms, and images of so many pixels."""
    torch.manual_seed(0)
    if network.startswith("builtin:"):
        return load_model(network)
    architecture = find_architecture(network)
    module = architecture.make(1000, 3)
    realistic(module, (3, pixels, pixels))
    return load_model(module, input_size=pixels, mean=[0.5], std=[0.5])


def synthesis(
    model: Model, count: int, precision: torch.dtype, device: torch.device
) -> dict[str, Callable[[], object]]:
    """Functions that take `_ITERATIONS` iterations over `count` images, by implementation."""
    recipe = builtin("quick").resolve((3, 32, 32) if model.classes == 10 else (3, 224, 224), model.classes)
    name = "bfloat16" if precision == torch.bfloat16 else "float32"
    ours = replace(recipe.synthesis, images=count, batch=count, iterations=_ITERATIONS, start="noise", precision=name)
    inputs = SetInputs(model, probe_of(model, device), ours, 0)
    images, module = torch.randn(count, *model.input_shape).to(device), model.module_on(device)
    step = plain.synthesis(copy.deepcopy(module), images)
    return {
        OURS: lambda: synthesize_batch(inputs, 0, None),
        LIMIT: lambda: [gradient_to_images(module, images, precision) for _ in range(_ITERATIONS)],
        PLAIN: lambda: [step() for _ in range(_ITERATIONS)],
    }


def gradient_to_images(module: nn.Module, images: Tensor, precision: torch.dtype) -> None:
    """One forward pass and the gradient of the images, as eager PyTorch does it best."""
    x = images.to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        logits = module(x)
    logits.float().sum().backward()


def fine_tuning(
    model: Model, count: int, precision: torch.dtype, device: torch.device
) -> dict[str, Callable[[], object]]:
    """Functions that take `_ITERATIONS` steps of `count` images, by name. precision: of teacher and gradients."""
    recipe = builtin("quick").resolve(model.input_shape, model.classes).training
    name = "bfloat16" if precision == torch.bfloat16 else "float32"
    recipe = replace(recipe, steps=_STEPS, batch=count, precision=name)
    graph = trace(model.module, model.input_shape)
    images = torch.randn(count, *model.input_shape)
    samples = SyntheticSet(images, torch.zeros(count, dtype=torch.int64), torch.ones(count))
    network, float_network = empty_network(graph, make_scheme("integer", 4, 4)), Teacher(graph).to(device)
    trainer = Trainer(network, float_network, samples, recipe, 0, device)
    images, module = images.to(device), model.module_on(device)
    student, teacher = (copy.deepcopy(module).to(memory_format=torch.channels_last) for _ in range(2))
    student.requires_grad_(True)
    step = plain.fine_tuning(copy.deepcopy(module), copy.deepcopy(module), images)
    return {
        OURS: lambda: trainer.run(trainer.step + _ITERATIONS),
        LIMIT: lambda: [train_in_float(student, teacher, images, precision) for _ in range(_ITERATIONS)],
        PLAIN: lambda: [step() for _ in range(_ITERATIONS)],
    }


def train_in_float(student: nn.Module, teacher: nn.Module, images: Tensor, precision: torch.dtype) -> None:
    """The passes of a step of distillation without a quantizer, as eager PyTorch does them best."""
    x = images.to(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        with torch.no_grad():
            expected = teacher(x)
        logits = student(x)
    (logits.float() - expected.float()).square().sum().backward()
    student.zero_grad(set_to_none=True)


WORK = {SYNTHESIS: synthesis, FINE_TUNING: fine_tuning}


def works(network: str, work: str, precision: torch.dtype, device: torch.device) -> dict[str, Callable[[], object]]:
    """Functions that do a network's work on a device and wait for it, by implementation."""
    count, pixels = NETWORKS[network]
    runs = WORK[work](model_of(network, pixels), count, precision, device)
    if device.type != "cuda":
        return runs

    def waiting(run: Callable[[], object]) -> Callable[[], object]:
        return lambda: (run(), torch.cuda.synchronize(device))

    return {name: waiting(run) for name, run in runs.items()}


def peak(network: str, work: str, precision: str, implementation: str, device: torch.device) -> float:
    """MiB that one implementation holds at most, in a process of its own, beyond what it holds before."""
    arguments = [sys.executable, __file__, "--peak", network, work, precision, implementation, "--device", device.type]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measure_peak(network: str, work: str, precision: str, implementation: str, device: torch.device) -> None:
    """Prints what `peak` reads."""
    run = works(network, work, getattr(torch, precision), device)[implementation]
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(2):
            run()
        print((torch.cuda.max_memory_allocated(device) - before) / 2**20)
        return
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the greatest so far
    for _ in range(2):
        run()
    print((memory("VmHWM") - before) / 1024)


def memory(field: str) -> int:
    """KiB that Linux counts for this process, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def rows_of(network: str, work: str, seconds: float, threads: int, device: torch.device) -> list[dict[str, object]]:
    """The rows of one network's work."""
    count, pixels = NETWORKS[network]
    precision = "bfloat16" if has_bfloat16(device) else "float32"
    times = interleaved(works(network, work, getattr(torch, precision), device), 1000, seconds, threads)
    done = count * _ITERATIONS
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
    rows: list[dict[str, object]] = []
    for name, taken in times.items():
        limit, beside = speed(taken, times[LIMIT]), speed(taken, times[PLAIN])
        rows.append({
            "network": Path(network).name if "/" in network else network,
            "work": work, "precision": precision, "implementation": name, "images": count, "pixels": pixels,
            "images_per_s": f"{1000 * done / float(sorted(taken)[len(taken) // 2]):.1f}",
            "vs_limit": f"{limit.value:.2f}", "vs_limit_low": f"{limit.low:.2f}", "vs_limit_high": f"{limit.high:.2f}",
            "vs_plain": f"{beside.value:.2f}", "vs_plain_low": f"{beside.low:.2f}",
            "vs_plain_high": f"{beside.high:.2f}",
            "peak_mib": f"{peak(network, work, precision, name, device):.0f}",
            "cpu": hardware, "threads": threads, "date": datetime.date.today().isoformat(), "commit": commit(),
            "versions": f"torch {torch.__version__}",
        })  # fmt: skip
        print(*(rows[-1][column] for column in COLUMNS[:14]), flush=True)
    return rows


def write(rows: list[dict[str, object]]) -> None:
    """Adds rows to the file; they replace those of the same network, work, precision, implementation and CPU."""

    def key(row: dict[str, object]) -> tuple[str, ...]:
        return tuple(
            str(row[column]) for column in ("network", "work", "precision", "implementation", "cpu", "threads")
        )

    kept: list[dict[str, object]] = []
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            kept = list(csv.DictReader(file))
    merged = {key(row): row for row in [*kept, *rows]}
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(merged.values())


def write_page() -> None:
    """Writes the table of docs/throughput.md."""
    with RESULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    head = ("network", "work", "images/s", "of the limit", "times plain", "MiB: ours, limit, plain")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        if row["implementation"] != OURS:
            continue
        same = ("network", "work", "cpu", "threads")
        alike = [each for each in rows if all(each[name] == row[name] for name in same)]
        memory = {each["implementation"]: each["peak_mib"] for each in alike}
        ratios = (
            f"{row[f'vs_{name}']} ({row[f'vs_{name}_low']} to {row[f'vs_{name}_high']})" for name in (LIMIT, PLAIN)
        )
        name = f"{row['network'].rpartition(':')[2]}, {row['images']} x {row['pixels']}"
        peaks = ", ".join(memory[each] for each in (OURS, LIMIT, PLAIN))
        lines.append(f"| {name} | {row['work']} | {row['images_per_s']} | {' | '.join(ratios)} | {peaks} |")
    told = ("cpu", "precision", "versions", "date", "commit")
    notes = "; ".join(sorted({", ".join(row[column] for column in told) for row in rows}))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, behind = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{chr(10).join(lines)}\n\n{notes}.\n\n{END}{behind}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--work", choices=list(WORK))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=CPU)
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        measure_peak(*args.peak, args.device)
        return 0
    unknown = [network for network in args.networks if network not in NETWORKS]
    if unknown:
        parser.error(f"the network {unknown[0]!r} is unknown: choose of {', '.join(NETWORKS)}")
    torch.set_num_threads(args.threads)
    keep_memory()  # as the command line does; the limit and the plain implementation have it too
    for network in args.networks or NETWORKS:
        for work in [args.work] if args.work else WORK:
            write(rows_of(network, work, args.seconds, args.threads, args.device))
            write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main())
