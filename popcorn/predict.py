"""`python -m popcorn predict`: a trained model on texts of the user's own, one by one with its reasons, or many at once."""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

from popcorn.console import has_colors, make_console
from popcorn.errors import UserError, say
from popcorn.files import whole
from popcorn.loading import load
from popcorn.packages import needs
from popcorn.predictors import Predictor
from popcorn.saved import ABOUT

SHOWN = 0.15  # of the strongest word's weight: a word below it is left without a colour
LEGEND = "[+word] moved the result towards positive, [-word] towards negative; [++word] and [--word] most of all"


def run_of(model: str, output_dir: Path) -> Path:
    """The folder of a run by its name, of several seeds the first; or the folder that was given."""
    if (Path(model) / ABOUT).is_file() or "/" in model:
        return Path(model)
    runs = sorted((output_dir / "runs" / model).glob("seed-*"))
    runs = [run for run in runs if (run / ABOUT).is_file() and run.suffix != ".earlier"]
    if not runs:
        raise UserError(f"there is no finished run of {model} in {output_dir / 'runs'}: run its script first")
    return runs[0]


def read_texts(path: Path) -> tuple[list[str], list[str]]:
    """Ids and texts: of a .csv or .tsv its columns id and review, of any other file its lines that are not empty.

    Raises `UserError`, naming the file and the row, where there is nothing to read.
    """
    try:
        text = _decoded(path.read_bytes(), str(path))
    except OSError as problem:
        raise UserError(f"{path} cannot be read ({problem.strerror}): give a file of reviews") from problem
    return _rows(path) if path.suffix.lower() in (".csv", ".tsv") else _lines(text, str(path))


def _decoded(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        row = content[: problem.start].count(b"\n") + 1
        raise UserError(f"{name}, row {row}: this is no text in UTF-8: save it as text in UTF-8") from problem
    if "\0" in text:
        raise UserError(f"{name} is binary (it holds a zero byte): give text, a .csv or a .tsv")
    return text


def _lines(text: str, name: str) -> tuple[list[str], list[str]]:
    lines = [(str(number), line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UserError(f"{name} is empty: give at least one review, one a line")
    ids, texts = zip(*lines, strict=True)
    return list(ids), list(texts)


def _rows(path: Path) -> tuple[list[str], list[str]]:
    from popcorn.data import read_reviews

    if path.suffix.lower() == ".tsv":  # as the competition has them, with quotes of its own kind
        reviews = read_reviews(path, ["id", "review"])
        ids, texts = reviews.ids, reviews.texts
    else:
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (ValueError, pd.errors.ParserError) as problem:
            raise UserError(
                f"{path} cannot be read as a table ({str(problem).strip()}): mend it, or give a text file"
            ) from problem
        if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much in the first row for names of the rows
            raise UserError(f"{path}, row 2: there are more fields than columns: put a review that has commas into quotes")
        if "review" not in table:
            raise UserError(f"{path}, row 1: the columns are {', '.join(table.columns)}, and one of them must be review")
        ids = (table["id"] if "id" in table else pd.Series(np.arange(2, len(table) + 2).astype(str))).tolist()
        texts = table["review"].tolist()
    if not texts:
        raise UserError(f"{path} has no rows: give at least one review")
    return ids, texts


def show(model: Predictor, text: str, console: Console) -> bool:
    """Prints the result, and the text's words as the model read them; returns whether any of them is marked.

    Green words moved the result towards positive, red ones away from it. Where there are no colors signs say so: see `LEGEND`.
    """
    positive = model.probability([text])[0]
    console.print(f"{'positive' if positive > 0.5 else 'negative'}, probability of positive {positive:.4f}")
    words = model.words(text)
    strongest = max((abs(weight) for _, weight in words), default=0.0) or 1.0
    line, are_colored = Text(), has_colors(console)
    for word, weight in words:
        share = abs(weight) / strongest
        if share <= SHOWN:
            line.append(word)
        elif are_colored:
            line.append(word, style=f"{'bold ' if share > 0.5 else ''}{'green' if weight > 0 else 'red'}")
        else:
            line.append(f"[{('+' if weight > 0 else '-') * (2 if share > 0.5 else 1)}{word}]")
        line.append(" ")
    console.print(line)
    return any(weight for _, weight in words)


def write(model: Predictor, ids: list[str], texts: list[str], output: Path) -> None:
    """Writes id, probability and label of each text, and says how fast that was."""
    start = time.monotonic()
    positive = model.probability(texts)
    seconds = time.monotonic() - start
    table = pd.DataFrame({"id": ids, "probability": positive.round(6), "sentiment": (positive > 0.5).astype(int)})
    with whole(output, "w") as file:
        table.to_csv(file, index=False)
    say(f"{output}: {len(texts):,} reviews in {seconds:.1f} s, {len(texts) / seconds:,.0f} a second")


def serve(model: Predictor, name: str) -> None:
    """A page for one review at a time, which this machine alone can open; nothing is told to anybody about its use."""
    with needs("gradio", "--serve"):
        import gradio

    def judge(text: str) -> tuple[dict[str, float], list[tuple[str, float]]]:
        if not text.strip():
            raise gradio.Error("the review is empty: give at least one word")
        positive = float(model.probability([text])[0])
        words = model.words(text)
        strongest = max((abs(weight) for _, weight in words), default=0.0) or 1.0
        return {"positive": positive, "negative": 1 - positive}, [(word + " ", weight / strongest) for word, weight in words]

    gradio.Interface(
        judge, gradio.Textbox(lines=8, label="review"), [gradio.Label(label="verdict"), gradio.HighlightedText(label="why")],
        title=f"{name} on a review of yours", flagging_mode="never", analytics_enabled=False,
    ).launch(server_name="127.0.0.1")  # fmt: skip


def predict(model: str, texts: list[str], file: Path | None, output: Path | None, output_dir: Path, is_served: bool) -> None:
    """What the command does: texts of the command line or of stdin are shown, a file's are written."""
    if sum(map(bool, (texts, file, is_served))) > 1:
        raise UserError("reviews in quotes, --file and --serve are three ways to ask: give one of them")
    if output is not None and file is None:
        raise UserError(f"--output {output} is what --file is written to: give --file too")
    folder = run_of(model, output_dir)
    if is_served:
        serve(load(folder), model)
        return
    if file is not None:
        ids, its = read_texts(file)
        write(load(folder), ids, its, output or file.with_name(f"{file.stem}.predicted.csv"))
        return
    if not texts:
        if sys.stdin.isatty():
            raise UserError("there is nothing to judge: give a review in quotes, --file, or reviews on stdin, one a line")
        _, texts = _lines(_decoded(sys.stdin.buffer.read(), "stdin"), "stdin")
    if not all(text.strip() for text in texts):
        raise UserError("a review is empty: give at least one word")
    loaded, console = load(folder), make_console()
    marked = [show(loaded, text, console) for text in texts]
    if any(marked) and not has_colors(console):
        console.print(LEGEND)
