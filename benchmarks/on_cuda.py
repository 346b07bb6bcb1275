"""What a CUDA device makes of the chain, in one command of a few minutes: prints tables, and keeps nothing.

    python benchmarks/on_cuda.py [--device cuda] [--few]

The built-in ResNet-20 at W4A4 as in the demo, and ResNet-18 with random weights at `quick`: seconds of making images,
of the student and of the comparison; top-1 where there are labelled images; integers that ONNX Runtime computes
otherwise, on the CPU. Then the same student on the CPU and on the device: how many codes of all tensors differ.
Convolutions sum in another order there, so a value in the middle between two codes may fall to the other side, and what
follows with it.

`--device cpu` rehearses it; `--few` takes few images and iterations. On the device, `pytest -m gpu` has the tests,
benchmarks/throughput/run.py --device cuda the throughput, and benchmarks/gpu.py TensorRT's engines. **Nothing of this
has run on a GPU yet.**
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent / "throughput"))
from run import model_of

from intraq_deploy import evaluate, export, freeze, quantize, synthesize, validate
from intraq_deploy.graph.execute import walk_keeping
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline.run import machine
from intraq_deploy.quantization.network import FakeQuantNetwork

SAMPLE = "builtin:cifar10-sample"
_COMPARED = 32


def codes(student: FakeQuantNetwork, images: Tensor, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the answers, int64 [N], and the codes of all quantized tensors by name, int64 [N, ...], on the CPU."""
    student.to(device)
    names = student.placement.quantized()
    with torch.no_grad():
        logits, found = walk_keeping(student.graph, images.to(device), student.evaluate, names)
        scales = {name: quantizer.scale for name in names if (quantizer := student.quantizer(name)) is not None}
        rounded = {name: (found[name] / scales[name]).round().long().cpu() for name in names}
    student.cpu()
    return logits.argmax(1).cpu(), rounded


def row(name: str, model: Model, labelled: str | None, device: str, few: bool) -> list[str]:
    """One network through the chain, as cells of the table."""
    counts = {"images": 16, "iterations": 10} if few else {}
    start = time.perf_counter()
    images = synthesize(model, device=device, progress=False, **counts)
    made = time.perf_counter()
    student = quantize(model, images, steps=5 if few else None, device=device, progress=False)
    trained = time.perf_counter()
    program = freeze(student)
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(program, folder, model=model)
        parity = validate(artifact, program, images, progress=False).parity
        compared = time.perf_counter()
        top1 = "" if labelled is None else f"{evaluate(artifact, labelled, model=model, progress=False).top1:.2f}"
    (answers, here), (others, there) = (
        codes(student, images.images[:_COMPARED], torch.device(where)) for where in ("cpu", device)
    )
    differing = sum(int((here[tensor] != there[tensor]).sum()) for tensor in here)
    return [
        name,
        *(f"{seconds:.0f}" for seconds in (made - start, trained - made, compared - trained)),
        top1,
        f"{parity.mismatched:,} of {parity.compared:,}",
        f"{differing:,} of {sum(tensor.numel() for tensor in here.values()):,}",
        f"{int((answers != others).sum())} of {len(answers)}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--few", action="store_true")
    args = parser.parse_args()
    name = torch.cuda.get_device_name() if args.device == "cuda" else machine()
    head = (
        "network", "images, s", "student, s", "comparison, s", "top-1", "integers that differ, ONNX Runtime",
        "codes that differ, CPU and device", "answers that differ",
    )  # fmt: skip
    print(f"{name}, torch {torch.__version__}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    resnet20, resnet18 = model_of("builtin:resnet20-cifar10", 32), model_of("torchvision:resnet18", 224)
    networks = {"ResNet-20": (resnet20, SAMPLE), "ResNet-18": (resnet18, None)}
    differing = 0
    for network, (model, labelled) in networks.items():
        cells = row(network, model, labelled, args.device, args.few)
        print(f"| {' | '.join(cells)} |", flush=True)
        differing += not cells[5].startswith("0 of")
    return 3 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
