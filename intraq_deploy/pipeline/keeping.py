"""The one way in which a stage is kept or made.

A stage's key says what it is made from. If its folder is finished under that key, what is there is kept; else it is
made, continuing from the parts that an interrupted session left under the same key.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from intraq_deploy.errors import DataError, RunError
from intraq_deploy.pipeline.run import Run

T = TypeVar("T")


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
    with directory.running(stage) as saved:
        value = make(OpenStage(stage.folder, saved))
    if work.shared:
        directory.share(work.name, work.key)
    directory.seconds[work.name] = stage.seconds
    progress.finish(work.name, stage.seconds)
    return value
