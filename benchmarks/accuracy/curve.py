"""How many images closed-form rounding wants: points lost against their number, from the network itself and real ones.

    python benchmarks/accuracy/curve.py NETWORK W4A4 32,64,128,256

The first N of one set of each kind: those of `imagenet-fitted`, and real training images. Nothing is trained. All
figures are of the 500 validation images, which are not among the real ones, and measured in PyTorch; the divergence
(KL) is from the float network. Prints a table, and keeps nothing.
"""

import argparse
import sys

import networks
from rows import Key
from run import Bench, answer, bench_of, calibrated, choose_device, top1
from sets import image_set, recipe_of

from intraq_deploy.pipeline.run import machine
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training.losses import distillation
from intraq_deploy.training.student import StudentTraining

TEST = "ilsvrc12_val500_10cls"
KINDS = {"synthetic": "imagenet-fitted", "real": "imagenet-real"}
SEED = 0


def first(images: SyntheticSet, count: int) -> SyntheticSet:
    """The first `count` of the images."""
    return SyntheticSet(images.images[:count], images.labels[:count], images.targets[:count])


def measured(bench: Bench, key: Key, images: SyntheticSet) -> tuple[float, float]:
    """The points lost, and the divergence."""
    recipe = recipe_of(key.recipe, bench.model)
    student, teacher = calibrated(bench, key, recipe, images)
    StudentTraining(teacher, images, recipe.student, key.seed, choose_device()).learn(student)
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
    sets = {}
    for recipe in KINDS.values():
        synthesis = recipe_of(recipe, bench.model).synthesis
        sets[recipe], _, _ = image_set(args.network, bench.model, recipe, synthesis, SEED, data)
        if max(args.counts) > len(sets[recipe]):
            sys.exit(f"{max(args.counts)} images are asked for, and {recipe} has {len(sets[recipe])}: give fewer.")
    for count in args.counts:
        cells = []
        for recipe, images in sets.items():
            key = Key(args.network, "P3", int(args.bits[1]), int(args.bits[3]), recipe, SEED)
            lost, divergence = measured(bench, key, first(images, count))
            cells.append(f"{lost:.1f} (KL {divergence:.2f})")
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
