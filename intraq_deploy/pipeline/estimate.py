"""How long a run will take, from a few timed steps of its own work on this machine."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import torch

from intraq_deploy.errors import DivergedError
from intraq_deploy.pipeline import stages
from intraq_deploy.pipeline.mixed import earlier_choice
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.sensitivity import SENSITIVITY, sensitivity_key, work_of
from intraq_deploy.quantization.build import empty_network
from intraq_deploy.quantization.scheme import Scheme
from intraq_deploy.quantization.sensitivity import logits_of
from intraq_deploy.synthesis.make import make_images
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training.loop import Trainer
from intraq_deploy.training.teacher import Teacher

_TIMED = 2
_SMALL, _LARGE = 64, 8
"""Images per timed step, for small and for large networks' inputs."""
LONG = 30 * 60
"""Seconds above which a run is told what would be faster."""


def estimate(run: Run, *, images_only: bool = False) -> dict[str, float]:
    """Returns seconds for each stage that has to run: synthesis, sensitivity, fine-tuning.

    images_only: synthesis alone is looked at. Leaves the run directory as it is. A stage whose timed steps diverge has
    no estimate: what is wrong is for the stage itself to say, of its own images.
    """
    seconds: dict[str, float] = {}
    for stage, work, rate in _ahead(run, images_only):
        with suppress(DivergedError):
            seconds[stage] = work / rate()
    return seconds


def _ahead(run: Run, images_only: bool) -> Iterator[tuple[str, float, Callable[[], float]]]:
    """Yields the stages that have to run, how much work each is, and what measures how much is done in a second."""
    images = _SMALL if run.model.input_shape[1] <= 64 else _LARGE
    synthesis, finished = run.recipe.synthesis, run.directory.finished
    work: float = synthesis.images * synthesis.iterations
    if work and run.calibration is None and not finished(stages.SYNTHESIS, stages.images_key(run)):
        yield stages.SYNTHESIS, work, lambda: _synthesis_rate(run, min(images, synthesis.batch))
    if images_only:
        return
    asked, key = run.options.mixed, stages.images_key(run)
    mixed = None if asked is None else earlier_choice(run)
    # Before the bits are chosen nobody knows the student's key: what another one has left is not this student.
    known = asked is None or mixed is not None
    if asked is not None and not known and not finished(SENSITIVITY, sensitivity_key(run, asked.widths, key)):
        yield SENSITIVITY, work_of(run, synthesis.images, asked.widths), lambda: _forward_rate(run, images)
    work, scheme = run.recipe.student.images, run.scheme(mixed)
    if work and not (known and finished(stages.FINE_TUNING, stages.student_key(run, scheme, key))):
        yield stages.FINE_TUNING, work, lambda: _training_rate(run, scheme, min(images, run.recipe.training.batch))


def _synthesis_rate(run: Run, images: int) -> float:
    """Returns image-iterations per second."""
    # From noise: leaves are drawn once, which a few iterations would be charged with.
    recipe = replace(run.recipe.synthesis, images=images, batch=images, start="noise")

    def make(iterations: int) -> None:
        short = replace(recipe, iterations=iterations)
        make_images(run.image_model, run.probe, short, run.options.seed)

    make(1)
    return images * _TIMED / _seconds(lambda: make(_TIMED))


def _forward_rate(run: Run, images: int) -> float:
    """Returns images per second through the fake-quant module."""
    network = empty_network(run.graph, run.scheme(None)).to(run.device).to(memory_format=torch.channels_last)
    noise = torch.randn(images, *run.image_shape, generator=torch.Generator().manual_seed(0))
    logits_of(network, noise, run.device)
    return images * _TIMED / _seconds(lambda: [logits_of(network, noise, run.device) for _ in range(_TIMED)])


def _training_rate(run: Run, scheme: Scheme, images: int) -> float:
    """Returns images per second of fine-tuning."""
    # One step more than are taken: behind the last one, what it leaves is looked at.
    recipe = replace(run.recipe.training, batch=images, steps=2 + _TIMED)
    noise = torch.randn(images, *run.image_shape, generator=torch.Generator().manual_seed(0))
    samples = SyntheticSet(noise, torch.zeros(images, dtype=torch.int64), torch.ones(images))
    trainer = Trainer(
        empty_network(run.graph, scheme), Teacher(run.graph).to(run.device), samples, recipe, 0, run.device
    )
    trainer.run(1)
    return images * _TIMED / _seconds(lambda: trainer.run(1 + _TIMED))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def faster(run: Run, seconds: dict[str, float]) -> str | None:
    """Returns what would make a long run shorter, or None if it is not long."""
    total = sum(seconds.values())
    if total < LONG:
        return None
    ways = []
    if run.options.preset != "quick" or run.options.recipe is not None:
        ways.append("--preset quick")
    if run.options.reconstruct:
        ways.append("no --reconstruct")
    if run.device.type == "cpu":
        ways.append("a CUDA device")
    ways.append("fewer --images and --iterations" if seconds.get(stages.SYNTHESIS, 0) > total / 2 else "fewer --steps")
    return f"This will take about {total / 60:.0f} minutes. Faster: {', or '.join(ways)}."
