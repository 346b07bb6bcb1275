"""How many images closed-form rounding wants: points lost against their number, from the network itself and real ones.

    python benchmarks/accuracy/curve.py NETWORK W4A4 32,64,128,256

The first N of one set of each kind: those of `imagenet-fitted`, and real training images. Nothing is trained. All
figures are of the 500 validation images, which are not among the real ones, and measured in PyTorch; the divergence
(KL) is from the float network. Prints a table, and keeps nothing.
"""

import argparse
import sys

import networks
from rows import PROTOCOLS
from run import Bench, answer, bench_of, choose_device, top1
from sets import image_set, recipe_of

from intraq_deploy.graph import trace
from intraq_deploy.pipeline.run import machine
from intraq_deploy.pipeline.schemes import SchemeChoice
from intraq_deploy.quantization.build import build_network, prepare
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training.losses import distillation
from intraq_deploy.training.student import StudentTraining
from intraq_deploy.training.teacher import Teacher

TEST = "ilsvrc12_val500_10cls"
KINDS = {"synthetic": "imagenet-fitted", "real": "imagenet-real"}
SEED = 0


def first(images: SyntheticSet, count: int) -> SyntheticSet:
    """The first `count` of the images."""
    return SyntheticSet(images.images[:count], images.labels[:count], images.targets[:count])


def measured(bench: Bench, images: SyntheticSet, kind: str, bits: tuple[int, int]) -> tuple[float, float]:
    """The points lost, and the divergence."""
    recipe, traced = recipe_of(KINDS[kind], bench.model), trace(bench.model.module, bench.model.input_shape)
    scheme = SchemeChoice(PROTOCOLS["P3"], ranges=recipe.quantization.ranges).at(*bits)
    graph = prepare(traced, recipe.quantization, scheme, images.images, SEED)
    student = build_network(graph, scheme, images.images, SEED)
    device = choose_device()
    StudentTraining(Teacher(graph).to(device), images, recipe.student, SEED, device).learn(student)
    pixels, labels = bench.tests[TEST]
    floating, found = bench.answers[TEST], answer(student, pixels)
    return top1(floating, labels) - top1(found, labels), float(distillation(found, floating, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=[n for n in networks.NETWORKS if TEST in networks.NETWORKS[n].tests])
    parser.add_argument("bits", choices=["W4A4", "W4A8"])
    parser.add_argument("counts", type=lambda text: [int(part) for part in text.split(",")])
    args = parser.parse_args()
    data = networks.data_folder(None)
    bench = bench_of(args.network, data)
    print(f"{args.network}, {args.bits}, seed {SEED}; {machine()}\n| images | {' | '.join(KINDS)} |\n|---|---|---|")
    for count in args.counts:
        cells = []
        for kind, recipe in KINDS.items():
            synthesis = recipe_of(recipe, bench.model).synthesis
            images, _, _ = image_set(args.network, bench.model, recipe, synthesis, SEED, data)
            if count > len(images):
                sys.exit(f"{count} images are asked for, and the set has {len(images)}: give fewer.")
            lost, divergence = measured(bench, first(images, count), kind, (int(args.bits[1]), int(args.bits[3])))
            cells.append(f"{lost:.1f} (KL {divergence:.2f})")
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
