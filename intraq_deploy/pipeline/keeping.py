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


@dataclass(frozen=True, slots=True)
class OpenStage:
    """A stage that is being made."""

    folder: Path
    saved: Callable[[], None]
    """A function to call whenever a part has been saved, so that the time spent so far is kept with it."""


def kept_or_made(run: Run, work: StageWork, load: Callable[[Path], T], make: Callable[[OpenStage], T]) -> T:
    """Returns what a finished stage left, or makes the stage.

    load: reads a finished stage from its folder; where it raises RunError or DataError, the stage is damaged and made
    again, with a warning. make: makes the stage and returns the same value. Until it is called, what another key left
    stays.
    """
    directory, progress = run.directory, run.progress
    if directory.finished(work.name, work.key):
        stage = directory.stage(work.name, work.key)
        try:
            value = load(stage.folder)
        except (RunError, DataError) as damage:
            progress.warn(f"{work.name} is made again, because {damage}")
            stage.clear()
        else:
            progress.start(work.name, 0, "")
            progress.finish(work.name, stage.seconds, kept=True)
            return value
    stage = directory.stage(work.name, work.key)
    progress.start(work.name, work.total, work.unit)
    with directory.running(stage) as saved:
        value = make(OpenStage(stage.folder, saved))
    progress.finish(work.name, stage.seconds)
    return value
