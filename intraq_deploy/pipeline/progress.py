"""The messages of a long run to whoever watches it. `display.py` draws them; the stages only report."""

from typing import Protocol


class Progress(Protocol):
    """A watcher of one run."""

    def say(self, message: str) -> None:
        """One line for people."""

    def warn(self, message: str) -> None:
        """One line that needs attention."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage of `total` units of work begins: "image-iterations", "images"."""

    def advance(self, done: int, detail: str, loss: float | None = None, *, stage: str | None = None) -> None:
        """So much of a stage is done; `detail` says where in it: "batch 2/4, iteration 120/300".

        stage: None for the one that began last; by name where several run side by side.
        """

    def finish(self, stage: str, seconds: float, *, kept: bool = False) -> None:
        """A stage is over. kept: it was finished before, and not made again."""


class Silent:
    """A watcher that does nothing."""

    def say(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...

    def start(self, stage: str, total: int, unit: str) -> None: ...

    def advance(self, done: int, detail: str, loss: float | None = None, *, stage: str | None = None) -> None: ...

    def finish(self, stage: str, seconds: float, *, kept: bool = False) -> None: ...
