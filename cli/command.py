"""The frame of every command: its options, --json and --debug, its errors, its progress display and its exit code.

A command parses its options, calls the pipeline, and returns an Outcome. All its parameters are keyword-only. A
parameter whose type is a dataclass is a group: Typer sees an option for each field of it. The parameter `progress` is
no option: a command that has it runs with a progress display.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import MISSING, dataclass, fields, is_dataclass
from inspect import Parameter
from typing import Annotated, Any

import typer

from intraq_deploy.cli.errors import errors_explained, set_debug
from intraq_deploy.pipeline.progress import Progress

_PROGRESS = "progress"
_Json = Annotated[bool, typer.Option("--json", help="Print the report alone, as JSON. Default: a table.")]
_Debug = Annotated[
    bool, typer.Option("--debug", callback=set_debug, help="Show tracebacks and log lines. Default: off.")
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a command. One of the two functions is called, when the command is over."""

    to_json: Callable[[], str]
    """Returns the report for --json."""
    show: Callable[[], None]
    """Prints the report for people."""
    exit_code: int = 0
    """The exit code after the report is printed."""


def begin(progress: Progress) -> None:
    """Gives a sign of life, for what comes next takes seconds: commands import torch after it, when what can be checked
    without is checked."""
    progress.say("Loading PyTorch and the network.")


def command(function: Callable[..., Outcome]) -> Callable[..., None]:
    """Returns the function that Typer runs for a command. Raises ValueError for two options of one name."""
    own = inspect.signature(function).parameters
    groups: dict[str, Any] = {name: each.annotation for name, each in own.items() if is_dataclass(each.annotation)}

    @functools.wraps(function)
    def run(*, json: bool, debug: bool, **given: Any) -> None:
        values = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        with errors_explained():
            # Standard output is for results: what libraries and a person's own code print goes to standard error.
            with redirect_stdout(sys.stderr), ExitStack() as stack:
                if _PROGRESS in own:
                    values[_PROGRESS] = _Display(stack)
                outcome = function(**given, **values)
            if json:
                print(outcome.to_json())
            else:
                outcome.show()
        if outcome.exit_code:
            raise typer.Exit(outcome.exit_code)

    options = [*_options(own.values()), _option("json", _Json, False), _option("debug", _Debug, False)]
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def _options(parameters: Iterable[Parameter]) -> Iterator[Parameter]:
    """Yields a command's parameters as Typer sees them: the fields of a group in place of the group, and no display."""
    for parameter in parameters:
        if is_dataclass(parameter.annotation):
            for field in fields(parameter.annotation):
                yield _option(field.name, field.type, Parameter.empty if field.default is MISSING else field.default)
        elif parameter.name != _PROGRESS:
            yield parameter


def _option(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


class _Display:
    """A progress display that is made when it is first used: an error in the options needs none."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __getattr__(self, name: str) -> Any:
        from intraq_deploy.cli.progress import progress_display

        made = self._stack.enter_context(progress_display())
        self.__dict__ |= {each: getattr(made, each) for each in dir(Progress) if not each.startswith("_")}
        return self.__dict__[name]
