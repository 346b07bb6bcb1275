"""Makes docs/networks.md: every supported network at full size, quantized, compared integer by integer, and timed.

Weights are random and batch norms realistic: integers, kernels and speed do not depend on what was learned. Finished
rows are kept in networks.csv beside this file, so an interrupted run continues.

    python benchmarks/networks.py [NETWORK ...]
"""

import collections
import csv
import math
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from intraq_deploy.targets.onnxruntime.target import export, open_shipped
from intraq_deploy.targets.profile import load_profile
from torch import nn

from intraq_deploy.evaluation.latency import paired_medians
from intraq_deploy.graph import trace
from intraq_deploy.models.architecture import find_architecture
from intraq_deploy.pipeline.run import freedom_of, machine
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program import float_program, freeze, settle
from intraq_deploy.program.bounds import largest_accumulator
from intraq_deploy.program.program import IntegerWeights
from intraq_deploy.quantization import make_scheme
from intraq_deploy.quantization.build import build_network

TABLE = Path(__file__).with_name("networks.csv")
PAGE = Path(__file__).parent.parent / "docs" / "networks.md"
MARKER = "<!-- made by benchmarks/networks.py -->"
COLUMNS = (
    "network", "pixels", "bits", "integer_layers", "float_layers", "toleranced", "why", "compared", "mismatched",
    "headroom_bits", "mib_float32", "mib", "ms_float32", "ms", "machine", "versions",
)  # fmt: skip
NETWORKS = (
    *(
        f"torchvision:{name}"
        for name in (
            "resnet18", "resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg16_bn", "densenet121",
            "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
            "shufflenet_v2_x1_0", "mnasnet1_0", "efficientnet_b0", "regnet_x_400mf", "regnet_y_400mf",
            "alexnet", "vgg11", "squeezenet1_1", "convnext_tiny",
        )
    ),
    *(
        f"timm:{name}"
        for name in (
            "mobilenetv1_100", "efficientnet_lite0", "repvgg_a0", "ghostnet_100", "resnet18d",
            "tf_mobilenetv3_small_100",
        )
    ),
)  # fmt: skip
BITS = (4, 8)
_CALIBRATED, _COMPARED = 8, 4


def realistic(module: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """Random batch norms as training leaves them: gammas of both signs, statistics of what flows through."""
    generator = torch.Generator().manual_seed(0)
    for norm in (layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.weight[::7] *= -1
            norm.bias.normal_(0, 0.3, generator=generator)
            norm.train()
    with torch.no_grad():
        module(torch.randn(4, *shape, generator=generator))
    return module.eval().requires_grad_(False)


def row(network: str) -> dict[str, object]:
    """Everything about one network at W4A8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        architecture = find_architecture(network)
        module = architecture.make(1000, 3)
    assert architecture.preprocessing is not None
    shape = (3, *architecture.preprocessing.input_size)
    graph = trace(realistic(module.eval(), shape), shape)
    images = torch.randn(_CALIBRATED + _COMPARED, *shape, generator=torch.Generator().manual_seed(1))
    student = build_network(graph, make_scheme("integer", *BITS, freedom_of(("onnxruntime",))), images[:_CALIBRATED], 0)
    settle(student)
    program = freeze(student)
    with tempfile.TemporaryDirectory() as folder:
        plain, ours = Path(folder, "float32"), Path(folder, "ours")
        plain.mkdir()
        ours.mkdir()
        baseline = export(float_program(graph), load_profile("onnxruntime"), plain, {})
        artifact = export(program, load_profile("onnxruntime"), ours, {})
        result = validate(artifact, program, images[_CALIBRATED:])
        sessions = {"float32": open_shipped(baseline, threads=1), "ours": open_shipped(artifact, threads=1)}
        times = paired_medians({name: partial(session.run, images[:1]) for name, session in sessions.items()})
    layers = len(program.layers)
    integer = sum(isinstance(weights, IntegerWeights) for weights in program.layers.values())
    reasons = collections.Counter(t.reason.rpartition(": ")[2] for t in program.tolerances.values())
    largest = largest_accumulator(program)[1]
    return {
        "network": network,
        "pixels": shape[1],
        "bits": f"W{BITS[0]}A{BITS[1]}",
        "integer_layers": integer - result.layers_left_in_float,
        "float_layers": layers - integer + result.layers_left_in_float,
        "toleranced": len(program.tolerances),
        "why": "; ".join(f"{count} {reason}" for reason, count in reasons.items()),
        "compared": result.parity.compared,
        "mismatched": result.parity.mismatched,
        "headroom_bits": f"{math.log2((1 << 31) / largest):.1f}",
        "mib_float32": f"{baseline.bytes / (1 << 20):.2f}",
        "mib": f"{artifact.bytes / (1 << 20):.2f}",
        "ms_float32": f"{times['float32']:.2f}",
        "ms": f"{times['ours']:.2f}",
        "machine": machine(),
        "versions": f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}",
    }


def render(rows: list[dict[str, str]]) -> str:
    """The page's table."""
    lines = [
        "| network | pixels | integer layers | float layers | toleranced tensors | integers compared | differing | "
        "head-room, bits | MiB, float32 to ours | time, ours / float32 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        why = f" ({row['why']})" if row["why"] else ""
        lines.append(
            f"| {row['network']} | {row['pixels']} | {row['integer_layers']} | {row['float_layers']} | "
            f"{row['toleranced']}{why} | {int(row['compared']):,} | {int(row['mismatched']):,} | "
            f"{row['headroom_bits']} | {row['mib_float32']} to {row['mib']} | "
            f"{float(row['ms']) / float(row['ms_float32']):.2f} |"
        )
    conditions = sorted({f"{row['machine']}; {row['versions']}; {row['bits']}" for row in rows})
    return "\n".join([*lines, "", *(f"{condition}." for condition in conditions)]) + "\n"


def main() -> None:
    rows = list(csv.DictReader(TABLE.open(newline=""))) if TABLE.exists() else []
    for network in sys.argv[1:] or NETWORKS:
        if network in {row["network"] for row in rows}:
            continue
        start = time.perf_counter()
        rows.append({key: str(value) for key, value in row(network).items()})
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    before = PAGE.read_text().partition(MARKER)[0] if PAGE.exists() else ""
    PAGE.write_text(f"{before}{MARKER}\n\n{render(rows)}")


if __name__ == "__main__":
    main()
