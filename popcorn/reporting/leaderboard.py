"""The leaderboard, from `results/*.json` alone: printed, written into the README, and drawn."""

import re
from pathlib import Path

from rich.table import Table

from popcorn.errors import UserError, log
from popcorn.runs.results import Row, rows
from popcorn.utils.console import make_console
from popcorn.utils.files import atomic_write
from popcorn.utils.packages import MissingPackage

BEGIN, END = "<!-- leaderboard: written by python -m popcorn leaderboard -->", "<!-- end of leaderboard -->"
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


def update(results: Path, readme: Path) -> None:
    """Prints the table, writes it into the README, and draws `results/leaderboard.png`."""
    found = list(rows(results))
    if not found:
        raise UserError(f"{results} holds no recorded results on the competition's data: run a script with --save-results first")
    table = Table(*HEADINGS)
    for row in found:
        table.add_row(*cells(row))
    make_console(140).print(table)
    text = read_between_markers(readme)
    with atomic_write(readme, "w", option="--readme") as file:
        file.write(text[0] + markdown(found) + text[2])
    log(f"{readme}: table written")
    _draw(found, results / "leaderboard.png")


def read_between_markers(readme: Path) -> tuple[str, str, str]:
    """The README's text in three parts: before, between and after the markers.

    The first part includes the first marker, and the third part the second one.
    """
    try:
        text = readme.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        table, after = rest.split(END)
    except (OSError, ValueError) as problem:
        raise UserError(f"{readme} lacks the two lines {BEGIN} and {END}: put them where the table belongs") from problem
    return before + BEGIN, table, END + after


def markdown(found: list[Row]) -> str:
    """The table in Markdown, with empty lines around it."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *([literal(cell) for cell in cells(row)] for row in found)]
    table = "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n"
    return table + (f"{FORMER_NOTE}\n\n" if FORMER in table else "")


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
