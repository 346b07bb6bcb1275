"""The frame of every command: its options, --json and --debug, its errors, its progress display and its exit code.

A command parses its options, calls the pipeline, and returns an Outcome. All its parameters are keyword-only. A
parameter whose type is a dataclass is a group: Typer sees an option for each field of it. The parameter `progress` is
no option: a command that has it runs with a progress display.
"""

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, redirect_stdout
from copy import copy
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from inspect import Parameter
from typing import Annotated, Any, Protocol

import typer
from typer.models import OptionInfo

from intraq_deploy.cli.errors import errors_explained, set_debug, set_verbose
from intraq_deploy.cli.options import ModelGroup
from intraq_deploy.errors import AmbiguousError, ArchitectureError, UsageError
from intraq_deploy.pipeline.progress import Progress

_PROGRESS = "progress"
_OUTPUT = "Output"
LOADING = "Loading PyTorch and the network."
_Json = Annotated[
    bool, typer.Option("--json", rich_help_panel=_OUTPUT, help="Print the report alone, as JSON. Default: a table.")
]
_Debug = Annotated[
    bool,
    typer.Option(
        "--debug", callback=set_debug, rich_help_panel=_OUTPUT, help="Show tracebacks and log lines. Default: off."
    ),
]
_Quiet = Annotated[
    bool,
    typer.Option(
        "-q", "--quiet", rich_help_panel=_OUTPUT, help="Say only what needs attention, and the result. Default: off."
    ),
]
_Verbose = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", callback=set_verbose, rich_help_panel=_OUTPUT, help="Show log lines too. Default: off."
    ),
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


class Checked(Protocol):
    """Something that can be checked without torch."""

    def check(self) -> None:
        """Checks the value. Raises an error of this package for what cannot be."""


def begin(progress: Progress, *given: Checked) -> None:
    """Checks what a command was given, and gives a sign of life: importing torch, which comes next, takes seconds.

    Raises what the checks raise.
    """
    for each in given:
        each.check()
    progress.say(LOADING)


def command(function: Callable[..., Outcome]) -> Callable[..., None]:
    """Returns the function that Typer runs for a command. Raises ValueError for two options of one name."""
    own = inspect.signature(function).parameters
    groups: dict[str, Any] = {name: each.annotation for name, each in own.items() if is_dataclass(each.annotation)}

    @functools.wraps(function)
    def run(*, json: bool, quiet: bool, verbose: bool, debug: bool, **given: Any) -> None:
        values = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        with errors_explained():
            # Standard output is for results: what libraries and a person's own code print goes to standard error.
            with redirect_stdout(sys.stderr):
                outcome = _outcome(
                    function,
                    given | values,
                    lambda stack: {_PROGRESS: _Display(stack, quiet=quiet)} if _PROGRESS in own else {},
                )
            if json:
                print(outcome.to_json())
            else:
                outcome.show()
        if outcome.exit_code:
            raise typer.Exit(outcome.exit_code)

    shared = {"json": _Json, "quiet": _Quiet, "verbose": _Verbose, "debug": _Debug}
    options = [*_options(own.values()), *(_option(name, each, False) for name, each in shared.items())]
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    # A paragraph is one line for Typer, which breaks it at the width of the terminal.
    run.__doc__ = "\n\n".join(" ".join(each.split()) for each in (inspect.getdoc(function) or "").split("\n\n"))
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def _outcome(function: Callable[..., Outcome], values: dict[str, Any], display: Callable[[ExitStack], Any]) -> Outcome:
    """Calls a command's function. Where a checkpoint fits several architectures, a person at a terminal is asked which
    it is; others are told the commands that say so. display: makes the progress display, or an empty dictionary."""
    try:
        with ExitStack() as stack:
            return function(**values, **display(stack))
    except AmbiguousError as error:
        group = next((name for name, value in values.items() if isinstance(value, ModelGroup)), None)
        if group is None:
            raise
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            command = shlex.join(["intraq-deploy", *sys.argv[1:]])
            commands = "\n".join(f"  {command} --arch {spec}" for spec in error.specs)
            raise ArchitectureError(f"{error}\nOne of these commands is yours:\n{commands}") from None
        chosen = _asked(error)
    with ExitStack() as stack:
        return function(**values | {group: replace(values[group], arch=chosen)}, **display(stack))


def _asked(error: AmbiguousError) -> str:
    """Returns the architecture that a person chooses. Raises UsageError for another answer."""
    typer.echo(f"{error}\n", err=True)
    for number, spec in enumerate(error.specs, 1):
        typer.echo(f"  {number}  {spec}", err=True)
    answer = typer.prompt("Which one is it (a number)", err=True).strip()
    if not answer.isdecimal() or not 1 <= int(answer) <= len(error.specs):
        raise UsageError(f"The answer was {answer!r}: give a number from 1 to {len(error.specs)}, or --arch.")
    return error.specs[int(answer) - 1]


def _options(parameters: Iterable[Parameter]) -> Iterator[Parameter]:
    """Yields a command's parameters as Typer sees them: the fields of a group in place of the group, and no display."""
    for parameter in parameters:
        if is_dataclass(parameter.annotation):
            for field in fields(parameter.annotation):
                default = Parameter.empty if field.default is MISSING else field.default
                yield _option(field.name, _in_panel(field.type, parameter.annotation), default)
        elif parameter.name != _PROGRESS:
            yield parameter


def _in_panel(annotation: Any, group: Any) -> Any:
    """Returns a field's annotation with its group's panel of --help."""
    kind, info = annotation.__origin__, copy(annotation.__metadata__[0])
    panel = getattr(group, "PANEL", None)
    if panel is not None and isinstance(info, OptionInfo):
        info.rich_help_panel = panel
    return Annotated[kind, info]


def _option(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


class _Display:
    """A progress display that is made when it is first used: an error in the options needs none."""

    def __init__(self, stack: ExitStack, *, quiet: bool) -> None:
        self._stack, self._quiet = stack, quiet

    def __getattr__(self, name: str) -> Any:
        from intraq_deploy.pipeline.display import progress_display

        made = self._stack.enter_context(progress_display(quiet=self._quiet))
        self.__dict__ |= {each: getattr(made, each) for each in dir(Progress) if not each.startswith("_")}
        return self.__dict__[name]
