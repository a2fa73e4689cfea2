"""`python -m popcorn predict`: predicts the user's own texts with a trained model.

One text is shown with its words' contributions, and a file is predicted as a whole.
"""

import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.text import Text

from popcorn.data.competition import find_competition, require_ids
from popcorn.data.submission import UNLABELED_SUFFIX
from popcorn.data.tables import bare, read_table, separator_of
from popcorn.data.text_files import decoded, read_text
from popcorn.errors import UserError, log
from popcorn.inference.load import load
from popcorn.inference.predictors import Predictor
from popcorn.inference.unlabeled import predict_unlabeled
from popcorn.models.saved import ENSEMBLE, run_of
from popcorn.utils.console import has_colors, make_console
from popcorn.utils.files import atomic_write
from popcorn.utils.packages import needs

SHOWN = 0.15  # fraction of the largest contribution; words below it get no color
FORMATS = "give reviews as text, one a line, as a .csv or .tsv, or as JSON"
JSON_START = re.compile(r'\s*[\[{]\s*(["{\[\]}]|$)')  # a review may start with a bracket, but hardly like this
JSON_ENDINGS = {".json", ".jsonl", ".ndjson"}
LEGEND = "[+word] moved the result towards positive, [-word] towards negative; [++word] and [--word] most of all"


def read_texts(path: Path) -> tuple[list[str], list[str]]:
    """Ids and texts of a file: a table, JSON, or one review per line.

    A table has the columns id and review. The file may be packed. Its content decides the format, but a name that ends in .csv or
    .tsv must be a table. Ids have no quotes. Raises `UserError`, with file and row, where there is nothing to read.
    """
    text = read_text(path, FORMATS)
    endings = [ending.lower() for ending in path.suffixes]
    if JSON_START.match(text) or (JSON_ENDINGS.intersection(endings) and text.strip()):
        return _entries(text, str(path))
    for ending, separator in ((".csv", ","), (".tsv", "\t")):
        if ending in endings:
            return _rows(text, str(path), separator_of(text, "review") or separator)
    separator = separator_of(text, "review")
    if separator and separator == separator_of(text, "id"):
        return _rows(text, str(path), separator)
    return _lines(text, str(path))


def _lines(text: str, name: str) -> tuple[list[str], list[str]]:
    lines = [(str(number), line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UserError(f"{name} is empty: give at least one review, one a line")
    ids, texts = zip(*lines, strict=True)
    return list(ids), list(texts)


def _rows(text: str, name: str, separator: str) -> tuple[list[str], list[str]]:
    table = read_table(text, name, separator, "put a review that has commas into quotes, and double the quotes within")
    if table.place("review") is None:
        raise UserError(f"{name}, row 1: the columns are {', '.join(table.columns)}, and one of them must be review")
    if not table.rows:
        raise UserError(f"{name} has no rows: give at least one review")
    if table.place("id") is None:
        return [str(number) for number in range(2, len(table.rows) + 2)], table.texts("review")
    require_ids(table, "give each review an id of its own, or leave the column id out")
    return bare(table.fields("id")), table.texts("review")


def _entries(text: str, name: str) -> tuple[list[str], list[str]]:
    """JSON: a list of texts, a list of objects, or one object per line.

    Each object has a review.
    """
    try:
        entries = json.loads(text)
    except ValueError as file_problem:
        entries = []
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    entries.append(json.loads(line))
                except ValueError as problem:
                    # in a broken list the error concerns the whole file; in JSON lines, one line
                    reason = problem if entries else file_problem
                    position = f"{name}, row {number}" if entries else name
                    raise UserError(f"{position} is not valid JSON ({reason}), or is cut short: write it again") from problem
    if isinstance(entries, dict):
        entries = [entries]
    ids, texts = [], []
    for number, entry in enumerate(entries, start=1):
        named = {key.lower(): value for key, value in entry.items()} if isinstance(entry, dict) else {"review": entry}
        review, id = named.get("review"), named.get("id", number)
        if not isinstance(review, str) or not isinstance(id, str | int) or isinstance(id, bool):
            raise UserError(
                f"{name}, entry {number}: it is not a review: give a list of texts, or of objects whose review is a text, and "
                "whose id, if any, is a text or a whole number (in pandas orient='records')"
            )
        ids.append(bare([str(id)])[0])
        texts.append(review)
    if not texts:
        raise UserError(f"{name} has no reviews: give at least one")
    if len(set(ids)) < len(ids):
        doubled = Counter(ids).most_common(1)[0][0]
        raise UserError(f"{name}: the id {doubled} is there twice: give each review an id of its own, or leave the ids out")
    return ids, texts


def show(model: Predictor, text: str, console: Console) -> bool:
    """Prints the prediction and the text's words; returns whether any word is marked.

    Green words contribute to positive, red ones to negative. Without colors, signs mark them: see `LEGEND`.
    """
    positive = model.probability([text])[0]
    console.print(f"{'positive' if positive > 0.5 else 'negative'}, probability of positive {positive:.4f}")
    words = model.explain(text)
    strongest = max((abs(weight) for _, weight in words), default=0.0) or 1.0
    line, are_colored = Text(), has_colors(console)
    for word, weight in words:
        strength = abs(weight) / strongest
        if strength <= SHOWN:
            line.append(word)
        elif are_colored:
            line.append(word, style=f"{'bold ' if strength > 0.5 else ''}{'green' if weight > 0 else 'red'}")
        else:
            line.append(f"[{('+' if weight > 0 else '-') * (2 if strength > 0.5 else 1)}{word}]")
        line.append(" ")
    console.print(line)
    return any(weight for _, weight in words)


def write(model: Predictor, ids: list[str], texts: list[str], output: Path) -> None:
    """Writes id, probability and label of each text, and prints the speed."""
    start = time.monotonic()
    positive = model.probability(texts)
    seconds = time.monotonic() - start
    table = pd.DataFrame({"id": ids, "probability": positive.round(6), "sentiment": (positive > 0.5).astype(int)})
    with atomic_write(output, "w", option="--output") as file:
        table.to_csv(file, index=False)
    log(f"{output}: {len(texts):,} reviews in {seconds:.1f} s, {len(texts) / seconds:,.0f} a second")


def serve(model: Predictor, name: str) -> None:
    """A web page on this machine, without usage statistics."""
    with needs("gradio", "--serve"):
        import gradio

    def classify(text: str) -> tuple[dict[str, float], list[tuple[str, float]]]:
        if not text.strip():
            raise gradio.Error("the review is empty: give at least one word")
        positive = float(model.probability([text])[0])
        words = model.explain(text)
        strongest = max((abs(weight) for _, weight in words), default=0.0) or 1.0
        return {"positive": positive, "negative": 1 - positive}, [(word + " ", weight / strongest) for word, weight in words]

    gradio.Interface(
        classify, gradio.Textbox(lines=8, label="review"),
        [gradio.Label(label="prediction"), gradio.HighlightedText(label="contributions")],
        title=f"{name} on your review", flagging_mode="never", analytics_enabled=False,
    ).launch(server_name="127.0.0.1")  # fmt: skip


def predict(
    model: str, texts: list[str], file: Path | None, output: Path | None, output_dir: Path, is_served: bool,
    is_unlabeled: bool, data_dir: Path | None,
) -> None:  # fmt: skip
    """Runs the command: shows single texts, or writes the predictions of a file or of the unlabeled reviews."""
    if sum(map(bool, (texts, file, is_served, is_unlabeled))) > 1:
        raise UserError("reviews in quotes, --file, --unlabeled and --serve exclude each other: give one of them")
    if output is not None and file is None and not is_unlabeled:
        raise UserError(f"--output {output} is the output of --file or --unlabeled: give --file too")
    if output is not None and file is not None and output.resolve() == file.resolve():
        raise UserError(f"--output {output} is the file of reviews itself, which would be lost: give another name")
    folder = run_of(model, output_dir)
    if is_unlabeled:
        name = folder.name if (folder / ENSEMBLE).is_file() else folder.resolve().parent.name
        default = output_dir / "submissions" / f"{name}{UNLABELED_SUFFIX}"
        predict_unlabeled(folder, find_competition(data_dir), output or default)
        return
    if is_served:
        serve(load(folder), model)
        return
    if file is not None:
        ids, file_texts = read_texts(file)
        write(load(folder), ids, file_texts, output or file.with_name(f"{file.stem}.predicted.csv"))
        return
    if not texts:
        if sys.stdin.isatty():
            raise UserError("there is no review: give one in quotes, --file, or reviews on stdin, one a line")
        _, texts = _lines(decoded(sys.stdin.buffer.read(), "stdin", "give text, one review a line"), "stdin")
    if not all(text.strip() for text in texts):
        raise UserError("a review is empty: give at least one word")
    loaded, console = load(folder), make_console()
    marked = [show(loaded, text, console) for text in texts]
    if any(marked) and not has_colors(console):
        console.print(LEGEND)
