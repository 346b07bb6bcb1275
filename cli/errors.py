"""Errors as a person meets them: one red sentence and an exit code; a traceback only with --debug.

0 done, 1 error, 2 usage, 3 a gate failed, 130 interrupted.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from intraq_deploy.errors import IntraqError

INTERRUPTED = 130
_DEBUG = "INTRAQ_DEPLOY_DEBUG"


def set_debug(value: bool) -> bool:
    """Switches tracebacks and log lines on where the --debug option is given."""
    if value:
        os.environ[_DEBUG] = "1"
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    return value


@contextmanager
def errors_explained() -> Iterator[None]:
    """Turns every error inside into a sentence and an exit code. Raises typer.Exit for each of them."""
    try:
        yield
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


def _explain(sentence: str) -> None:
    if os.environ.get(_DEBUG):
        traceback.print_exc()
    typer.secho(f"Error: {sentence}", fg=typer.colors.RED, err=True)
