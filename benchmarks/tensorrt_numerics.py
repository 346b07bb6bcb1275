"""How TensorRT's arithmetic differs from a Program's, without a GPU: one row per network and bits.

    python benchmarks/tensorrt_numerics.py

Random weights with realistic batch norms, 224 pixels, ranges only. Columns: the integers that any order of float32
roundings could change (program/ties.py), which is what an engine's gate allows; those that differ when TensorRT's
arithmetic is simulated (targets/tensorrt/arithmetic.py; products and sums rounded twice, and once), and when ONNX
Runtime runs the file for TensorRT in float32; in which types TensorRT for RTX multiplies. Tensors are compared one by
one, each from the same codes before it. Writes docs/tensorrt.md's table.
"""

import re
import tempfile
from collections import Counter
from pathlib import Path

import torch
from networks import network_of

from intraq_deploy.evaluation.parity import Parity, compare
from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.targets.tensorrt.arithmetic import TensorRTArithmetic
from intraq_deploy.targets.tensorrt.layers import computed_in
from intraq_deploy.targets.tensorrt.rtx import compile_model

PAGE = Path(__file__).parents[1] / "docs" / "tensorrt.md"
NETWORKS = ("torchvision:resnet18", "torchvision:resnet50", "timm:mobilenetv1_100", "torchvision:mobilenet_v2")
BITS = ((4, 4), (4, 8), (8, 8))
SHAPE, IMAGES, BATCH = (3, 224, 224), 8, 2


def row(name: str, graph, images: torch.Tensor, bits: tuple[int, int]) -> list[str]:
    """One line of the table."""
    module = build_network(graph, make_scheme("integer", *bits), images, 0)
    settle(module)
    program = freeze(module)
    simulated = [
        compare(program, TensorRTArithmetic(program, fused=fused).observed, images, BATCH, own_rounding=True)
        for fused in (False, True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(program, load_profile("tensorrt-int8"), Path(folder), {})
        rehearsed = validate(artifact, program, images).parity
        model = artifact.model
        compiled = compile_model(artifact.path.read_bytes(), "8.6")
    kinds = Counter(computed_in(model, compiled.layers).values())
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    if any(tensor.beyond_rounding for parity in simulated for tensor in parity.tensors):
        raise SystemExit(f"{name}, {bits}: a simulated integer differs where rounding does not explain it")
    near = f"{int(simulated[0].near_ties.sum())}"
    differing = [shown(parity) for parity in (*simulated, rehearsed)]
    return [name.partition(":")[2], f"W{bits[0]}A{bits[1]}", f"{rehearsed.compared:,}", near, *differing, found]


def shown(parity: Parity) -> str:
    """Differing integers, and by how much at most."""
    largest = max(tensor.largest_difference for tensor in parity.tensors)
    return f"{parity.mismatched}" + (f" (by {largest})" if largest else "")


def main() -> None:
    images = torch.randn(IMAGES, *SHAPE, generator=torch.Generator().manual_seed(1))
    heading = (
        "network", "bits", "integers", "near a tie", "simulated, rounded twice", "simulated, once",
        "ONNX Runtime, float32", "layers, TensorRT for RTX",
    )  # fmt: skip
    lines = [f"| {' | '.join(heading)} |", f"|{'---|' * len(heading)}"]
    for name in NETWORKS:
        graph = trace(network_of(name, None)[0], SHAPE)
        for bits in BITS:
            lines.append(f"| {' | '.join(row(name, graph, images, bits))} |")
            print(lines[-1], flush=True)
    start, end = "<!-- numerics: made by benchmarks/tensorrt_numerics.py -->", "<!-- end of numerics -->"
    page = re.sub(rf"{start}.*?{end}", "\n".join([start, *lines, end]), PAGE.read_text(), flags=re.DOTALL)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
