"""Accuracy and ROC AUC of submissions, from the ratings in the test ids: scoring only, never training or choosing."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from popcorn.console import make_console
from popcorn.errors import UserError
from popcorn.submission import OUT_OF_FOLD
from popcorn.tables import bare, read_table
from popcorn.text_files import read_text

RATED = re.compile(r'^"?(\d+)_(\d+)"?$')
POSITIVE_FROM = 5  # stars; Maas et al. 2011 took reviews of at most 4 and of at least 7
AGAIN = "give a submission (.csv) with the columns id,sentiment"
SWAPPED_BELOW = 0.4  # ROC AUC: chance alone is not that far from one half
Z95 = 1.96  # standard normal quantile of a two-sided 95% interval


@dataclass(frozen=True)
class Score:
    """Figures of one submission on `reviews` test reviews."""

    accuracy: float
    auc: float
    reviews: int

    @property
    def interval(self) -> float:
        """Half-width of the accuracy's 95% interval (normal approximation of the binomial)."""
        return half_width(self.accuracy, self.reviews)

    def describe(self) -> str:
        """One line for the end of a run."""
        return f"accuracy {self.accuracy:.5f} ± {self.interval:.4f}, ROC AUC {self.auc:.5f} on {self.reviews:,} reviews"


def half_width(accuracy: float, reviews: int) -> float:
    """Half-width of the 95% interval of an accuracy measured on so many reviews."""
    return Z95 * (accuracy * (1 - accuracy) / reviews) ** 0.5


def true_labels(ids: list[str]) -> np.ndarray | None:
    """Labels (n,) by the star rating in each id, or None where an id has none."""
    matches = [RATED.match(id) for id in ids]
    if not matches or not all(matches):
        return None
    return np.array([int(match.group(2)) >= POSITIVE_FROM for match in matches], dtype=np.int64)


def score_test(ids: list[str], values: np.ndarray) -> Score | None:
    """Scores probabilities or labels (n,) in the order of `ids`; None where the ids do not tell both classes."""
    from sklearn.metrics import accuracy_score, roc_auc_score

    labels = true_labels(ids)
    if labels is None or len(np.unique(labels)) < 2:
        return None
    return Score(accuracy_score(labels, values > 0.5), roc_auc_score(labels, values), len(labels))


def score_file(path: Path, test_ids: list[str]) -> Score:
    """Scores a submission, its rows in any order, ids with or without quotes.

    Raises `UserError` for unknown, doubled or missing ids (with counts and examples) and for values that are no probability.
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
            "from 0 to 1 is expected: mend that row"
        )
    score = score_test(ids.tolist(), values.to_numpy())
    if score is None:
        raise UserError(f"{path}: the ids of this data do not tell the ratings of both classes, so that it cannot be scored")
    return score


def print_scores(paths: list[Path], test_ids: list[str]) -> None:
    """Prints one row for each file, after all of them were found to be good.

    Out-of-fold files, which `submissions/*.csv` names too, are passed over.
    """
    paths = [path for path in paths if not path.name.endswith(OUT_OF_FOLD)] or paths
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
