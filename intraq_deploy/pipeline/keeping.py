"""The one way in which a stage is kept or made.

A stage's key says what it is made from. If its folder is finished under that key, what is there is kept; else it is
made, continuing from the parts that an interrupted session left under the same key.
"""

import csv
import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from intraq_deploy.errors import DataError, RunError
from intraq_deploy.files import write_atomically
from intraq_deploy.pipeline.memory import shortage_explained
from intraq_deploy.pipeline.run import Run

T = TypeVar("T")
LOSSES = "losses.csv"
"""The file in a stage's folder with the losses that it reported."""


@dataclass(frozen=True, slots=True)
class StageWork:
    """A stage that may have to be made: where it is kept, from what it is made, and how much work it is."""

    name: str
    """The stage's folder in the run directory."""
    key: str
    total: int = 1
    """Units of work, for the progress display."""
    unit: str = ""
    shared: bool = False
    """Whether it takes so long that other runs get it too, from the cache."""


@dataclass(frozen=True, slots=True)
class OpenStage:
    """A stage that is being made."""

    folder: Path
    saved: Callable[[], None]
    """A function to call whenever a part has been saved, so that the time spent so far is kept with it."""
    advance: Callable[[int, str, float | None], None]
    """A function that is told how much of the stage is done, where in it that is, and the loss, as `Progress.advance`.
    Losses are kept in the stage's folder."""


def _by_work(line: tuple[str, int]) -> int:
    return line[1]


class _Losses:
    """The losses of one stage: a line for each, with the part that it is of ("batch 2/4"), the work done, and the loss.
    A session that continues repeats the lines that its predecessor wrote behind the last part saved."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOSSES
        self._lines: dict[tuple[str, int], str] = {}
        with suppress(OSError, ValueError), self._path.open(newline="") as file:
            _, *lines = csv.reader(file)
            self._lines = {(part, int(done)): loss for part, done, loss in lines}

    def add(self, done: int, where: str, loss: float) -> None:
        part = where.rpartition(", ")[0]
        self._lines[part, done] = f"{loss:.5g}"

    def write(self) -> None:
        if self._lines:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(("part", "done", "loss"))
            writer.writerows((part, done, self._lines[part, done]) for part, done in sorted(self._lines, key=_by_work))
            write_atomically(self._path, text.getvalue())


def kept_or_made(run: Run, work: StageWork, load: Callable[[Path], T], make: Callable[[OpenStage], T]) -> T:
    """Returns what a finished stage left, or makes the stage.

    load: reads a finished stage from its folder; where it raises RunError or DataError, the stage is damaged and made
    again, with a warning. make: makes the stage and returns the same value.
    """
    return kept_or_prepared(run, work, load, lambda: make)


def kept_or_prepared(
    run: Run, work: StageWork, load: Callable[[Path], T], prepare: Callable[[], Callable[[OpenStage], T]]
) -> T:
    """Returns what a finished stage left, or makes the stage after something that is no part of it.

    prepare: returns what makes the stage, as in `kept_or_made`. It is called before anything in the stage's folder
    changes and before its time counts: another stage may be made in it, and what it raises leaves what is there.
    """
    directory, progress = run.directory, run.progress
    damaged = False
    if directory.finished(work.name, work.key):
        stage = directory.stage(work.name, work.key)
        try:
            value = load(stage.folder)
        except (RunError, DataError) as damage:
            progress.warn(f"{work.name} is made again, because {damage}")
            directory.forget(work.name, work.key)
            damaged = True
        else:
            progress.start(work.name, 0, "")
            directory.seconds[work.name] = stage.seconds
            progress.finish(work.name, stage.seconds, kept=True)
            return value
    make = prepare()
    stage = directory.stage(work.name, work.key)
    if damaged:
        stage.clear()
    progress.start(work.name, work.total, work.unit)
    losses = _Losses(stage.folder)
    with directory.running(stage) as note:

        def saved() -> None:
            losses.write()
            note()

        def advance(done: int, where: str, loss: float | None = None) -> None:
            progress.advance(done, where, loss)
            if loss is not None:
                losses.add(done, where, loss)

        with shortage_explained(work.name):
            value = make(OpenStage(stage.folder, saved, advance))
        losses.write()
    if work.shared:
        directory.share(work.name, work.key)
    directory.seconds[work.name] = stage.seconds
    progress.finish(work.name, stage.seconds)
    return value
