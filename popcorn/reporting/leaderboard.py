"""The leaderboard, from `results/` alone: printed, written into the README and docs/, and drawn."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from popcorn.errors import UserError, log
from popcorn.reporting.script_table import public_scores, script_rows
from popcorn.runs.results import Row, rows
from popcorn.utils.console import make_console
from popcorn.utils.files import atomic_write
from popcorn.utils.packages import MissingPackage

END = "<!-- end of table -->"
MARKED = re.compile(rf"<!-- python -m popcorn leaderboard: (?P<table>[^>]+) -->.*?{END}", re.DOTALL)
FORMER = "†"
FORMER_NOTE = (
    f"{FORMER} validated on an earlier split of the training file (scikit-learn 1.9.1's StratifiedGroupKFold). The current split "
    "has another validation set, on which this model has not been trained yet."
)
HEADINGS = (
    "model",
    "accuracy",
    "95% interval",
    "ROC AUC",
    "validation",
    "seeds",
    "time",
    "reviews/s",
    "peak memory",
    "parameters",
)


def update(results: Path, pages: tuple[Path, ...] = ()) -> None:
    """Prints the table, writes the tables of the pages, and draws `results/leaderboard.png`.

    Raises `UserError` where nothing is recorded, or a page has no markers.
    """
    found = list(rows(results))
    if not found:
        raise UserError(f"{results} holds no recorded results on the competition's data: run a script with --save-results first")
    table = Table(*HEADINGS)
    for row in found:
        table.add_row(*cells(row))
    make_console(140).print(table)
    written = {page: render(page, found, results) for page in pages or marked_pages(Path())}
    for page, text in written.items():
        with atomic_write(page, "w", option="--pages") as file:
            file.write(text)
        log(f"{page}: tables written")
    _draw(found, results / "leaderboard.png")


def marked_pages(folder: Path) -> list[Path]:
    """The folder's README*.md and the pages of its docs/ that have markers."""
    pages = sorted([*folder.glob("README*.md"), *folder.glob("docs/**/*.md")])
    return [page for page in pages if MARKED.search(page.read_text(encoding="utf-8"))]


def render(page: Path, found: list[Row], results: Path) -> str:
    """The page's text with new tables between its markers.

    Raises `UserError` where there are no markers, or where they name another table than those below.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as problem:
        raise UserError(f"{page} cannot be read ({problem.strerror}): name a page with markers, such as README.md") from problem
    if not MARKED.search(text):
        raise UserError(f"{page} lacks the two lines {begin('results')} and {END}: put them where the table belongs")
    return MARKED.sub(lambda match: begin(match["table"]) + _table(match["table"], found, results, page) + END, text)


def begin(table: str) -> str:
    """The line before a table.

    Tables are `scripts`, `scripts in Chinese`, `results`, `results of NAME ...`, `commands` and `public scores`.
    """
    return f"<!-- python -m popcorn leaderboard: {table} -->"


def _table(name: str, found: list[Row], results: Path, page: Path) -> str:
    kind, _, scripts = name.partition(" of ")
    if kind == "results":
        wanted = scripts.split()
        shown = [row for row in found if not wanted or any((row.name + "-").startswith(script + "-") for script in wanted)]
        return markdown(shown) if shown else "\n\nNo result is recorded yet.\n\n"
    if name == "scripts":
        return table_of(script_rows(found, results, "English"))
    if name == "scripts in Chinese":
        return table_of(script_rows(found, results, "Chinese"))
    if name == "commands":
        return table_of([("row", "command"), *((literal(row.name), f"`{row.command}`") for row in found)])
    if name == "public scores":
        return table_of(public_scores(results))
    raise UserError(f"{page} has a marker for a table {name!r}: name scripts, results, commands or public scores")


def markdown(found: list[Row]) -> str:
    """The table of all columns, with its note."""
    table = table_of([HEADINGS, *([literal(cell) for cell in cells(row)] for row in found)])
    return table + (f"{FORMER_NOTE}\n\n" if FORMER in table else "")


def table_of(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown from its cells, the heading first, with empty lines around it."""
    heading, *others = lines
    return "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in [heading, ["---"] * len(heading), *others]) + "\n\n"


def literal(text: str) -> str:
    """Escapes the text for a cell of a Markdown table.

    Underscores inside a name have no meaning there.
    """
    return re.sub(r"[\\`*\[\]<|~]", r"\\\g<0>", " ".join(text.split()))


def cells(row: Row) -> list[str]:
    """One row as text: the spread is over seeds, the interval over test reviews."""
    former = FORMER if row.is_former_split else ""
    spread = f" ± {row.spread:.4f}" if row.spread is not None else ""
    return [
        row.name,
        f"{row.accuracy:.4f}{spread}",
        f"{row.accuracy - row.interval:.4f} to {row.accuracy + row.interval:.4f}",
        f"{row.auc:.4f}",
        f"{row.validation:.4f}{former}" if row.validation is not None else "-",
        str(row.seeds),
        f"{row.seconds / 60:.1f} min",
        f"{row.reviews_per_second:,.0f}" if row.reviews_per_second else "-",  # an ensemble has no training speed
        f"{row.peak_memory / 2**30:.1f} GiB",
        f"{row.parameters / 1e6:.1f} M",
    ]


def _draw(found: list[Row], path: Path) -> None:
    """Draws accuracy with its 95% interval against time; skipped where a package is missing."""
    try:
        from popcorn.reporting.plots import draw_accuracy_against_time
    except MissingPackage as problem:
        log(f"{path} is not drawn: {problem}")
        return
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    draw_accuracy_against_time(axes, [(row.name, row.seconds, row.accuracy, row.interval) for row in found])
    axes.grid(alpha=0.3)
    with atomic_write(path, option="--results") as file:
        figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)
    log(f"{path}: drawn")
