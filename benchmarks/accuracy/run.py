"""Makes rows of the accuracy tables: one, or all that a table still lacks.

    python benchmarks/accuracy/run.py NETWORK RECIPE W4A4 P3 SEED
    python benchmarks/accuracy/run.py --table ablation [--seeds 0,1]

NETWORK: see networks.py. RECIPE: a file of recipes/ or a built-in recipe; "static" is ONNX Runtime's quantize_static,
"real" takes real training images in place of synthetic ones. P1, P3: the schemes `paper` and `integer`. A finished row
is never made again; two or more of these commands may run side by side. Test images only measure: nothing is chosen on
them, and the reported student is always the last one.
"""

import argparse
import contextlib
import fcntl
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import networks
import onnxruntime
import plan
import rows
import torch
from leaves import dead_leaves
from rows import Key
from sets import REAL, RECIPES, image_set, recipe_of
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
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.recipes import BUILTIN, Recipe
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnxruntime.opening import open_shipped
from intraq_deploy.targets.onnxruntime.static import quantize_static
from intraq_deploy.targets.profile import load_profile
from intraq_deploy.training.losses import distillation
from intraq_deploy.training.student import StudentTraining
from intraq_deploy.training.teacher import Teacher

sys.path.append(str(networks.HERE.parent / "latency"))
from models import export_with_torch

STATIC = "static"
HELD, HELD_SEED = ("held", "held-bns"), 1000
"""Images of a seed of their own, on which steps of a recipe may be compared without looking at a test set."""
LEAVES = "held-leaves"
_LEAVES = 256
_COMPARED = 32
_BATCH = 100


def choose_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(slots=True)
class Bench:
    """A network with all that its rows share."""

    name: str
    data: Path
    model: Model
    teacher: Teacher
    tests: dict[str, tuple[Tensor, Tensor]]
    """Normalised images and labels."""
    answers: dict[str, Tensor]
    """The float network's logits on them."""
    held: dict[str, Tensor]
    """By recipe of HELD, and LEAVES."""


def bench_of(name: str, data: Path) -> Bench:
    """Loads everything, and measures the float network."""
    model = networks.load(name, data)
    teacher = Teacher(trace(model.module, model.input_shape)).to(choose_device())
    tests = {}
    for test in networks.NETWORKS[name].tests:
        pixels, labels = networks.images(test, data)
        tests[test] = normalise(pixels, model.preprocessing), labels
    ways = HELD if name in plan.COMPARED else ()
    held = {
        way: image_set(name, model, way, recipe_of(way, model).synthesis, HELD_SEED, data)[0].images for way in ways
    }
    _, _, size = model.input_shape
    held[LEAVES] = normalise(dead_leaves(_LEAVES, size, HELD_SEED), model.preprocessing)
    answers = {test: answer(teacher, images) for test, (images, _) in tests.items()}
    return Bench(name, data, model, teacher, tests, answers, held)


def answer(network: torch.nn.Module, images: Tensor) -> Tensor:
    """Logits, on the CPU."""
    device = choose_device()
    network = network.to(device)
    with torch.no_grad():
        parts = [network(part.to(device).to(memory_format=torch.channels_last)) for part in images.split(_BATCH)]
    return torch.cat(parts).cpu()


def top1(logits: Tensor, labels: Tensor) -> float:
    """Percent."""
    return 100 * float((logits.argmax(1) == labels).double().mean())


def make(bench: Bench, key: Key) -> None:
    """One row for every test set."""
    recipe = recipe_of("intraq" if key.recipe == STATIC else key.recipe, bench.model)
    images, quality, seconds = image_set(bench.name, bench.model, key.recipe, recipe.synthesis, key.seed, bench.data)
    recipe = replace(recipe, synthesis=replace(recipe.synthesis, images=len(images)))
    common: dict[str, object] = {
        "network": key.network,
        "protocol": key.protocol,
        "bits": key.bits,
        "recipe": key.recipe,
        "seed": key.seed,
        "images": len(images),
        "iterations": 0 if key.recipe in REAL else recipe.synthesis.iterations,
        "steps": 0 if key.recipe == STATIC else recipe.training.steps,
        "batch": recipe.training.batch,
        "precision": recipe.training.precision,
        "bn_distance": f"{quality.bn_distance:.3f}",
        "intra_class_distance": "" if quality.intra_class_distance is None else f"{quality.intra_class_distance:.3f}",
        "seconds_images": f"{seconds:.0f}",
        "hardware": machine() + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "versions": f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}",
        "commit": rows.commit(),
    }
    with tempfile.TemporaryDirectory() as folder:
        measured = _static if key.recipe == STATIC else _ours
        for test, values in measured(bench, key, recipe, images, Path(folder)).items():
            if key.recipe in REAL and test == networks.NETWORKS[key.network].real:
                continue  # it has made the student
            floating = top1(bench.answers[test], bench.tests[test][1])
            rows.append(common | {"test": test, "float": f"{floating:.2f}"} | values)


def calibrated(bench: Bench, key: Key, recipe: Recipe, images: SyntheticSet) -> tuple[FakeQuantNetwork, Teacher]:
    """The student with its ranges only, and the float network that it learns from."""
    ranges, depthwise = recipe.quantization.ranges, key.depthwise_bits
    choice = SchemeChoice(rows.PROTOCOLS[key.protocol], ("onnxruntime",), ranges=ranges, depthwise_bits=depthwise)
    scheme = choice.at(key.weight_bits, key.activation_bits)
    traced = trace(bench.model.module, bench.model.input_shape)
    graph = prepare(traced, recipe.quantization, scheme, images.images, key.seed)
    return build_network(graph, scheme, images.images, key.seed), Teacher(graph).to(choose_device())


def _ours(bench, key, recipe, images: SyntheticSet, folder: Path) -> dict[str, dict[str, object]]:
    """Quantized, trained, frozen, exported and run in ONNX Runtime."""
    start = time.perf_counter()
    student, teacher = calibrated(bench, key, recipe, images)
    before = {test: top1(answer(student, pixels), labels) for test, (pixels, labels) in bench.tests.items()}
    StudentTraining(teacher, images, recipe.student, key.seed, choose_device()).learn(student)
    seconds = time.perf_counter() - start
    divergences = {
        way: f"{float(distillation(answer(student, held), answer(bench.teacher, held), 1.0)):.4f}"
        for way, held in bench.held.items()
    }
    student = student.cpu()
    settle(student)
    program = freeze(student)
    artifact = export(program, load_profile("onnxruntime"), folder, {})
    parity = validate(artifact, program, bench.tests[next(iter(bench.tests))][0][:_COMPARED])
    if not parity.passes:
        raise SystemExit(f"{key}: the deployed network differs from the program: {parity.parity.failures}")
    shared = {
        **{f"{way.replace('-', '_')}_kl": divergence for way, divergence in divergences.items()},
        "integers_compared": parity.parity.compared,
        "integers_differing": parity.parity.mismatched,
        "seconds_training": f"{seconds:.0f}",
    }
    return {test: shared | {"ranges_only": f"{before[test]:.2f}"} | _deployed(bench, test, student, open_shipped(
        artifact, threads=torch.get_num_threads()).run) for test in bench.tests}  # fmt: skip


def _deployed(bench: Bench, test: str, student: FakeQuantNetwork | None, run) -> dict[str, object]:
    """Accuracy in ONNX Runtime, and beside it that of what was trained."""
    images, labels = bench.tests[test]
    found = torch.cat([run(part) for part in images.split(_BATCH)])
    values: dict[str, object] = {"deployed": f"{top1(found, labels):.2f}"}
    if student is not None:
        trained = answer(student, images)
        values["fake_quant"] = f"{top1(trained, labels):.2f}"
        values["agreement"] = f"{top1(found, trained.argmax(1)):.2f}"
    return values


def _static(bench, key, recipe, images: SyntheticSet, folder: Path) -> dict[str, dict[str, object]]:
    """ONNX Runtime's quantize_static at 8 bits, calibrated with the images."""
    export_with_torch(bench.model.module, images.images[:1], folder / "float.onnx")
    quantize_static(folder / "float.onnx", folder / "static.onnx", images.images)
    session = onnxruntime.InferenceSession(folder / "static.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(part: Tensor) -> Tensor:
        return torch.cat([torch.from_numpy(session.run(None, {name: image[None].numpy()})[0]) for image in part])

    return {test: _deployed(bench, test, None, run) for test in bench.tests}


@contextlib.contextmanager
def claimed(key: Key) -> Iterator[bool]:
    """Whether this process may make the row: no other is making it, and it is not there."""
    folder = networks.HERE / "sets"
    folder.mkdir(exist_ok=True)
    name = re.sub(r"\W+", "-", key.command.rpartition("run.py ")[2])
    with (folder / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield not any(key.is_of(row) for row in rows.read(rows.file_of(key.network)))


def seeds_of(text: str) -> list[int]:
    """ "0,1,2" as numbers. Raises ArgumentTypeError."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} are no seeds: give whole numbers separated by commas, as in 0,1,2")
    return [int(part) for part in parts]


def parse(arguments: list[str] | None = None) -> tuple[list[Key], Path | None]:
    """The rows that are asked for, and the data's folder. Leaves with argparse's message for what no row is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="*", help="NETWORK RECIPE BITS PROTOCOL SEED")
    parser.add_argument("--table", choices=plan.TABLES)
    parser.add_argument("--seeds", type=seeds_of, default="0,1,2")
    parser.add_argument("--data", type=Path)
    args = parser.parse_args(arguments)
    if args.table and args.row:
        parser.error(f"--table {args.table} and the row {' '.join(args.row)} exclude each other: give one of them")
    if args.table:
        return [key for seed in args.seeds for key in plan.TABLES[args.table](seed)], args.data
    if len(args.row) != 5:
        parser.error("give a row, as in resnet20_cifar10 intraq W4A4 P3 0, or --table")

    network, recipe, bits, protocol, seed = args.row
    recipes = {*(file.stem for file in RECIPES.glob("*.toml")), *BUILTIN, STATIC}
    for what, value, known in (
        ("network", network, networks.NETWORKS), ("recipe", recipe, recipes), ("protocol", protocol, rows.PROTOCOLS),
    ):  # fmt: skip
        if value not in known:
            parser.error(f"the {what} {value!r} is unknown: choose one of {', '.join(sorted(known))}")
    found = re.fullmatch(r"W([2-8])(?:/([2-8]))?A([2-8])", bits)
    if found is None:
        parser.error(f"the bits are {bits!r}: give W2A2 to W8A8, or W4/8A8 for 8 bits in depthwise layers")
    if recipe == STATIC and bits != "W8A8":
        parser.error(f"quantize_static has no kernels below 8 bits, and the bits are {bits}: give W8A8")
    if not seed.isdecimal():
        parser.error(f"the seed is {seed!r}: give a whole number")
    depthwise = None if found[2] is None else int(found[2])
    if depthwise is not None and depthwise <= int(found[1]):
        parser.error(f"the bits are {bits!r}: depthwise layers need more than the others, as in W4/8A8")
    return [Key(network, protocol, int(found[1]), int(found[3]), recipe, int(seed), depthwise)], args.data


def main() -> None:
    keys, folder = parse()
    data = networks.data_folder(folder)
    benches: dict[str, Bench] = {}
    for key in keys:
        with claimed(key) as mine:
            if mine:
                print(key.command, flush=True)
                if key.network not in benches:
                    benches[key.network] = bench_of(key.network, data)
                make(benches[key.network], key)


if __name__ == "__main__":
    main()
