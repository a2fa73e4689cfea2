"""Accuracy and ROC AUC of submissions, from the ratings in the test ids.

This is for scoring only, never for training or selection.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from popcorn.data.submission import GZIPPED, OOF_SUFFIX, UNLABELED_SUFFIX
from popcorn.data.tables import bare, read_table
from popcorn.data.text_files import read_text
from popcorn.errors import UserError
from popcorn.metrics import Score, score_test
from popcorn.utils.console import make_console

AGAIN = "give a submission (.csv or .csv.gz) with the columns id,sentiment"
SUBMISSION = ["id", "sentiment"]
OUT_OF_FOLD = ["id", "fold", "sentiment"]
SWAPPED_BELOW = 0.4  # ROC AUC: a random prediction is closer to one half


def read_predictions(path: Path, allowed: Sequence[list[str]] = (SUBMISSION,)) -> pd.DataFrame:
    """A file of labels or probabilities, by id without quotes, in the file's order.

    The table has `sentiment`, `line` (the row in the file) and, where the file has it, `fold` (as text). Raises `UserError` where
    the columns are not `allowed`, for doubled ids, and for values that are not probabilities.
    """
    text = read_text(path, AGAIN)
    if not text.strip():
        raise UserError(f"{path} cannot be read as a submission (it is empty): {AGAIN}")
    table = read_table(text, str(path), ",", AGAIN)
    if table.columns not in allowed:
        expected = " or ".join(",".join(columns) for columns in allowed)
        raise UserError(f"{path}, row 1: the columns are {table.columns} where {expected} are expected: write it so")
    ids = pd.Index(bare(table.fields("id")), dtype=object)
    if (doubled := ids.duplicated()).any():
        raise UserError(
            f"{path}, row {table.lines[doubled.argmax()]}: {doubled.sum()} doubled ids, for example "
            f"{', '.join(ids[doubled][:3])}: a submission has each id once"
        )
    written = pd.Series(table.texts("sentiment"), index=table.lines, dtype=object).replace("", np.nan)
    values = pd.to_numeric(written, errors="coerce")
    bad = ~values.between(0, 1)
    if bad.any():
        raise UserError(
            f"{path}, row {bad.idxmax()}: the sentiment is {written[bad.idxmax()]} where a label or a probability "
            "from 0 to 1 is expected: correct that row"
        )
    found = pd.DataFrame({"sentiment": values.to_numpy(), "line": table.lines}, index=ids)
    return found.assign(fold=table.texts("fold")) if "fold" in table.columns else found


def score_file(path: Path, test_ids: list[str]) -> Score:
    """Scores a submission; rows may be in any order, and ids may have quotes.

    Raises `UserError` as `read_predictions` does, and for unknown or missing ids (with counts and examples).
    """
    table, known = read_predictions(path), pd.Index(bare(test_ids))
    unknown, missing = table[~table.index.isin(known)], known.difference(table.index)
    for what, wrong in (("unknown", unknown.index), ("missing", missing)):
        if len(wrong):
            place = f", row {unknown['line'].iloc[0]}" if what == "unknown" else ""
            raise UserError(
                f"{path}{place}: {len(wrong)} {what} ids, for example {', '.join(wrong[:3])}: "
                f"a submission has each of the {len(known)} test ids once"
            )
    score = score_test(table.index.tolist(), table["sentiment"].to_numpy())
    if score is None:
        raise UserError(f"{path}: the ids of these data do not have ratings of both classes, so it cannot be scored")
    return score


def print_scores(paths: list[Path], test_ids: list[str]) -> None:
    """Prints one row for each file, after all of them are checked.

    Skips files of out-of-fold and of unlabeled reviews, which `submissions/*.csv` and `submissions/published/*.gz` include too.
    """
    others = OOF_SUFFIX, UNLABELED_SUFFIX
    paths = [path for path in paths if not path.name.removesuffix(GZIPPED).endswith(others)] or paths
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
