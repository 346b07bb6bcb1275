"""What log lines say of a stage's speed."""

import io

import pytest
from rich.console import Console

from intraq_deploy.pipeline import display
from intraq_deploy.pipeline.display import PlainProgress


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
