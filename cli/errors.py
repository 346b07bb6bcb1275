"""Errors as a person meets them: one red sentence and an exit code; a traceback only with --debug.

0 done, 1 error, 2 usage, 3 a gate failed, 130 interrupted, 143 terminated.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from intraq_deploy.cli.signals import exit_code
from intraq_deploy.errors import IntraqError

_DEBUG = "INTRAQ_DEPLOY_DEBUG"


def set_debug(value: bool) -> bool:
    """Switches tracebacks and log lines on where the --debug option is given."""
    if value:
        os.environ[_DEBUG] = "1"
        set_verbose(value)
    return value


def set_verbose(value: bool) -> bool:
    """Switches the log lines of this package and of libraries on where --verbose or --debug is given."""
    if value:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    return value


@contextmanager
def errors_explained() -> Iterator[None]:
    """Turns every error inside into a sentence and an exit code. Raises typer.Exit for each of them."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(exit_code()) from None
    except IntraqError as error:
        explain(str(error))
        raise typer.Exit(error.exit_code) from None
    except (typer.Exit, typer.Abort):
        raise
    except OSError as error:
        where = "" if error.filename is None else f" ({error.filename})"
        explain(f"the system refused{where}: {error.strerror or error}; make room or choose another place.")
        raise typer.Exit(1) from None
    except Exception as error:
        explain(f"Unexpected {type(error).__name__}: {error}. Run again with --debug for the traceback.")
        raise typer.Exit(1) from None


def explain(sentence: str) -> None:
    """Prints an error on standard error; with --debug, what raised it too."""
    if os.environ.get(_DEBUG):
        traceback.print_exc()
    text = f"Error: {sentence}"
    typer.echo(text if os.environ.get("NO_COLOR") else typer.style(text, fg=typer.colors.RED), err=True)
