"""Text and tables for people. Rich is imported when there is something to print, so that --help answers at once."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_WIDE = 500
"""Characters in which any table fits."""


def show(content: "str | Table", style: str = "", *, wrap: bool = True) -> None:
    """Prints a sentence or a table on standard output.

    wrap: whether long lines break at the width of the terminal; a line with a path in it is better left whole.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False)  # text as it is: numbers uncoloured, brackets no markup
    if not isinstance(content, str) and not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE  # a pipe has no width: nothing is broken
    console.print(content, style=style, soft_wrap=not wrap)
