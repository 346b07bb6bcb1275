"""Image sets, made once per network, way of making and seed, and kept in a folder that is not part of the repository.

python benchmarks/accuracy/sets.py NETWORK RECIPE SEED
"""

import argparse
import fcntl
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import networks
import torch

from intraq_deploy.data.labelled import normalise
from intraq_deploy.files import write_atomically
from intraq_deploy.graph.trace import trace
from intraq_deploy.models.model import Model
from intraq_deploy.pipeline.devices import has_bfloat16
from intraq_deploy.pipeline.image_size import model_at
from intraq_deploy.pipeline.rundir import key_of
from intraq_deploy.recipes import Recipe, builtin
from intraq_deploy.recipes import read as read_recipe
from intraq_deploy.synthesis.make import make_images, probe_of
from intraq_deploy.synthesis.quality import Quality, measure_quality
from intraq_deploy.synthesis.recipe import SynthesisRecipe
from intraq_deploy.synthesis.synthetic_set import SyntheticSet

FOLDER = networks.HERE / "sets"
RECIPES = networks.HERE / "recipes"
REAL = ("real", "imagenet-real")
"""The recipes whose images are real ones."""


def recipe_of(name: str, model: Model) -> Recipe:
    """A file of recipes/, or a built-in recipe; in float32 where the machine does not multiply in bfloat16.

    Without such instructions oneDNN falls back to loops that are 16 to 30 times slower than float32.
    """
    path = RECIPES / f"{name}.toml"
    file = read_recipe(path) if path.exists() else builtin(name)
    bfloat16 = has_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    recipe = file.resolve(model.input_shape, model.classes).on(bfloat16=bfloat16)
    if bfloat16:
        return recipe
    return replace(
        recipe,
        synthesis=replace(recipe.synthesis, precision="float32"),
        training=replace(recipe.training, precision="float32"),
    )


def image_set(network: str, model: Model, name: str, recipe: SynthesisRecipe, seed: int, data: Path) -> tuple[
    SyntheticSet, Quality, float
]:  # fmt: skip
    """The set, its quality and the seconds it took. Another process that wants it waits until it is there."""
    key = key_of(network=network, recipe=asdict(recipe), seed=seed, real=name in REAL)[:24]
    FOLDER.mkdir(exist_ok=True)
    path, notes = FOLDER / f"{key}.safetensors", FOLDER / f"{key}.json"
    with (FOLDER / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not notes.exists():
            start = time.perf_counter()
            small = model_at(model, trace(model.module, model.input_shape), recipe.resolution)
            probe = probe_of(small, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            if name in REAL:
                made = _real_images(network, model, recipe, seed, data)
            else:
                made = make_images(small, probe, recipe, seed)
            seconds = time.perf_counter() - start
            made.save(path)
            about = {"network": network, "recipe": name, "seed": seed, "seconds": seconds}
            write_atomically(notes, json.dumps(about | {"quality": asdict(measure_quality(probe, made))}))
    about = json.loads(notes.read_text())
    return SyntheticSet.load(path), Quality(**about["quality"]), about["seconds"]


def _real_images(network: str, model: Model, recipe: SynthesisRecipe, seed: int, data: Path) -> SyntheticSet:
    """Labelled training images, for the reference line only: all of a small size, so many as the recipe says of a
    large one."""
    name = networks.NETWORKS[network].real
    assert name is not None
    pixels, labels = networks.images(name, data)
    if model.input_shape[1] > 64:
        drawn = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))[: recipe.images]
        pixels, labels = pixels[drawn], labels[drawn]
    return SyntheticSet(normalise(pixels, model.preprocessing), labels, torch.ones(len(labels)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=networks.NETWORKS)
    parser.add_argument("recipe")
    parser.add_argument("seed", type=int)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    data = networks.data_folder(args.data)
    model = networks.load(args.network, data)
    recipe = recipe_of(args.recipe, model).synthesis
    _, quality, seconds = image_set(args.network, model, args.recipe, recipe, args.seed, data)
    print(args.recipe, args.seed, f"{seconds:.0f} s", quality, flush=True)


if __name__ == "__main__":
    main()
