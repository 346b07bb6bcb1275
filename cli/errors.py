"""Errors as a person meets them: one red sentence and an exit code; a traceback only with --debug.

0 done, 1 error, 2 usage, 3 a gate failed, 130 interrupted.
"""

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from intraq_deploy.errors import IntraqError

P = ParamSpec("P")
R = TypeVar("R")
INTERRUPTED = 130
_DEBUG = "INTRAQ_DEPLOY_DEBUG"


def set_debug(value: bool) -> bool:
    """Called by the --debug option."""
    if value:
        os.environ[_DEBUG] = "1"
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    return value


def reports_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Turns what a command raises into a sentence and an exit code."""

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            typer.secho("Interrupted. The same command continues where it stopped.", fg=typer.colors.RED, err=True)
            raise typer.Exit(INTERRUPTED) from None
        except IntraqError as error:
            _explain(str(error))
            raise typer.Exit(error.exit_code) from None
        except (typer.Exit, typer.Abort):
            raise
        except OSError as error:
            where = "" if error.filename is None else f" ({error.filename})"
            _explain(f"the system refused{where}: {error.strerror or error}; make room or choose another place.")
            raise typer.Exit(1) from None
        except Exception as error:
            _explain(f"Unexpected {type(error).__name__}: {error}. Run again with --debug for the traceback.")
            raise typer.Exit(1) from None

    return command


def _explain(sentence: str) -> None:
    if os.environ.get(_DEBUG):
        traceback.print_exc()
    typer.secho(f"Error: {sentence}", fg=typer.colors.RED, err=True)
