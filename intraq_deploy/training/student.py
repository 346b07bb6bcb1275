"""The one way in which a student is trained: fit layer by layer, reconstruct, fine-tune, settle.

The recipe says which of the first three take place. Each starts from what the one before it left.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from intraq_deploy.program.settle import Adjustment, settle
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.team import ALONE, Team
from intraq_deploy.training.blocks import blocks
from intraq_deploy.training.checkpoint import load_checkpoint, load_student, save_checkpoint, save_student
from intraq_deploy.training.layerwise import fit_layers
from intraq_deploy.training.loop import Trainer
from intraq_deploy.training.recipe import StudentRecipe
from intraq_deploy.training.reconstruction import reconstruct
from intraq_deploy.training.teacher import Teacher

FITTING_JOB, FINE_TUNING_JOB = "fitting", "fine-tuning"
"""The jobs of a team that fits, and that fine-tunes, a student."""
_CHECKPOINT_STEPS = 50
_CHECKPOINT_SECONDS = 20.0
"""How much fitting is lost, at most, beside the layer at which it is interrupted."""
_FITTED, _RECONSTRUCTED = "fitted.safetensors", "reconstructed.safetensors"
_CHECKPOINT = "checkpoint.safetensors"


T = TypeVar("T", bound=nn.Module)


def _on_cpu(module: T) -> T:
    """A copy of a module on the CPU, as other processes get it."""
    return deepcopy(module).cpu()


def _silent(done: int, where: str, loss: float | None = None) -> None:
    pass


@dataclass(frozen=True, slots=True)
class TrainingSession:
    """The place where an unfinished student is kept between sessions, and the listener who is told how far it is."""

    folder: Path | None = None
    """The folder that keeps an unfinished student; None: it is not kept."""
    saved: Callable[[], None] = lambda: None
    """Called when a part has been saved."""
    report: Callable[[int, str, float | None], None] = _silent
    """A function that is told how much is done, where in the work that is, and the loss. In fitting it is layers that
    are done, else images that went through the student, of `StudentRecipe.images`."""

    def part(self, name: str) -> Path | None:
        """The file that keeps a part, which may not exist; None if nothing is kept."""
        return None if self.folder is None else self.folder / name

    def clear(self) -> None:
        """Removes what an unfinished student would continue from."""
        for name in (_FITTED, _RECONSTRUCTED, _CHECKPOINT):
            path = self.part(name)
            if path is not None:
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class StudentTraining:
    """Everything that a student is trained with."""

    teacher: Teacher
    """The float network, on `device`."""
    images: SyntheticSet
    recipe: StudentRecipe
    seed: int
    device: torch.device
    team: Team = ALONE
    """The processes that train it; the leader calls the others, who do `FITTING_JOB` and `FINE_TUNING_JOB`."""

    def train(self, student: FakeQuantNetwork, session: TrainingSession | None = None) -> list[Adjustment]:
        """Trains a fitted `student` in place and returns what settling adjusted; the student is then on the CPU.

        session: continues what an earlier one left in its folder. Raises DivergedError for a loss that is not finite,
        UsageError for the reconstruction of min-max ranges.
        """
        self.tune(student, session)
        return settle(student.cpu())

    def learn(self, student: FakeQuantNetwork) -> None:
        """Fits and trains `student` in place, but for settling; the student may be on `device` then.

        student: calibrated, as `build_network` makes it. Raises what `train` raises.
        """
        self.fit(student)
        self.tune(student)

    def fit(self, student: FakeQuantNetwork, session: TrainingSession | None = None) -> None:
        """Fits a calibrated `student` in place, if the recipe says so; the student is on `device` then. session: as in
        `train`."""
        if not self.recipe.fitting.correct:
            return
        session = TrainingSession() if session is None else session
        kept = session.part(_FITTED)
        fitted = load_student(kept, student)["fitted"] if kept is not None and kept.exists() else 0
        last = time.monotonic()

        def report(layer: int, count: int) -> None:
            nonlocal last
            if kept is not None and time.monotonic() - last > _CHECKPOINT_SECONDS:
                save_student(kept, student, fitted=layer - 1)
                session.saved()
                last = time.monotonic()
            session.report(layer - 1, f"layer {layer}/{count}", None)

        if self.team.size > 1:
            self.team.call(FITTING_JOB, self._alone(), _on_cpu(student), fitted)
        self.fit_together(student, fitted, report)

    def fit_together(
        self, student: FakeQuantNetwork, fitted: int, report: Callable[[int, int], None] | None = None
    ) -> None:
        """Fits `student` in place with all processes of the team, each of which calls this. fitted, report: as in
        `fit_layers`."""
        given = student, self.teacher, self.images, self.recipe.fitting, self.seed, self.device
        fit_layers(*given, fitted=fitted, report=report, team=self.team)

    def trainer(self, student: FakeQuantNetwork) -> Trainer:
        """Makes the trainer of `student`, the same in all processes of the team."""
        recipe = self.recipe.training
        return Trainer(student, self.teacher, self.images, recipe, self.seed, self.device, self.team)

    def _alone(self) -> "StudentTraining":
        """The same training as another process gets it, on the CPU."""
        return replace(self, teacher=_on_cpu(self.teacher), device=torch.device("cpu"), team=ALONE)

    def tune(self, student: FakeQuantNetwork, session: TrainingSession | None = None) -> None:
        """Reconstructs and fine-tunes a fitted `student` in place, as the recipe says; the student may be on `device`
        then. session, and what is raised: as in `train`."""
        session = TrainingSession() if session is None else session
        if self.recipe.reconstruction.enabled:
            self._reconstruct_once(student, session)
        if self.recipe.training.steps:
            self._fine_tune(student, session)

    def _reconstruct_once(self, student: FakeQuantNetwork, session: TrainingSession) -> None:
        """Reconstructs the student, or loads what an earlier session has kept of it."""
        kept = session.part(_RECONSTRUCTED)
        if kept is not None and kept.exists():
            load_student(kept, student)
            return
        self._reconstruct(student, session)
        if kept is not None:
            save_student(kept, student)
            session.saved()

    def _reconstruct(self, student: FakeQuantNetwork, session: TrainingSession) -> None:
        recipe, count = self.recipe.reconstruction, len(blocks(student.graph))

        def report(block: int, step: int, error: float) -> None:
            done = (block * recipe.steps + step) * recipe.batch // count
            session.report(done, f"block {block + 1}/{count}, step {step}/{recipe.steps}", error)

        reconstruct(student, self.teacher, self.images, recipe, self.seed, self.device, report)

    def _fine_tune(self, student: FakeQuantNetwork, session: TrainingSession) -> None:
        recipe, before = self.recipe.training, self.recipe.reconstruction_images
        trainer = self.trainer(student)
        kept = session.part(_CHECKPOINT)
        if kept is not None and kept.exists():
            load_checkpoint(kept, trainer)
        if self.team.size > 1:
            state = trainer.state() if trainer.step else None
            self.team.call(FINE_TUNING_JOB, self._alone(), _on_cpu(student), state)

        def report(step: int, loss: float) -> None:
            session.report(before + step * recipe.batch, f"step {step}/{recipe.steps}", loss)

        while trainer.step < recipe.steps:
            trainer.run(min(trainer.step + _CHECKPOINT_STEPS, recipe.steps), report)
            if kept is not None:
                save_checkpoint(kept, trainer)
                session.saved()
