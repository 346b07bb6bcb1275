"""How many iterations, of which size and how many at a time: what images are worth after closed-form rounding.

    python benchmarks/accuracy/knee.py [NETWORK ...] [--out FILE]

`quick` on the three ImageNet networks, with one number changed at a time. Two figures of each student: its divergence
(KL) from the float network on dead leaves that no run has seen, by which presets may be chosen, and the points that it
loses on the 500 validation images, by which nothing is. Rows that are in the file are not made again.
"""

import argparse
import csv
import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import networks
import torch
from rows import Key, commit
from run import LEAVES, Bench, answer, bench_of, calibrated, choose_device, top1
from sets import image_set, recipe_of

from intraq_deploy.pipeline.run import machine
from intraq_deploy.synthesis.recipe import SynthesisRecipe
from intraq_deploy.training.losses import distillation
from intraq_deploy.training.student import StudentTraining

TEST = "ilsvrc12_val500_10cls"
NETWORKS = ("mobilenetv2_w1_imagenet", "mobilenetv1_w075_imagenet", "efficientnet_lite0_imagenet")
PRESET, SEED = "quick", 0
BITS = ((4, 8), (4, 4))
COLUMNS = (
    "network", "images", "iterations", "resolution", "batch", "bits", "seed", "leaves_kl", "points_lost", "threads",
    "hardware", "versions", "date", "commit",
)  # fmt: skip


def variants(quick: SynthesisRecipe) -> Iterator[SynthesisRecipe]:
    """The preset's way of making images, with one number changed at a time."""
    for iterations in (100, 25, 50):
        yield replace(quick, iterations=iterations)
    yield replace(quick, resolution=0.43)
    yield replace(quick, batch=quick.images // 4)
    yield replace(quick, iterations=200)


def rows_of(bench: Bench, recipe: SynthesisRecipe, made: set[tuple[str, ...]]) -> Iterator[dict[str, str]]:
    """The rows of one way of making images, but for those that are made."""
    whole = recipe_of(PRESET, bench.model)
    for weight_bits, activation_bits in BITS:
        key = Key(bench.name, "P3", weight_bits, activation_bits, PRESET, SEED)
        numbers = (recipe.images, recipe.iterations, recipe.resolution, recipe.batch)
        row = dict(zip(COLUMNS, map(str, (bench.name, *numbers, key.bits, SEED)), strict=False))
        if tuple(row.values()) in made:
            continue
        images, _, _ = image_set(bench.name, bench.model, PRESET, recipe, SEED, bench.data)
        student, teacher = calibrated(bench, key, whole, images)
        StudentTraining(teacher, images, whole.student, SEED, choose_device()).learn(student)
        leaves, (pixels, labels) = bench.held[LEAVES], bench.tests[TEST]
        divergence = float(distillation(answer(student, leaves), answer(bench.teacher, leaves), 1.0))
        lost = top1(bench.answers[TEST], labels) - top1(answer(student, pixels), labels)
        yield row | {
            "leaves_kl": f"{divergence:.4f}",
            "points_lost": f"{lost:.1f}",
            "threads": str(torch.get_num_threads()),
            "hardware": machine(),
            "versions": f"torch {torch.__version__}",
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--out", type=Path, default=networks.HERE.parent / "knee.csv")
    args = parser.parse_args()
    unknown = [network for network in args.networks if network not in NETWORKS]
    if unknown:
        parser.error(f"the network {unknown[0]!r} is unknown: choose of {', '.join(NETWORKS)}")
    data = networks.data_folder(None)
    for name in args.networks or NETWORKS:
        bench = bench_of(name, data)
        for recipe in variants(recipe_of(PRESET, bench.model).synthesis):
            new = not args.out.exists()
            made = set()
            if not new:
                with args.out.open(newline="") as file:
                    made = {tuple(row[column] for column in COLUMNS[:7]) for row in csv.DictReader(file)}
            for row in rows_of(bench, recipe, made):
                with args.out.open("a", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                    if new:
                        writer.writeheader()
                        new = False
                    writer.writerow(row)
                print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
