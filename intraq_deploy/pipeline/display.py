"""Drawing a run, for the command line and for Python. All of it goes to standard error.

On a terminal, and in a notebook that has widgets, that is one live display; else log lines.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from intraq_deploy.pipeline.progress import Progress, Silent

_PLAIN_SECONDS = 10.0
_WIDE = 110
"""Characters of a terminal from which on the speed has room too."""
_LABELS = {"baselines": "float32, for comparison"}
"""A person's words for a stage, where its folder has another name."""


class _Speed(ProgressColumn):
    """A column with the units of work per second."""

    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        if not task.speed or not unit:
            return Text("")
        return Text(f"{task.speed:,.0f} {unit}/s", style="progress.data.speed")


class TerminalProgress:
    """A live display, one line per stage."""

    def __init__(self, console: Console) -> None:
        wide = console.width >= _WIDE
        detail = TextColumn("{task.fields[detail]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
        self.bars = Bars(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24 if wide else 8),
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True)),
            detail,
            *([_Speed(table_column=Column(no_wrap=True))] if wide else []),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=console,
            expand=True,
            redirect_stdout=_is_terminal(sys.stdout),  # what is printed elsewhere, or into a notebook, stays there
        )
        self._tasks: dict[str, TaskID] = {}
        self._current = ""

    def say(self, message: str) -> None:
        self.bars.console.print(message)

    def warn(self, message: str) -> None:
        self.bars.console.print(f"Note: {message}", style="yellow")

    def start(self, stage: str, total: int, unit: str) -> None:
        self._current = stage
        self._tasks[stage] = self.bars.add_task(_LABELS.get(stage, stage), total=max(total, 1), detail="", unit=unit)

    def advance(self, done: int, detail: str, loss: float | None = None, *, stage: str | None = None) -> None:
        text = detail if loss is None else f"{detail}, loss {loss:.4g}"
        self.bars.update(self._tasks[stage or self._current], completed=done, detail=text)

    def finish(self, stage: str, seconds: float, *, kept: bool = False) -> None:
        detail = "kept from before" if kept else f"{seconds:.1f} s"
        task = self._tasks[stage]
        total = next(known.total for known in self.bars.tasks if known.id == task)
        # Refreshed, because in a notebook the end of a display draws nothing.
        self.bars.update(task, completed=total, detail=detail, unit="", refresh=True)


@dataclass(slots=True)
class _Running:
    """A running stage, as far as log lines need it."""

    total: int
    unit: str
    last: float
    """The time of its last log line."""
    first: int | None = None
    """The work that was done when it began: what an earlier session did is no speed of this one."""
    began: float = 0.0


class PlainProgress:
    """A display by log lines, at most one every ten seconds while a stage runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stages: dict[str, _Running] = {}
        self._current = ""

    def say(self, message: str) -> None:
        self._line(message)

    def warn(self, message: str) -> None:
        self._line(f"Note: {message}")

    def start(self, stage: str, total: int, unit: str) -> None:
        self._current = stage
        self._stages[stage] = _Running(max(total, 1), unit, time.monotonic())

    def advance(self, done: int, detail: str, loss: float | None = None, *, stage: str | None = None) -> None:
        name, now = stage or self._current, time.monotonic()
        running = self._stages[name]
        if running.first in (None, done):  # what comes before the first image, as a correction does, is no speed
            running.first, running.began = done, now
        if now - running.last < _PLAIN_SECONDS:
            return
        running.last = now
        speed = (done - running.first) / max(now - running.began, 1e-9)
        left = f"{(running.total - done) / speed:.0f} s left" if speed > 0 else ""
        rate = f", {speed:,.0f} {running.unit}/s, {left}" if left and done < running.total else ""
        shown = "" if loss is None else f", loss {loss:.4g}"
        self._line(f"{_LABELS.get(name, name)}: {detail}{shown}{rate}")

    def finish(self, stage: str, seconds: float, *, kept: bool = False) -> None:
        self._line(f"{_LABELS.get(stage, stage)}: {'kept from before' if kept else f'done in {seconds:.1f} s'}")

    def _line(self, message: str) -> None:
        self._console.print(message, soft_wrap=True)


class QuietProgress(PlainProgress):
    """A display of what needs attention alone."""

    def say(self, message: str) -> None: ...

    def start(self, stage: str, total: int, unit: str) -> None: ...

    def advance(self, done: int, detail: str, loss: float | None = None, *, stage: str | None = None) -> None: ...

    def finish(self, stage: str, seconds: float, *, kept: bool = False) -> None: ...


@contextmanager
def progress_display(*, quiet: bool = False) -> Iterator[Progress]:
    """Shows a command's display, as it suits what standard error is. quiet: only what needs attention."""
    console = _console()
    if quiet:
        yield QuietProgress(console)
        return
    with _drawn(console) as display:
        yield display


@contextmanager
def shown_stage(shown: bool, stage: str, total: int, unit: str) -> Iterator[Progress]:
    """Shows one stage of `total` units of work to a person who calls it from Python, and how long it took.

    Where nobody watches, that is neither on a terminal nor in a notebook, and unless `shown`, nothing is said.
    """
    console = _console()
    if not shown or not (console.is_jupyter or _is_terminal(console.file)):
        yield Silent()
        return
    with _drawn(console) as display:
        display.start(stage, total, unit)
        start = time.perf_counter()
        yield display
        display.finish(stage, time.perf_counter() - start)


def _console() -> Console:
    return Console(stderr=True, highlight=False, markup=False)


def _is_terminal(stream: IO[str] | None) -> bool:
    """Whether a stream is a terminal itself, whatever FORCE_COLOR says; None where there is no stream."""
    return stream is not None and not stream.closed and stream.isatty()


@contextmanager
def _drawn(console: Console) -> Iterator[Progress]:
    if console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None):
        display = TerminalProgress(console)
        with display.bars:
            yield display
    else:
        yield PlainProgress(console)
