"""The console for all tables and lines; names and paths appear exactly as written."""

from rich.console import Console

WIDTH = 120
"""columns of a pipe or a file, which have no width of their own"""


def make_console(width: int = WIDTH) -> Console:
    """A console as wide as the terminal; `width` columns where there is none.

    Markup and emoji codes are off: `[final] a.csv` is a file name, and `:smile:` a word of a review.
    """
    found = Console(markup=False, emoji=False, highlight=False)
    if not found.is_terminal:
        found.width = width
    return found


def has_colors(console: Console) -> bool:
    """Whether the console shows colors.

    A pipe, a file, the output of a notebook's `!` command and NO_COLOR have none.
    """
    return console.color_system is not None and not console.no_color
