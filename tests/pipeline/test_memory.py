"""Memory that does not suffice: counted, asked for, refused with the number that fits, and met in the middle."""

import os
import re
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support import SMALL_SHAPE, model_of, small_network

from intraq_deploy.errors import ShortageError
from intraq_deploy.pipeline import memory
from intraq_deploy.pipeline.memory import free_bytes, most_bytes, shortage_explained
from intraq_deploy.pipeline.options import ModelOptions, OwnRecipe, make_options
from intraq_deploy.pipeline.progress import Silent
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import RunDirectory
from intraq_deploy.wording import MIB

CPU = torch.device("cpu")


@contextmanager
def at_most(count):
    """Leaves this process so many bytes of new address space."""
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def a_run(folder, batch, training=0):
    """A run in a folder, with batches of so many images; it trains if it has a batch for that."""
    synthesis = {"images": 100_000, "iterations": 2, "batch": batch}
    trained = {"steps": 4 if training else 0, "batch": training or 8}
    values = {"extends": "quick", "synthesis": synthesis, "training": trained}
    chosen = make_options(ModelOptions(source="test"), recipe=OwnRecipe(name="mine", values=values))
    network = model_of(small_network("resnet"), SMALL_SHAPE, 10)
    return Run(chosen, lambda _: RunDirectory(Path(folder)), network, Silent())


def test_tensors_are_counted_as_long_as_they_live():
    def work():
        first = torch.ones(1 << 20)
        second = first * 2  # two of 4 MiB
        del first
        return second.view(-1, 2).add(1)  # two again, and a view is none

    assert most_bytes(work) == 8 * MIB


def test_what_gradients_need_is_counted():
    x = torch.ones(1 << 20, requires_grad=True)
    # Each sine keeps what it reads, so both results and the gradient live at once.
    assert most_bytes(lambda: x.sin().sin().sum().backward()) >= 12 * MIB
    with torch.no_grad():
        assert most_bytes(lambda: x.sin().sin().sum()) < 12 * MIB


def test_a_limit_of_the_address_space_is_what_is_free():
    free = free_bytes(CPU)
    assert free is not None
    with at_most(256 * MIB):
        assert free_bytes(CPU) <= 256 * MIB < free


def test_a_container_has_what_its_group_may_still_take(tmp_path, monkeypatch):
    own = tmp_path / "groups/outer/inner"
    own.mkdir(parents=True)
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/outer/inner\n")
    for folder, most in ((own, "max"), (own.parent, str(300 * MIB))):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{200 * MIB}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {50 * MIB}\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    assert free_bytes(CPU) == 150 * MIB


ASKED = """
import re, sys
from dataclasses import replace

import test_memory
from intraq_deploy.errors import ShortageError
from intraq_deploy.pipeline.estimate import estimate
from intraq_deploy.pipeline.memory import shortage_explained
from intraq_deploy.synthesis.make import make_images

def said(*batches):
    try:
        estimate(test_memory.a_run(sys.argv[1], *batches), images_only=len(batches) == 1)
    except ShortageError as error:
        return str(error)

def make(count):
    recipe = replace(run.recipe.synthesis, images=count, batch=count, start="noise")
    try:
        with shortage_explained("synthesis"):
            make_images(run.image_model, run.probe, recipe, 0)
    except ShortageError as error:
        return str(error)

run = test_memory.a_run(sys.argv[1], 8)
assert said(8, 8) is None  # libraries are loaded
with test_memory.at_most(1 << 30):
    images, training = said(90_000), said(8, 90_000)
    fit = int(re.search("batch = ([0-9]+)", images)[1])
    print(images, training, make(fit), make(4 * fit), sep="\\n")
"""


def test_the_number_that_fits_is_said_and_is_right(tmp_path):
    """So many images are made, and four times as many meet the end of memory. In a process of its own: what others have
    left behind in this one lies between what it still may take."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
    command = [sys.executable, "-c", ASKED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}, check=False)
    assert not done.returncode, done.stderr
    images, training, made, many = done.stdout.splitlines()
    for sentence, what, section in ((images, "Making images", "synthesis"), (training, "Fine-tuning", "training")):
        needs = rf"{what} needs [\d.]+ GiB of memory for 90,000 images of 32x32 at a time, and .* are free on cpu: "
        remedy = rf"([\d,]+) fit: set batch = (\d+) under \[{section}\] in a recipe \(--recipe\), or free some memory\."
        found = re.fullmatch(needs + remedy, sentence)
        assert found, sentence
        assert found[1] == f"{int(found[2]):,}"
        assert 100 < int(found[2]) < 90_000
    assert made == "None"
    assert many.startswith("Memory ran out in synthesis")


@pytest.mark.parametrize("count", [1 << 44, 1 << 60])
def test_memory_that_ends_in_a_stage_is_one_sentence(count):
    said = "^Memory ran out in fitting: free some, or set a smaller batch"
    with pytest.raises(ShortageError, match=said), shortage_explained("fitting"):
        torch.empty(count)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="size of tensor"), shortage_explained("fitting"):
        torch.ones(2) + torch.ones(3)
