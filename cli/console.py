"""Text and tables for people. Rich is imported when there is something to print, so that --help answers at once."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDE = 500
"""Characters in which any table fits."""


def make_console(*, stderr: bool = False) -> "Console":
    """Returns a console that prints text as it is: it colours no numbers in it, and takes no brackets for markup."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False)


def show(content: "str | Table", style: str = "", *, wrap: bool = True) -> None:
    """Prints a sentence or a table on standard output.

    wrap: whether long lines break at the width of the terminal; a line with a path in it is better left whole.
    """
    console = make_console()
    if not isinstance(content, str) and not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE  # a pipe has no width: nothing is broken
    console.print(content, style=style, soft_wrap=not wrap)
