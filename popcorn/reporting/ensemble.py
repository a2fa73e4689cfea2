"""Blends of several scripts' runs, fitted on their out-of-fold probabilities alone: a mean of ranks, and a logistic stacker.

A run with `--folds` leaves both files that this needs: of every training review the probability by the one of its models that
had never learnt from it (`<name>.oof.csv`), and the test's (`<name>.proba.csv`). A neural model's epoch was chosen on its fold,
so that its out-of-fold figures are a little too good beside a linear model's, which chooses nothing there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy.special import logit
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from popcorn import metrics
from popcorn.config import RunConfig
from popcorn.data import competition as competition_data
from popcorn.data.splits import split_checksum
from popcorn.data.submission import OOF_SUFFIX, TEST, read_probabilities
from popcorn.errors import UserError, log
from popcorn.metrics import score_test
from popcorn.runs.results import RunResult, find_run
from popcorn.runs.run import finish_run
from popcorn.training.fit_result import FitResult
from popcorn.utils import machine
from popcorn.utils.console import make_console

EPS = 1e-6  # the files' last digit: nothing surer than this can be read from them


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
    """Each member's order of the reviews, whatever its scale: the mean of the ranks, from 0 to 1, as the one feature.

    Ranks of two sets of reviews can be set side by side where both have the same share of positive ones, as here.
    """
    return np.mean([rankdata(each) / len(each) for each in probabilities], axis=0)[:, None]


def log_odds(probabilities: list[np.ndarray]) -> np.ndarray:
    """Each member's log-odds, as a feature of its own (stacking, Wolpert 1992)."""
    return logit(np.clip(probabilities, EPS, 1 - EPS)).T


BLENDS: dict[str, Features] = {"mean of ranks": mean_rank, "stacker": log_odds}


def blend(members: list[Member], labels: np.ndarray, features: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of the training file, each fold's by a blend of the other folds, of the test, and the weights.

    The logistic regression turns ranks into probabilities too, so that one half is where a review turns positive.
    """
    folds = [members[0].fold == number for number in np.unique(members[0].fold)]
    train = np.zeros((len(labels), features([member.train[:1] for member in members]).shape[1]))
    for own in folds:  # each was predicted by a model of its own, on a scale of its own
        train[own] = features([member.train[own] for member in members])
    held_out = np.zeros(len(labels))
    for own in folds:
        held_out[own] = LogisticRegression(C=1.0).fit(train[~own], labels[~own]).predict_proba(train[own])[:, 1]
    judge = LogisticRegression(C=1.0).fit(train, labels)
    return held_out, judge.predict_proba(features([member.test for member in members]))[:, 1], judge.coef_[0]


def read_member(folder: Path, name: str, train_ids: list[str], test_ids: list[str]) -> Member:
    """A run's two files, in the order of the ids. Raises `UserError` where one is missing or is not of these reviews."""
    fix = f"run the script of {name} with --folds and --name {name}, on the same data and without --max-train-samples"
    train = read_probabilities(folder / (name + OOF_SUFFIX), train_ids, fix)
    test = read_probabilities(folder / (name + TEST), test_ids, fix)
    if "fold" not in train:
        raise UserError(f"{folder / (name + OOF_SUFFIX)} lacks the column fold: {fix}")
    return Member(name, train["sentiment"].to_numpy(), train["fold"].to_numpy(), test["sentiment"].to_numpy())


def require_same_folds(members: list[Member]) -> None:
    """Raises `UserError` where two members held out different reviews together: one would have seen what the other had not."""
    first = members[0]
    for member in members[1:]:
        differing = int((member.fold != first.fold).sum())
        if differing:
            raise UserError(
                f"the folds of {member.name} and {first.name} differ for {differing:,} reviews: run both with the same "
                "--folds and --split-by"
            )


def ensemble(names: list[str], folder: Path, name: str, data_dir: Path | None, is_recorded: bool) -> None:
    """Blends the members both ways, takes the better one out of fold, and says what each member adds."""
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"an ensemble has at least two members, each once, and given were {', '.join(names) or 'none'}: "
            "name runs that had --folds"
        )
    submissions = folder / "submissions"
    if not name or name in names or (submissions / (name + OOF_SUFFIX)).exists() or (folder / "runs" / name).exists():
        raise UserError(f"--name {name!r} is a run's own, whose submissions the ensemble would replace: give another name")
    competition = competition_data.find_competition(data_dir)
    train, test = competition.read(competition_data.TRAIN), competition.read(competition_data.TEST)
    members = [read_member(submissions, each, train.ids, test.ids) for each in names]
    require_same_folds(members)
    cost = cost_of(folder / "results", members, test.ids) if is_recorded else {}
    found = {way: blend(members, train.labels, features) for way, features in BLENDS.items()}
    measured = {way: metrics.compute_metrics(train.labels, held_out) for way, (held_out, *_) in found.items()}
    best = max(measured, key=lambda way: measured[way][metrics.SELECTION_METRIC])
    print_blends(measured, found["stacker"][2], names)
    print_members(members, train.labels, best, measured[best])
    log(f"Taken: {best}, the better one out of fold")
    outcome = FitResult(found[best][0], found[best][1], epoch=1, history=[{"epoch": 1} | measured[best]])
    config = RunConfig(output_dir=folder, name=name, save_results=is_recorded)
    finish_run(
        config, competition, train.ids, test.ids, RunResult(outcome.test, {"out of fold": outcome}, None, complete=True),
        members=names, split=folds_checksum(members[0], train.ids), blend=best,
        weights=found[best][2].tolist(), machine=machine.cpu_name(), precision="fp64",
        processes=1, **cost,
    )  # fmt: skip


def folds_checksum(member: Member, ids: list[str]) -> str:
    """The checksum of the split that the member's folds are, as its own run records it."""
    return split_checksum(ids, [np.flatnonzero(member.fold == number) for number in np.unique(member.fold)])


def cost_of(results: Path, members: list[Member], test_ids: list[str]) -> dict[str, float]:
    """What the members took together, from their own records. Raises `UserError` where a member's run is not recorded."""
    runs = []
    for member in members:
        path = results / f"{member.name}.json"
        run = find_run(path, score_test(test_ids, member.test))
        if run is None:
            raise UserError(
                f"{path} does not record the run that is blended: run the script of {member.name} with --folds and "
                "--save-results, "
                "or leave --save-results out here"
            )
        runs.append(run)
    return {
        "seconds": sum(run["seconds"] for run in runs), "peak_memory": max(run["peak_memory"] for run in runs),
        "parameters": sum(run["parameters"] for run in runs),
    }  # fmt: skip


def print_blends(measured: dict[str, dict[str, float]], weights: np.ndarray, names: list[str]) -> None:
    """Both blends out of fold."""
    table = Table("blend", "accuracy out of fold", "ROC AUC", "log loss", "weights")
    for way, its in measured.items():
        said = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(names, weights, strict=True)) if way == "stacker" else ""
        table.add_row(
            way, f"{its['validation_accuracy']:.4f}", f"{its['validation_auc']:.4f}", f"{its['validation_loss']:.4f}", said
        )
    make_console().print(table)


def print_members(members: list[Member], labels: np.ndarray, way: str, whole: dict[str, float]) -> None:
    """Each member alone, and what the blend loses without it."""
    table = Table("member", "alone, accuracy", "ROC AUC", "without it, accuracy", "ROC AUC", "it adds to the ROC AUC")
    for member in members:
        alone = metrics.compute_metrics(labels, member.train)
        others = [other for other in members if other is not member]
        without = metrics.compute_metrics(labels, blend(others, labels, BLENDS[way])[0])
        table.add_row(
            member.name, f"{alone['validation_accuracy']:.4f}", f"{alone['validation_auc']:.4f}",
            f"{without['validation_accuracy']:.4f}", f"{without['validation_auc']:.4f}",
            f"{whole['validation_auc'] - without['validation_auc']:+.4f}",
        )  # fmt: skip
    make_console().print(table)
