"""Blends of several scripts' runs, fitted on their out-of-fold probabilities alone: a mean of ranks, and a logistic stacker.

A run with `--folds` leaves both files that this needs: of every training review the probability by the one of its models that had
never seen the review (`<name>.oof.csv`), and the test's (`<name>.proba.csv`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.special import logit
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from popcorn import data, figures
from popcorn.config import RunConfig
from popcorn.errors import UserError, say
from popcorn.experiment import Outcome, Run, conclude

OUT_OF_FOLD, TEST = ".oof.csv", ".proba.csv"
SUREST = 1e-6  # the files' last digit: nothing surer than this can be read from them


@dataclass(frozen=True)
class Member:
    """One run's probabilities."""

    name: str
    train: np.ndarray
    """(train,), each by a model that never saw the review"""
    fold: np.ndarray
    """(train,), the number of the part that each review was held out with"""
    test: np.ndarray
    """(test,)"""


Features = Callable[[list[np.ndarray]], np.ndarray]
"""probabilities (reviews,) of each member to what is weighed, (reviews, features)"""


def mean_rank(probabilities: list[np.ndarray]) -> np.ndarray:
    """Each member's order of the reviews, whatever its scale: the mean of the ranks, from 0 to 1, as the one feature."""
    return np.mean([rankdata(each) / len(each) for each in probabilities], axis=0)[:, None]


def log_odds(probabilities: list[np.ndarray]) -> np.ndarray:
    """Each member's log-odds, as a feature of its own (stacking, Wolpert 1992)."""
    return logit(np.clip(probabilities, SUREST, 1 - SUREST)).T


BLENDS: dict[str, Features] = {"mean of ranks": mean_rank, "stacker": log_odds}


def blend(members: list[Member], labels: np.ndarray, features: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of the training file, each fold's by a blend of the other folds, of the test, and the weights.

    The logistic regression turns ranks into probabilities too, so that one half is where a review turns positive.
    """
    fold = members[0].fold
    train = features([member.train for member in members])
    held_out = np.zeros(len(labels))
    for number in np.unique(fold):
        own = fold == number
        held_out[own] = LogisticRegression(C=1.0).fit(train[~own], labels[~own]).predict_proba(train[own])[:, 1]
    judge = LogisticRegression(C=1.0).fit(train, labels)
    return held_out, judge.predict_proba(features([member.test for member in members]))[:, 1], judge.coef_[0]


def read_member(folder: Path, name: str, train_ids: list[str], test_ids: list[str]) -> Member:
    """A run's two files, in the order of the ids. Raises `UserError` where one is missing or is not of these reviews."""
    train = _read(folder / (name + OUT_OF_FOLD), train_ids, name)
    test = _read(folder / (name + TEST), test_ids, name)
    if "fold" not in train:
        raise UserError(f"{folder / (name + OUT_OF_FOLD)} lacks the column fold: run python {name}.py --folds 5 again")
    return Member(name, train["sentiment"].to_numpy(float), train["fold"].to_numpy(), test["sentiment"].to_numpy(float))


def _read(path: Path, ids: list[str], name: str) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype={"id": str}, quoting=3).set_index("id")
        table["sentiment"].astype(float)
    except FileNotFoundError as problem:
        raise UserError(f"there is no {path}: run python {name}.py --folds 5 first") from problem
    except (OSError, ValueError, KeyError) as problem:
        raise UserError(f"{path} cannot be read ({problem}): run python {name}.py --folds 5 again") from problem
    missing = pd.Index(ids).difference(table.index)
    if len(missing) or table.index.has_duplicates or len(table) != len(ids):
        example = missing[0] if len(missing) else table.index[table.index.duplicated() | ~table.index.isin(ids)][0]
        raise UserError(
            f"{path} has {len(table):,} rows where these data have {len(ids):,}, of which it lacks {len(missing):,} "
            f"(the id {example}): run python {name}.py --folds 5 on the same data, without --limit"
        )
    return table.loc[ids]


def require_same_folds(members: list[Member]) -> None:
    """Raises `UserError` where two members held out different reviews together: one would have seen what the other had not."""
    first = members[0]
    for member in members[1:]:
        differing = int((member.fold != first.fold).sum())
        if differing:
            raise UserError(
                f"the folds of {member.name} and {first.name} differ for {differing:,} reviews: run both with the same "
                "--folds and --validation"
            )


def ensemble(names: list[str], folder: Path, name: str, data_dir: Path | None, is_recorded: bool) -> None:
    """Blends the members both ways, takes the better one out of fold, and says what each member adds."""
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"an ensemble has at least two members, each once: given were {', '.join(names) or 'none'}")
    competition = data.find(data_dir)
    train, test = competition.read(data.TRAIN), competition.read(data.TEST)
    submissions = folder / "submissions"
    members = [read_member(submissions, each, train.ids, test.ids) for each in names]
    require_same_folds(members)
    found = {way: blend(members, train.labels, features) for way, features in BLENDS.items()}
    measured = {way: figures.validation_figures(train.labels, held_out) for way, (held_out, *_) in found.items()}
    best = max(measured, key=lambda way: measured[way][figures.BEST])
    print_blends(measured, found["stacker"][2], names)
    if len(names) > 2:
        print_members(members, train.labels, best, measured[best])
    say(f"Taken: {best}, the better one out of fold")
    outcome = Outcome(found[best][0], found[best][1], epoch=1, history=[{"epoch": 1} | measured[best]])
    config = RunConfig(output_dir=folder, name=name, record=is_recorded)
    conclude(
        config, competition, train.ids, test.ids, Run(outcome.test, {"out of fold": outcome}, None, complete=True),
        members=names, blend=best, weights=found[best][2].tolist(), machine=figures.processor(), precision="fp64",
        processes=1, peak_memory=figures.peak_memory(), parameters=len(found[best][2]) + 1, **_time_of(folder / "results", names),
    )  # fmt: skip


def _time_of(results: Path, names: list[str]) -> dict[str, float]:
    """The members' own time, where all of it is recorded; else the ensemble's alone is said."""
    try:
        recorded = [json.loads((results / f"{name}.json").read_text()) for name in names]
    except FileNotFoundError:
        return {}
    if not all(each["config"].get("folds") for each in recorded):  # of other runs than those that are blended
        return {}
    return {"seconds": sum(each["runs"][0]["seconds"] for each in recorded)}


def print_blends(measured: dict[str, dict[str, float]], weights: np.ndarray, names: list[str]) -> None:
    """Both blends out of fold."""
    table = Table("blend", "accuracy out of fold", "ROC AUC", "log loss", "weights")
    for way, its in measured.items():
        said = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(names, weights, strict=True)) if way == "stacker" else ""
        table.add_row(
            way, f"{its['validation_accuracy']:.4f}", f"{its['validation_auc']:.4f}", f"{its['validation_loss']:.4f}", said
        )
    Console(width=None if Console().is_terminal else 120).print(table)


def print_members(members: list[Member], labels: np.ndarray, way: str, whole: dict[str, float]) -> None:
    """Each member alone, and what the blend loses without it."""
    table = Table("member", "alone, accuracy", "ROC AUC", "without it, accuracy", "ROC AUC", "it adds to the ROC AUC")
    for member in members:
        alone = figures.validation_figures(labels, member.train)
        others = [other for other in members if other is not member]
        without = figures.validation_figures(labels, blend(others, labels, BLENDS[way])[0])
        table.add_row(
            member.name, f"{alone['validation_accuracy']:.4f}", f"{alone['validation_auc']:.4f}",
            f"{without['validation_accuracy']:.4f}", f"{without['validation_auc']:.4f}",
            f"{whole['validation_auc'] - without['validation_auc']:+.4f}",
        )  # fmt: skip
    Console(width=None if Console().is_terminal else 120).print(table)
