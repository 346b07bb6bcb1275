"""How long a run will take, from a few timed steps of its own work on this machine."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch

from intraq_deploy.errors import DivergedError
from intraq_deploy.pipeline import stages
from intraq_deploy.pipeline.costs import Costs, images_at_once, noise_like, seconds_of
from intraq_deploy.pipeline.memory import check_batch, most_bytes
from intraq_deploy.pipeline.mixed import earlier_choice
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.sensitivity import SENSITIVITY, sensitivity_key, work_of
from intraq_deploy.pipeline.validation import parity_count
from intraq_deploy.program.program import Program
from intraq_deploy.quantization.build import empty_network
from intraq_deploy.quantization.scheme import Scheme
from intraq_deploy.quantization.spec import MAX_BITS
from intraq_deploy.synthesis.make import make_images
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training.loop import Trainer
from intraq_deploy.training.teacher import Teacher

CHECKS = "checks"
"""Everything behind the student: baselines, comparison of integers, accuracy, times."""
_TIMED = 2
_TIMING = 3.0
"""Seconds of timing what is deployed."""
LONG = 30 * 60
"""Seconds above which a run is told what would be faster."""


def estimate(
    run: Run, *, program: Program | None = None, labelled: int = 0, images_only: bool = False
) -> dict[str, float]:
    """Returns seconds for each stage that has to run: synthesis, sensitivity, fitting, fine-tuning, checks.

    program: of the same network, untrained (`dry_run`); without one the checks have no estimate. labelled: number of
    labelled images. images_only: synthesis alone is looked at. Leaves the run directory as it is. A stage whose timed
    steps diverge has no estimate: what is wrong is for the stage itself to say, of its own images. Raises ShortageError
    where a stage needs more memory than there is.
    """
    seconds: dict[str, float] = {}
    for stage, time in _ahead(run, program, labelled, images_only):
        with suppress(DivergedError):
            seconds[stage] = time()
    return seconds


def _ahead(
    run: Run, program: Program | None, labelled: int, images_only: bool
) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yields the stages that have to run, and what estimates the seconds of each."""
    synthesis, finished = run.recipe.synthesis, run.directory.finished
    work = synthesis.images * synthesis.iterations
    if work and run.calibration is None and not finished(stages.SYNTHESIS, stages.images_key(run)):
        yield stages.SYNTHESIS, lambda: work / _synthesis_rate(run, min(images_at_once(run), synthesis.batch))
    if images_only:
        return
    asked, key = run.options.mixed, stages.images_key(run)
    mixed = None if asked is None else earlier_choice(run)
    # Before the bits are chosen nobody knows the student's key: what another one has left is not this student.
    known = asked is None or mixed is not None
    scheme = run.scheme(mixed)
    costs = Costs(run, scheme)
    if asked is not None and not known and not finished(SENSITIVITY, sensitivity_key(run, asked.widths, key)):
        yield SENSITIVITY, lambda: work_of(run, synthesis.images, asked.widths) * costs.quantized_image
    if known and finished(stages.FINE_TUNING, stages.student_key(run, scheme, key)):
        return
    if not run.recipe.fitting.correct:
        yield stages.FINE_TUNING, lambda: costs.calibration + _training(run, scheme)
    else:
        if not known or not finished(stages.FITTING, stages.fitted_key(run, scheme, key)):
            yield stages.FITTING, lambda: costs.calibration + costs.fitting
        if run.recipe.student.images:
            yield stages.FINE_TUNING, lambda: _training(run, scheme)
    if program is not None:
        yield CHECKS, lambda: _checks(run, costs, program, labelled)


def _checks(run: Run, costs: Costs, program: Program, labelled: int) -> float:
    """Returns the seconds of everything behind the student. program: one of the same network."""
    compared = costs.compared_image(program)
    seconds = len(run.options.targets) * parity_count(program, costs.images) * compared + _TIMING
    if labelled:
        baselines = 1 + (run.options.activation_bits < MAX_BITS)
        seconds += baselines * costs.calibration
        # The reference computes about what the fake-quant module does.
        deployed = 2 + baselines + len(run.options.targets)  # the float network twice: in PyTorch too
        seconds += labelled * (deployed * costs.float_image + 2 * costs.quantized_image)
    return seconds


def _training(run: Run, scheme: Scheme) -> float:
    """Returns the seconds of reconstruction and fine-tuning."""
    images = run.recipe.student.images
    return images / _training_rate(run, scheme, min(images_at_once(run), run.recipe.training.batch)) if images else 0.0


def _synthesis_rate(run: Run, images: int) -> float:
    """Returns image-iterations per second."""
    # From noise: leaves are drawn once, which a few iterations would be charged with.
    recipe = replace(run.recipe.synthesis, images=images, batch=images, start="noise")

    def make(iterations: int, crops: float = recipe.crop_probability) -> None:
        short = replace(recipe, iterations=iterations, crop_probability=crops)
        make_images(run.image_model, run.probe, short, run.options.seed)

    # The second iteration has what the optimiser keeps beside what gradients need.
    most = most_bytes(lambda: make(2, crops=1.0))
    asked = run.recipe.synthesis
    check_batch(run, "Making images", "synthesis", min(asked.batch, asked.images), most / images, 0)
    return images * _TIMED / seconds_of(lambda: make(_TIMED))


def _training_rate(run: Run, scheme: Scheme, images: int) -> float:
    """Returns images per second of fine-tuning."""
    student, teacher = empty_network(run.graph, scheme), Teacher(run.graph).to(run.device)
    samples = SyntheticSet(noise_like(run, images), torch.zeros(images, dtype=torch.int64), torch.ones(images))

    def trainer_of(batch: int) -> Trainer:
        # More steps than are taken: behind the last one, what it leaves is looked at.
        recipe = replace(run.recipe.training, batch=batch, steps=3 + 2 * _TIMED)
        return Trainer(student, teacher, samples, recipe, 0, run.device)

    few = max(1, images // 2)
    less, trainer = most_bytes(partial(trainer_of(few).run, 2)), trainer_of(images)
    most = most_bytes(partial(trainer.run, 2))
    image = max(1.0, (most - less) / max(1, images - few))
    check_batch(run, "Fine-tuning", "training", run.recipe.training.batch, image, max(0.0, most - images * image))
    return images * _TIMED / seconds_of(lambda: trainer.run(trainer.step + _TIMED))


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
    longest = max(seconds, key=seconds.__getitem__)
    if longest == stages.SYNTHESIS:
        ways.append("fewer --images and --iterations")
    elif longest == stages.FINE_TUNING:
        ways.append("fewer --steps")
    return f"This will take about {total / 60:.0f} minutes. Faster: {', or '.join(ways)}." if ways else None
