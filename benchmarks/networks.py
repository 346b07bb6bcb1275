"""Makes docs/networks.md: every supported network at full size, quantized, compared integer by integer, and timed.

Weights are random and batch norms realistic: integers, kernels and speed do not depend on what was learned. Networks of
published.py have their published weights if a folder has them. Finished rows are kept in networks.csv beside this file,
so an interrupted run continues.

    python benchmarks/networks.py [--weights DIR] [NETWORK ...]
"""

import argparse
import collections
import csv
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from published import EfficientNetLite0, MobileNetV1, MobileNetV2Same, ResNet20Wide
from resnet20_option_a import ResNet20
from torch import nn

from intraq_deploy.graph.trace import trace
from intraq_deploy.models.architecture import find_architecture
from intraq_deploy.pipeline.run import machine
from intraq_deploy.pipeline.schemes import SchemeChoice
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program.bounds import accumulators
from intraq_deploy.program.freeze import float_program, freeze
from intraq_deploy.program.program import IntegerWeights
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnxruntime.static import quantize_static
from intraq_deploy.targets.profile import load_profile

sys.path.append(str(Path(__file__).parent / "latency"))
from measure import interleaved, onnxruntime_model
from models import export_with_torch, realistic

TABLE = Path(__file__).with_name("networks.csv")
PAGE = Path(__file__).parent.parent / "docs" / "networks.md"
MARKER = "<!-- made by benchmarks/networks.py -->"
COLUMNS = (
    "network", "pixels", "bits", "integer_layers", "float_layers", "toleranced", "why", "compared", "mismatched",
    "mismatched_toleranced", "headroom_bits", "mib_float32", "mib", "ms_float32", "ms_static", "ms", "machine",
    "versions",
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
PUBLISHED = {
    "resnet20_cifar10": (ResNet20, 32, 10),
    "resnet20wide_stem_cifar100": (ResNet20Wide, 32, 100),
    "mobilenetv1_w075_imagenet": (MobileNetV1, 224, 1000),
    "mobilenetv2_w1_imagenet": (MobileNetV2Same, 224, 1000),
    "efficientnet_lite0_imagenet": (EfficientNetLite0, 224, 1000),
}
"""By the names of their files of weights."""
BITS = (4, 8)
_CALIBRATED, _COMPARED = 8, 4
_ROUNDS, _SECONDS = 60, 12.0


def network_of(name: str, weights: Path | None) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network by its name in the table, and the shape of its images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name in PUBLISHED:
            make, size, classes = PUBLISHED[name]
            shape = (3, size, size)
            module = make(classes).eval().requires_grad_(False)
        else:
            architecture = find_architecture(name)
            assert architecture.preprocessing is not None
            shape = (3, *architecture.preprocessing.input_size)
            module = architecture.make(1000, 3)
    if name in PUBLISHED and weights is not None:
        module.load_state_dict(torch.load(weights / f"{name}.pth", weights_only=True))
    else:
        realistic(module, shape)
    return module, shape


def row(network: str, weights: Path | None) -> dict[str, object]:
    """Everything about one network at W4A8."""
    module, shape = network_of(network, weights)
    graph = trace(module, shape)
    images = torch.randn(_CALIBRATED + _COMPARED, *shape, generator=torch.Generator().manual_seed(1))
    student = build_network(graph, SchemeChoice("integer", ("onnxruntime",)).at(*BITS), images[:_CALIBRATED], 0)
    settle(student)
    program = freeze(student)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, ours = folder / "float32", folder / "ours"
        plain.mkdir()
        ours.mkdir()
        baseline = export(float_program(graph), load_profile("onnxruntime"), plain, {})
        artifact = export(program, load_profile("onnxruntime"), ours, {})
        export_with_torch(module, images[:1], folder / "torch.onnx")
        quantize_static(folder / "torch.onnx", folder / "static.onnx", images[:_CALIBRATED])
        result = validate(artifact, program, images[_CALIBRATED:])
        files = {"ours": artifact.path, "float32": baseline.path}
        files |= {"torch": folder / "torch.onnx", "static": folder / "static.onnx"}
        runs = {name: onnxruntime_model(path, images[:1].numpy(), 1) for name, path in files.items()}
        times = {name: np.median(each) for name, each in interleaved(runs, _ROUNDS, _SECONDS, 1).items()}
    layers = len(program.layers)
    within = sum(tensor.mismatched for tensor in result.parity.tensors if tensor.tolerance is not None)
    integer = sum(isinstance(weights, IntegerWeights) for weights in program.layers.values())
    reasons = collections.Counter(t.reason.rpartition(": ")[2] for t in program.tolerances.values())
    largest = max(accumulators(program).values(), default=0)
    return {
        "network": network,
        "pixels": shape[1],
        "bits": f"W{BITS[0]}A{BITS[1]}",
        "integer_layers": integer - result.layers_left_in_float,
        "float_layers": layers - integer + result.layers_left_in_float,
        "toleranced": len(program.tolerances),
        "why": "; ".join(f"{count} {reason}" for reason, count in reasons.items()),
        "compared": result.parity.compared,
        "mismatched": result.parity.mismatched - within,
        "mismatched_toleranced": within,
        "headroom_bits": f"{math.log2((1 << 31) / largest):.1f}",
        "mib_float32": f"{baseline.bytes / (1 << 20):.2f}",
        "mib": f"{artifact.bytes / (1 << 20):.2f}",
        "ms_float32": f"{min(times['float32'], times['torch']):.2f}",
        "ms_static": f"{times['static']:.2f}",
        "ms": f"{times['ours']:.2f}",
        "machine": machine(),
        "versions": f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}",
    }


def render(rows: list[dict[str, str]]) -> str:
    """The page's table."""
    lines = [
        "| network | pixels | integer layers | float layers | toleranced tensors | integers compared | "
        "differing where exact | head-room, bits | MiB, float32 to ours | time / float32 | time / quantize_static |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        differ = f"; integers that differ: {row['mismatched_toleranced']}" if int(row["mismatched_toleranced"]) else ""
        why = f" ({row['why']}{differ})" if row["why"] else ""
        lines.append(
            f"| {row['network']} | {row['pixels']} | {row['integer_layers']} | {row['float_layers']} | "
            f"{row['toleranced']}{why} | {int(row['compared']):,} | {int(row['mismatched']):,} | "
            f"{row['headroom_bits']} | {row['mib_float32']} to {row['mib']} | "
            f"{float(row['ms']) / float(row['ms_float32']):.2f} | "
            f"{float(row['ms']) / float(row['ms_static']):.2f} |"
        )
    conditions = sorted({f"{row['machine']}; {row['versions']}; {row['bits']}" for row in rows})
    return "\n".join([*lines, "", *(f"{condition}." for condition in conditions)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[*NETWORKS, *PUBLISHED])
    parser.add_argument("--weights", type=Path, help="a folder with the published weights, else they are random")
    args = parser.parse_args()
    rows = list(csv.DictReader(TABLE.open(newline=""))) if TABLE.exists() else []
    for network in args.networks:
        if network in {row["network"] for row in rows}:
            continue
        start = time.perf_counter()
        rows.append({key: str(value) for key, value in row(network, args.weights).items()})
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    write_page(rows)


def write_page(rows: list[dict[str, str]]) -> None:
    """In the order of the lists above."""
    order = [*NETWORKS, *PUBLISHED]
    before = PAGE.read_text().partition(MARKER)[0] if PAGE.exists() else ""
    PAGE.write_text(f"{before}{MARKER}\n\n{render(sorted(rows, key=lambda row: order.index(row['network'])))}")


if __name__ == "__main__":
    main()
