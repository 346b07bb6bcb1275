"""The `intraq-deploy` command itself: what a signal does at any moment, also while libraries are imported."""

import os
import sys

from intraq_deploy.cli.processes import exit_code as shared_code
from intraq_deploy.cli.signals import INTERRUPTED, TERMINATED, exit_code, handle

_SENTENCE = "Interrupted. The same command continues where it stopped."


def main() -> None:
    """Runs the command line. Never shows a traceback for a signal."""
    handle()
    try:
        from intraq_deploy.pipeline.busy import keep_memory, wait_in_turn

        wait_in_turn()
        keep_memory()
        from intraq_deploy.cli.main import app

        app()
    except KeyboardInterrupt:
        _end()
    except SystemExit as end:  # Typer ends so where an interrupt comes
        if end.code in (INTERRUPTED, TERMINATED):
            _end()
        raise SystemExit(shared_code(end.code)) if isinstance(end.code, int) else end from None


def _end() -> None:
    """Says why the command ends, and ends it: threads of libraries may still work, and wait for nothing."""
    print(f"\n{_SENTENCE}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(exit_code())
