"""Accuracy and ROC AUC of submissions, from the ratings in the test ids.

This is for scoring only, never for training or selection.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from popcorn.data.submission import OOF_SUFFIX
from popcorn.data.tables import bare, read_table
from popcorn.data.text_files import read_text
from popcorn.errors import UserError
from popcorn.metrics import Score, score_test
from popcorn.utils.console import make_console

AGAIN = "give a submission (.csv) with the columns id,sentiment"
SWAPPED_BELOW = 0.4  # ROC AUC: a random prediction is closer to one half


def score_file(path: Path, test_ids: list[str]) -> Score:
    """Scores a submission; rows may be in any order, and ids may have quotes.

    Raises `UserError` for unknown, doubled or missing ids (with counts and examples), and for values that are not probabilities.
    """
    text = read_text(path, AGAIN)
    if not text.strip():
        raise UserError(f"{path} cannot be read as a submission (it is empty): {AGAIN}")
    table = read_table(text, str(path), ",", AGAIN)
    if table.columns != ["id", "sentiment"]:
        raise UserError(f"{path}, row 1: the columns are {table.columns} where id,sentiment are expected: write it so")
    ids = pd.Series(bare(table.fields("id")), index=table.lines, dtype=object)
    known = pd.Index(bare(test_ids))
    for what, wrong in (
        ("unknown", ids[~ids.isin(known)]),
        ("doubled", ids[ids.duplicated()]),
        ("missing", known.difference(ids).to_series()),
    ):
        if len(wrong):
            place = f", row {wrong.index[0]}" if what != "missing" else ""
            raise UserError(
                f"{path}{place}: {len(wrong)} {what} ids, for example {', '.join(wrong.iloc[:3])}: "
                f"a submission has each of the {len(known)} test ids once"
            )
    written = pd.Series(table.texts("sentiment"), index=table.lines, dtype=object).replace("", np.nan)
    values = pd.to_numeric(written, errors="coerce")
    bad = ~values.between(0, 1)
    if bad.any():
        raise UserError(
            f"{path}, row {bad.idxmax()}: the sentiment is {written[bad.idxmax()]} where a label or a probability "
            "from 0 to 1 is expected: correct that row"
        )
    score = score_test(ids.tolist(), values.to_numpy())
    if score is None:
        raise UserError(f"{path}: the ids of these data do not have ratings of both classes, so it cannot be scored")
    return score


def print_scores(paths: list[Path], test_ids: list[str]) -> None:
    """Prints one row for each file, after all of them are checked.

    Skips out-of-fold files, which `submissions/*.csv` includes too.
    """
    paths = [path for path in paths if not path.name.endswith(OOF_SUFFIX)] or paths
    scores = [score_file(path, test_ids) for path in paths]
    table = Table("submission", "accuracy", "95% interval", "ROC AUC")
    for path, score in zip(paths, scores, strict=True):
        low, high = score.accuracy - score.interval, score.accuracy + score.interval
        table.add_row(str(path), f"{score.accuracy:.5f}", f"{low:.4f} to {high:.4f}", f"{score.auc:.5f}")
    console = make_console()
    console.print(table)
    for path, score in zip(paths, scores, strict=True):
        if score.auc < SWAPPED_BELOW:
            console.print(f"{path}: a ROC AUC of {score.auc:.4f} is far below one half: the two classes may be swapped")
