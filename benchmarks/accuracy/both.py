"""Measures what a program that suits TensorRT too loses, beside one for ONNX Runtime alone, from the same images.

    python benchmarks/accuracy/both.py [NETWORK ...] [--seeds 0,1,2] [--data FOLDER]
    python benchmarks/accuracy/both.py --table

TensorRT's INT8 codes are signed, so behind a ReLU it has those from 0 to 127, and ONNX Runtime those from 0 to 255.
Recipe `quick`, scheme `integer`. Rows go into benchmarks/both.csv; one that is there is not made again. Test images
only measure.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import networks
import rows
import torch
from run import answer, choose_device, seeds_of, top1
from sets import image_set, recipe_of
from torch import Tensor

from intraq_deploy.data.labelled import normalise
from intraq_deploy.graph.trace import trace
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline.run import machine
from intraq_deploy.pipeline.schemes import SchemeChoice
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network, prepare
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnxruntime.opening import open_shipped
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.training.student import StudentTraining
from intraq_deploy.training.teacher import Teacher

FILE = networks.HERE.parent / "both.csv"
BITS = ((4, 4), (4, 8), (8, 8))
SUITED = {"ONNX Runtime": ("onnxruntime",), "both": ("onnxruntime", "tensorrt-int8")}
COLUMNS = ("network", "bits", "suits", "seed", "test", "float", "deployed", "differ", "hardware", "versions", "commit")
_BATCH, _COMPARED = 100, 32


def deployed(
    model: Model, images: SyntheticSet, bits: tuple[int, int], targets: tuple[str, ...], seed: int, tests: list[Tensor]
) -> tuple[list[Tensor], int]:
    """Logits of the file for ONNX Runtime on each set of tests, and how many integers differ on the first images."""
    recipe = recipe_of("quick", model)
    scheme = SchemeChoice("integer", targets, ranges=recipe.quantization.ranges).at(*bits)
    graph = prepare(trace(model.module, model.input_shape), recipe.quantization, scheme, images.images, seed)
    student, teacher = build_network(graph, scheme, images.images, seed), Teacher(graph).to(choose_device())
    StudentTraining(teacher, images, recipe.student, seed, choose_device()).learn(student)
    settle(student.cpu())
    program = freeze(student)
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(program, load_profile("onnxruntime"), Path(folder), {})
        differ = validate(artifact, program, tests[0][:_COMPARED]).parity.mismatched
        run = open_shipped(artifact, threads=torch.get_num_threads()).run
        return [torch.cat([run(part) for part in images.split(_BATCH)]) for images in tests], differ


def make(name: str, seeds: list[int], data: Path) -> None:
    """The rows of one network."""
    model = networks.load(name, data)
    loaded = [(test, *networks.images(test, data)) for test in networks.NETWORKS[name].tests]
    tests = [normalise(pixels, model.preprocessing) for _, pixels, _ in loaded]
    teacher = Teacher(trace(model.module, model.input_shape)).to(choose_device())
    floating = [answer(teacher, images) for images in tests]
    for seed in seeds:
        images, _, _ = image_set(name, model, "quick", recipe_of("quick", model).synthesis, seed, data)
        for weights, activations in BITS:
            for suits, targets in SUITED.items():
                bits = f"W{weights}A{activations}"
                key = (name, bits, suits, str(seed))
                if any(tuple(row[column] for column in COLUMNS[:4]) == key for row in rows.read(FILE)):
                    continue
                found, differ = deployed(model, images, (weights, activations), targets, seed, tests)
                versions = f"torch {torch.__version__}"
                for (test, _, labels), before, after in zip(loaded, floating, found, strict=True):
                    figures = (f"{top1(before, labels):.2f}", f"{top1(after, labels):.2f}", differ)
                    write((*key, test, *figures, machine(), versions, rows.commit()))


def write(row: tuple[object, ...]) -> None:
    """Adds a row to the file, and prints it."""
    new = not FILE.exists()
    with FILE.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(row)
    print(*row[:8], flush=True)


def table() -> str:
    """Points lost by network, test images and bits, as a Markdown table: means over seeds, and the seeds' range."""
    kept = rows.read(FILE)
    lines = ["| network | test images | bits | ONNX Runtime alone | TensorRT too |", "|---|---|---|---|---|"]
    for network, test, bits in dict.fromkeys((row["network"], row["test"], row["bits"]) for row in kept):
        cells = []
        for suits in SUITED:
            lost = [
                float(row["float"]) - float(row["deployed"])
                for row in kept
                if (row["network"], row["test"], row["bits"], row["suits"]) == (network, test, bits, suits)
            ]
            several = f" ({min(lost):.2f} to {max(lost):.2f})" if len(lost) > 1 else " (1 seed)"
            cells.append(f"{sum(lost) / len(lost):.2f}{several}" if lost else "not measured")
        lines.append(f"| {network} | {test} | {bits} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(networks.NETWORKS))
    parser.add_argument("--seeds", type=seeds_of, default="0")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--table", action="store_true", help="print the table alone")
    args = parser.parse_args()
    if args.table:
        print(table())
        return 0
    unknown = [name for name in args.networks if name not in networks.NETWORKS]
    if unknown:
        parser.error(f"the network {unknown[0]!r} is unknown: choose of {', '.join(networks.NETWORKS)}")
    for name in args.networks:
        make(name, args.seeds, networks.data_folder(args.data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
