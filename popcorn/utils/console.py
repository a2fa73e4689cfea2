"""The one console of all tables and lines, on which names, words and paths stand as they are written."""

from rich.console import Console

WIDTH = 120
"""columns of a pipe or a file, which have no width of their own"""


def make_console(width: int = WIDTH) -> Console:
    """A console as wide as the terminal, or `width` columns where there is none.

    It reads no markup and no emoji codes: `[final] a.csv` is the name of a file, and `:smile:` a word of a review.
    """
    found = Console(markup=False, emoji=False, highlight=False)
    if not found.is_terminal:
        found.width = width
    return found


def has_colors(console: Console) -> bool:
    """Whether colors can be seen there: not in a pipe, a file or the output of a notebook's `!` command, nor under NO_COLOR."""
    return console.color_system is not None and not console.no_color
