"""The frame that every command has, around a command that is made up."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from intraq_deploy.cli.command import Outcome, command
from intraq_deploy.cli.console import show
from intraq_deploy.errors import GateError
from intraq_deploy.pipeline.progress import Progress


@dataclass(frozen=True, slots=True)
class SizeGroup:
    width: Annotated[int, typer.Option(help="In pixels.")]
    height: Annotated[int, typer.Option(help="In pixels.")] = 2


@command
def area(*, unit: Annotated[str, typer.Option()] = "px", size: SizeGroup, progress: Progress) -> Outcome:
    """How large something is."""
    typer.echo("a library prints this")
    progress.say("measuring")
    if not size.width:
        raise GateError("Nothing is there.")
    found = f"{size.width * size.height} [{unit}]"
    return Outcome(lambda: f'"{found}"', lambda: show(found), exit_code=1)


@pytest.fixture
def run():
    app = typer.Typer(rich_markup_mode=None)
    app.command()(area)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_fields_of_a_group_are_options_at_its_place(run):
    text = run("--help").stdout
    places = [text.index(f"--{name}") for name in ("unit", "width", "height", "json", "debug", "help")]
    assert places == sorted(places)
    assert "--size" not in text
    assert "--progress" not in text
    assert "Missing option '--width'" in run().stderr


def test_standard_output_is_for_the_result(run):
    result = run("--width", "3")
    assert (result.stdout, result.exit_code) == ("6 [px]\n", 1)
    assert result.stderr == "a library prints this\nmeasuring\n"
    result = run("--width", "3", "--height", "5", "--unit", "b", "--json")
    assert (result.stdout, result.exit_code) == ('"15 [b]"\n', 1)


def test_an_error_is_a_sentence_and_its_exit_code(run):
    result = run("--width", "0")
    assert (result.stdout, result.exit_code) == ("", GateError.exit_code)
    assert result.stderr.endswith("Error: Nothing is there.\n")


def test_two_options_of_one_name_are_refused():
    with pytest.raises(ValueError, match="duplicate parameter name: 'width'"):

        @command
        def _twice(*, width: int, size: SizeGroup) -> Outcome:
            raise NotImplementedError
