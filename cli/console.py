"""Text and tables for people. Rich is imported when there is something to print, so that --help answers at once."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MIB = 1 << 20


def make_console(*, stderr: bool = False) -> "Console":
    """Returns a console that prints text as it is: it colours no numbers in it, and takes no brackets for markup."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False)


def show(content: "str | Table", style: str = "", *, wrap: bool = True) -> None:
    """Prints a sentence or a table on standard output.

    wrap: whether long lines break at the width of the terminal; a line with a path in it is better left whole.
    """
    make_console().print(content, style=style, soft_wrap=not wrap)
