"""What log lines say of a stage's speed, and who is shown a display in Python."""

import io
import re
import sys

import pytest
from rich.console import Console

from intraq_deploy.pipeline import display
from intraq_deploy.pipeline.display import PlainProgress, TerminalProgress


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def shown():
    return io.StringIO()


def test_the_speed_is_that_since_the_first_image(clock, shown):
    lines = PlainProgress(Console(file=shown))
    lines.start("fine-tuning", 100, "images")
    for clock[0], done, detail in (
        (20, 0, "fitting layer 1/2"),
        (60, 0, "fitting layer 2/2"),
        (70, 40, "step 4/10"),
    ):
        lines.advance(done, detail)
    assert shown.getvalue().splitlines() == [
        "fine-tuning: fitting layer 1/2",
        "fine-tuning: fitting layer 2/2",
        "fine-tuning: step 4/10, 4 images/s, 15 s left",
    ]


def test_what_an_earlier_session_did_is_no_speed_of_this_one(clock, shown):
    lines = PlainProgress(Console(file=shown))
    lines.start("synthesis", 100, "images")
    for clock[0], done in ((5, 60), (25, 80)):
        lines.advance(done, "batch 1")
    assert shown.getvalue().splitlines() == ["synthesis: batch 1, 1 images/s, 20 s left"]


# --- who is shown one in Python ------------------------------------------------------------------------


def watched(shown=True):
    """What is written on standard error and on standard output while a stage is shown."""
    with display.shown_stage(shown, "synthesis", 4, "images") as progress:
        sys.stdout.write("of the caller\n")
        progress.advance(2, "batch 1", 0.25)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def streams(monkeypatch):
    """Makes standard error a terminal, and standard output a file, when a test calls it: pytest has its own before."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")

    def make():
        error, output = Terminal(), io.StringIO()
        monkeypatch.setattr(sys, "stderr", error)
        monkeypatch.setattr(sys, "stdout", output)
        return error, output

    return make


def test_a_terminal_shows_the_stage_its_loss_and_its_seconds(streams):
    error, output = streams()
    watched()
    assert "synthesis" in error.getvalue()
    assert re.search(r"100% \d+\.\d s", error.getvalue())
    assert output.getvalue() == "of the caller\n", "what is printed stays where it goes"
    with display.shown_stage(True, "synthesis", 4, "images") as progress:
        progress.advance(2, "batch 1", 0.25)
        progress.bars.refresh()
    assert "50% batch 1, loss 0.25" in error.getvalue()


def test_an_error_ends_the_display(streams):
    error, _ = streams()
    with pytest.raises(ValueError, match="mine"), display.shown_stage(True, "synthesis", 4, "images"):
        raise ValueError("mine")
    assert "\x1b[?25h" in error.getvalue(), "the cursor is back"
    assert "100%" not in error.getvalue()


def test_whoever_does_not_want_it_or_does_not_watch_sees_nothing(streams, monkeypatch):
    error, _ = streams()
    watched(shown=False)
    assert error.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", None)
    watched()
    for forced in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.setenv(forced, "1")
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        watched()
        assert sys.stderr.getvalue() == ""


@pytest.mark.filterwarnings("ignore:install .ipywidgets")
@pytest.mark.parametrize(("widgets", "kind"), [(True, TerminalProgress), (False, PlainProgress)])
def test_a_notebook_has_a_display_if_it_has_widgets(monkeypatch, widgets, kind):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(display, "find_spec", lambda name: widgets or None)
    with display._drawn(display._console()) as made:
        assert type(made) is kind
        if widgets:
            assert made.bars.live.console.is_jupyter
            made.bars.stop()
