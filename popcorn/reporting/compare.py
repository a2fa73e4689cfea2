"""`python -m popcorn compare`: whether one model is better than another by more than chance.

Choices between two changes must not depend on the test labels. So two runs that were validated on the same reviews are compared
on these first.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from popcorn.config import RunConfig
from popcorn.data import competition as competition_data
from popcorn.data.competition import Reviews
from popcorn.data.splits import split_checksum, validation_splits
from popcorn.data.submission import DECIMALS, find_files
from popcorn.data.tables import bare
from popcorn.errors import UserError, log
from popcorn.metrics import true_labels
from popcorn.reporting.paired import Comparison, compare
from popcorn.reporting.score import OUT_OF_FOLD, SUBMISSION, read_predictions
from popcorn.runs.run_dir import SETTINGS, load_fit_result, seed_folders
from popcorn.utils.console import make_console
from popcorn.utils.files import atomic_write

SHOWN = 3  # ids of reviews as examples
CHOOSE = "Choose between your own changes by these reviews. The test reviews below are for the report alone.\n"
NO_CHOICE = (
    "These two runs have no validation predictions on the same reviews. The test reviews are for the report alone. To choose "
    "between your own changes, run both on the same data with the same --folds or --split-by."
)


@dataclass(frozen=True)
class Predictions:
    """Labels or probabilities of one model."""

    name: str
    source: Path
    table: pd.DataFrame
    """`sentiment` by id, and `fold` of out-of-fold probabilities"""
    out_of_fold: Path | None = None
    """where a run with `--folds` has its out-of-fold probabilities"""


@dataclass(frozen=True)
class Pair:
    """Predictions of two models for the same reviews, in the same order."""

    reviews: str
    """which reviews these are"""
    ids: list[str]
    labels: np.ndarray
    values: tuple[np.ndarray, np.ndarray]


def print_comparison(given: tuple[Path, Path], output_dir: Path, data_dir: Path | None, output: Path | None) -> None:
    """Compares two runs, or two files; `output` receives the reviews that only one of the two gets right.

    Raises `UserError` where the two have different reviews, or where the ids have no ratings.
    """
    submissions = [submission_of_run(each, output_dir) for each in given]
    if None in submissions:
        models = [run or read_file(path, output_dir) for path, run in zip(given, submissions, strict=True)]
        pairs = [pair_of("", *models)]
    else:
        models, validation = submissions, validation_predictions(submissions, output_dir, data_dir)
        pairs = [pair_of("validation ", *validation)] if validation else []
        pairs.append(pair_of("test ", *models))
    if output is not None and any(output.resolve() == model.source.resolve() for model in models):
        raise UserError(f"--output {output} is one of the compared files: give another name")
    comparisons = [compare(pair.labels, *pair.values) for pair in pairs]
    if output is not None:
        write_reviews(output, pairs, comparisons)
    names = [model.name for model in models]
    if None not in submissions and len(pairs) == 1:
        log(NO_CHOICE)
    for pair, comparison in zip(pairs, comparisons, strict=True):
        show(names, pair, comparison)
        if pair is not pairs[-1]:
            log(CHOOSE)


def submission_of_run(name: Path, output_dir: Path) -> Predictions | None:
    """The submission of a run, own or published: probabilities, or else labels; None where there is none."""
    folder = output_dir / "submissions"
    files = find_files(folder, str(name))
    path = next((path for path in (files.test, folder / f"{name}.csv") if path.is_file()), None)
    return None if path is None else Predictions(str(name), path, read_predictions(path), files.out_of_fold)


def read_file(path: Path, output_dir: Path) -> Predictions:
    """A submission, or a file of out-of-fold probabilities."""
    if not path.exists():
        raise UserError(
            f"there is no file {path}, and no run of that name in {output_dir / 'submissions'}: name two runs, or two .csv files"
        )
    return Predictions(str(path), path, read_predictions(path, (SUBMISSION, OUT_OF_FOLD)))


def validation_predictions(
    runs: list[Predictions], output_dir: Path, data_dir: Path | None
) -> tuple[Predictions, Predictions] | None:
    """Out-of-fold or hold-out predictions of both runs; None where they are not on the same split."""
    out_of_fold = [run.out_of_fold for run in runs]
    folders = [seed_folders(output_dir / "runs" / run.name) for run in runs]
    if all(path.is_file() for path in out_of_fold):
        found = [
            Predictions(run.name, path, read_predictions(path, [OUT_OF_FOLD]))
            for run, path in zip(runs, out_of_fold, strict=True)
        ]
    elif all(folders) and not any(path.is_file() for path in out_of_fold):
        competition = competition_data.find_competition(data_dir)
        train, test = competition.read(competition_data.TRAIN), competition.read(competition_data.TEST)
        found = [held_out_predictions(run, paths, train, test.ids) for run, paths in zip(runs, folders, strict=True)]
    else:
        return None
    return None if None in found or mismatch(*found) else tuple(found)


def held_out_predictions(run: Predictions, folders: list[Path], train: Reviews, test_ids: list[str]) -> Predictions | None:
    """The hold-out predictions of the seed whose test predictions are the submission; None where there is none."""
    submitted = run.table["sentiment"].reindex(bare(test_ids)).to_numpy()
    for folder in folders:
        validated = load_fit_result(folder / "validated")
        if validated is None:
            continue
        test = (load_fit_result(folder / "refit") or validated).test
        if len(test) != len(submitted) or not np.allclose(test, submitted, rtol=0, atol=10**-DECIMALS):
            continue
        ids = validation_ids(folder, train)
        if len(ids) == len(validated.validation):
            return Predictions(run.name, folder, pd.DataFrame({"sentiment": validated.validation}, index=ids))
    return None


def validation_ids(folder: Path, train: Reviews) -> list[str]:
    """The ids of a run's validation set, without quotes; none where the training data are not the run's."""
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        split_by, limit, checksum = (settings[name] for name in ("split_by", "max_train_samples", "split"))
    except (OSError, ValueError, KeyError) as problem:
        raise UserError(f"{folder / SETTINGS} is damaged ({problem!r}): run the script of this run again") from problem
    config = RunConfig(split_by=split_by, max_train_samples=None if limit == "None" else int(limit))
    (split,) = validation_splits(config, train.ids, train.labels)
    is_same = split_checksum(train.ids, [split.validation]) == checksum
    return bare([train.ids[row] for row in split.validation]) if is_same else []


def mismatch(first: Predictions, second: Predictions) -> str:
    """A sentence about the reviews or folds in which the two differ; empty where they do not."""
    others = first.table.index.symmetric_difference(second.table.index)
    if len(others):
        return (
            f"{first.source} and {second.source} have different reviews: {len(others):,} ids are in one of them only, "
            f"for example {others[0]}: give two files over the same reviews"
        )
    folds = [model.table["fold"].reindex(first.table.index) for model in (first, second) if "fold" in model.table]
    if len(folds) == 2 and not folds[0].equals(folds[1]):
        return f"the folds of {first.source} and {second.source} differ: run both with the same --folds and --split-by"
    return ""


def pair_of(reviews: str, first: Predictions, second: Predictions) -> Pair:
    """Both models' predictions in one order, with the labels from the ratings in the ids."""
    if problem := mismatch(first, second):
        raise UserError(problem)
    ids = first.table.index.tolist()
    labels = true_labels(ids)
    if labels is None or min(np.bincount(labels, minlength=2)) < 2:
        raise UserError(
            f"{first.source}: the ids, such as {ids[0] if ids else 'none'}, do not have ratings of both classes, so the labels "
            "are not known: give predictions for the competition's reviews"
        )
    return Pair(reviews, ids, labels, tuple(model.table["sentiment"].loc[ids].to_numpy() for model in (first, second)))


def show(names: list[str], pair: Pair, comparison: Comparison) -> None:
    """Prints the tests as a table, what the two have in common, and whether the second is better."""
    table = Table(f"{len(pair.ids):,} {pair.reviews}reviews", *names, "difference", "95% interval", "p", "test")
    for metric, test, values, difference in (
        ("accuracy", "McNemar", comparison.accuracy, comparison.accuracy_difference),
        ("ROC AUC", "DeLong", comparison.auc, comparison.auc_difference),
    ):
        if difference is not None:
            table.add_row(metric, *(f"{value:.5f}" for value in values), *difference.cells(), test)
    make_console().print(table)
    log(f"Both predict the same label for {comparison.agreement:.1%} of the reviews.")
    for name, rows in zip(names, comparison.only_correct, strict=True):
        examples = ", ".join(pair.ids[row] for row in rows[:SHOWN])
        log(f"Only {name} is right about {len(rows):,}" + (f", for example {examples}." if examples else "."))
    if comparison.auc is None:
        log("The ROC AUC is not compared, because it needs probabilities of both instead of labels.")
    log(conclusion(names, comparison) + "\n")


def conclusion(names: list[str], comparison: Comparison) -> str:
    """Whether the second model is better, by each metric."""
    by_metric = {"accuracy": comparison.accuracy_difference, "ROC AUC": comparison.auc_difference}
    found = {metric: difference.relation for metric, difference in by_metric.items() if difference is not None}
    return " ".join(f"By {metric}, {names[1]} is {relation} {names[0]}." for metric, relation in found.items())


def write_reviews(path: Path, pairs: list[Pair], comparisons: list[Comparison]) -> None:
    """Writes the reviews that only one of the two labels correctly.

    Columns: id, label, both predictions, and which one is correct."""
    rows = [
        (pair.ids[row], pair.reviews.strip(), pair.labels[row], *(values[row] for values in pair.values), name)
        for pair, comparison in zip(pairs, comparisons, strict=True)
        for name, found in zip("AB", comparison.only_correct, strict=True)
        for row in found
    ]
    table = pd.DataFrame(rows, columns=["id", "reviews", "sentiment", "A", "B", "correct"])
    with atomic_write(path, "w", option="--output") as file:
        table.to_csv(file, index=False, lineterminator="\n", float_format=f"%.{DECIMALS}f")
    log(f"{path}: the {len(table):,} reviews that only one of the two gets right")
