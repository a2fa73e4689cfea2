"""Blends of several runs, fitted on their out-of-fold probabilities: mean of ranks, and stacker.

A run with `--folds` saves both files that a blend needs. `<name>.oof.csv` has each training review's probability, by the model
that was not trained on it. `<name>.proba.csv` has the test probabilities. Without a run of that name, the published files serve.
A neural model selects its epoch on its validation fold. So its out-of-fold metrics are slightly too good, compared with a linear
model's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from popcorn import metrics
from popcorn.config import RunConfig
from popcorn.data import competition as competition_data
from popcorn.data.splits import split_checksum
from popcorn.data.submission import OOF_SUFFIX, find_files, read_probabilities
from popcorn.errors import UserError, log
from popcorn.metrics import score_test
from popcorn.models.saved import predictions_checksum
from popcorn.models.stacker import EPS, SavedEnsemble, ids_checksum, log_odds, new_stacker, save_ensemble
from popcorn.runs.results import RunResult, find_run
from popcorn.runs.run import finish_run
from popcorn.runs.run_dir import load_test_probabilities
from popcorn.training.fit_result import FitResult
from popcorn.utils import machine
from popcorn.utils.console import make_console


@dataclass(frozen=True)
class Member:
    """The probabilities of one run."""

    name: str
    train: np.ndarray
    """(train,), each by a model that was not trained on the review"""
    fold: np.ndarray
    """(train,), the number of each review's fold"""
    test: np.ndarray
    """(test,)"""


Features = Callable[[list[np.ndarray]], np.ndarray]
"""probabilities (reviews,) of each member to a stacker's features, (reviews, features)"""


def mean_rank(probabilities: list[np.ndarray]) -> np.ndarray:
    """The mean of the members' ranks, scaled to 0 to 1, as a single feature.

    It is independent of each member's scale. Ranks in train and test set are comparable if both have the same fraction of
    positive reviews, as here.
    """
    return np.mean([rankdata(each) / len(each) for each in probabilities], axis=0)[:, None]


BLENDS: dict[str, Features] = {"mean of ranks": mean_rank, "stacker": log_odds}


def blend(members: list[Member], labels: np.ndarray, features: Features) -> tuple[np.ndarray, np.ndarray, LogisticRegression]:
    """Out-of-fold probabilities of the training file, test probabilities, and the fitted blend.

    The logistic regression also calibrates ranks, so that reviews above one half are positive.
    """
    folds = [members[0].fold == number for number in np.unique(members[0].fold)]
    train = np.zeros((len(labels), features([member.train[:1] for member in members]).shape[1]))
    for fold in folds:  # fold by fold, since each fold's model has a scale of its own
        train[fold] = features([member.train[fold] for member in members])
    cross_fitted = cross_val_predict(new_stacker(), train, labels, cv=PredefinedSplit(members[0].fold), method="predict_proba")
    stacker = new_stacker().fit(train, labels)
    return cross_fitted[:, 1], stacker.predict_proba(features([member.test for member in members]))[:, 1], stacker


def read_member(folder: Path, name: str, train_ids: list[str], test_ids: list[str]) -> Member:
    """Both files of a run, one's own or published, in the order of the ids.

    Raises `UserError` where one is missing or has other reviews.
    """
    files = find_files(folder, name)
    fix = f"run the script of {name} with --folds and --name {name}, on the same data and without --max-train-samples"
    train = read_probabilities(files.out_of_fold, train_ids, fix)
    test = read_probabilities(files.test, test_ids, fix)
    if "fold" not in train:
        raise UserError(f"{files.out_of_fold} lacks the column fold: {fix}")
    return Member(name, train["sentiment"].to_numpy(), train["fold"].to_numpy(), test["sentiment"].to_numpy())


def require_same_folds(members: list[Member]) -> None:
    """Raises `UserError` where two members have different folds.

    Then one model would be trained on reviews that another one is validated on.
    """
    first = members[0]
    for member in members[1:]:
        differing = int((member.fold != first.fold).sum())
        if differing:
            raise UserError(
                f"the folds of {member.name} and {first.name} differ for {differing:,} reviews: run both with the same "
                "--folds and --split-by"
            )


def ensemble(names: list[str], folder: Path, name: str, data_dir: Path | None, is_recorded: bool) -> None:
    """Blends the members with both methods, and submits the better one.

    The out-of-fold ROC AUC decides. Prints what each member adds.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(
            f"an ensemble needs at least two different members, and got {', '.join(names) or 'none'}: name runs that had --folds"
        )
    submissions = folder / "submissions"
    is_run = any((folder / "runs" / name).glob("seed-*")) or (submissions / (name + OOF_SUFFIX)).exists()
    if not name or name in names or is_run:
        raise UserError(f"--name {name!r} is a run, whose submissions the ensemble would replace: give another name")
    competition = competition_data.find_competition(data_dir)
    train, test = competition.read(competition_data.TRAIN), competition.read(competition_data.TEST)
    members = [read_member(submissions, each, train.ids, test.ids) for each in names]
    require_same_folds(members)
    cost = cost_of(folder / "results", members, test.ids) if is_recorded else {}
    blends = {method: blend(members, train.labels, features) for method, features in BLENDS.items()}
    scores = {method: metrics.compute_metrics(train.labels, out_of_fold) for method, (out_of_fold, *_) in blends.items()}
    best = max(scores, key=lambda method: scores[method][metrics.SELECTION_METRIC])
    stacker = blends["stacker"][2]
    print_blends(scores, stacker.coef_[0], names)
    print_members(members, train.labels, best, scores[best])
    log(f"Selected: {best}, with the better out-of-fold ROC AUC")
    runs = [run_of_member(folder / "runs", member) for member in members]
    save_ensemble(
        folder / "runs" / name,
        SavedEnsemble(
            runs, [predictions_checksum(folder / "runs" / run) for run in runs], ids_checksum(train.ids),
            np.array([member.train for member in members]), stacker.coef_[0], float(stacker.intercept_[0]),
        ),
    )  # fmt: skip
    result = FitResult(blends[best][0], blends[best][1], epoch=1, history=[{"epoch": 1} | scores[best]])
    config = RunConfig(output_dir=folder, name=name, save_results=is_recorded)
    finish_run(
        config, competition, train.ids, test.ids, RunResult(result.test, {"out of fold": result}, None, complete=True),
        members=names, split=folds_checksum(members[0], train.ids), blend=best,
        weights=blends[best][2].coef_[0].tolist(), machine=machine.cpu_name(), precision="fp64",
        processes=1, **cost,
    )  # fmt: skip


def run_of_member(runs: Path, member: Member) -> str:
    """Folder of the run with the member's test probabilities, such as lstm/seed-1; empty where there is none."""
    for folder in sorted((runs / member.name).glob("seed-*")):
        test = load_test_probabilities(folder)
        if test is not None and len(test) == len(member.test) and np.allclose(test, member.test, rtol=0, atol=2 * EPS):
            return folder.relative_to(runs).as_posix()
    return ""


def folds_checksum(member: Member, ids: list[str]) -> str:
    """The checksum of a member's folds, the same as in its own saved results."""
    return split_checksum(ids, [np.flatnonzero(member.fold == number) for number in np.unique(member.fold)])


def cost_of(results: Path, members: list[Member], test_ids: list[str]) -> dict[str, float]:
    """Total time, memory and parameters of the members, from their saved results.

    Raises `UserError` where a member's run has no saved results.
    """
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


def print_blends(scores: dict[str, dict[str, float]], weights: np.ndarray, names: list[str]) -> None:
    """Prints the out-of-fold metrics of both methods."""
    table = Table("blend", "accuracy out of fold", "ROC AUC", "log loss", "weights")
    for method, values in scores.items():
        shown = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(names, weights, strict=True))
        table.add_row(
            method, f"{values['validation_accuracy']:.4f}", f"{values['validation_auc']:.4f}", f"{values['validation_loss']:.4f}",
            shown if method == "stacker" else "",
        )  # fmt: skip
    make_console().print(table)


def print_members(members: list[Member], labels: np.ndarray, method: str, total: dict[str, float]) -> None:
    """Prints the metrics of each member alone, and of the blend without it."""
    table = Table("member", "alone, accuracy", "ROC AUC", "without it, accuracy", "ROC AUC", "it adds to the ROC AUC")
    for member in members:
        alone = metrics.compute_metrics(labels, member.train)
        others = [other for other in members if other is not member]
        without = metrics.compute_metrics(labels, blend(others, labels, BLENDS[method])[0])
        table.add_row(
            member.name, f"{alone['validation_accuracy']:.4f}", f"{alone['validation_auc']:.4f}",
            f"{without['validation_accuracy']:.4f}", f"{without['validation_auc']:.4f}",
            f"{total['validation_auc'] - without['validation_auc']:+.4f}",
        )  # fmt: skip
    make_console().print(table)
