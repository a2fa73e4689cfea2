"""From a way to fit one model to a finished run: validation parts, refit, submissions, score, recorded figures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from popcorn.config import RunConfig
from popcorn.data.competition import FALLBACK, Competition
from popcorn.data.splits import Split, limited, split_checksum, validation_folds
from popcorn.errors import UserError, log
from popcorn.training.fit_result import FitResult


@dataclass
class Run:
    """A finished run: the test's probabilities (test,), and the outcomes by the names of their parts."""

    test: np.ndarray
    outcomes: dict[str, FitResult]
    out_of_fold: tuple[np.ndarray, np.ndarray] | None
    """with --folds, each training row's probability and the number of its fold"""
    complete: bool


def cross_validate(config: RunConfig, ids: list[str], labels: np.ndarray, fit: Callable[[Split], FitResult]) -> Run:
    """Fits every validation part (one, or `--folds`), then all training rows where `--refit` says so.

    A fit that the time budget ended still predicts; the parts after it are left for `--resume`.
    """
    rows = limited(labels, config.max_train_samples)
    if len(np.unique(labels[rows])) < 2:
        fix = (
            f"--max-train-samples is {config.max_train_samples}: give a larger number"
            if config.max_train_samples
            else "add reviews of the other"
        )
        raise UserError(f"the {len(rows)} training reviews are of one class, and a model learns from two: {fix}")
    outcomes: dict[str, FitResult] = {}
    if config.no_validation:
        outcome = outcomes["refit"] = fit(Split("refit", rows, rows[:0], epochs=getattr(config, "epochs", None)))
        return Run(outcome.test, outcomes, None, outcome.complete)
    held_out = held_out_rows(config, ids, labels)
    for number, held in enumerate(held_out, start=1):
        part = Split(f"fold-{number}" if config.folds else "validated", np.setdiff1d(rows, held), held)
        outcome = outcomes[part.name] = fit(part)
        if not outcome.complete:
            break
    complete = outcome.complete
    if config.refit and not config.folds and complete:
        refit = outcomes["refit"] = fit(Split("refit", rows, rows[:0], epochs=outcome.epoch))
        if refit.complete:
            return Run(refit.test, outcomes, None, complete=True)
        complete = False
    # a fold that was cut short counts only where nothing better is there
    whole_ones = [each.test for each in outcomes.values() if each.complete]
    test = np.mean(whole_ones or [outcome.test], axis=0)
    out_of_fold = None
    if config.folds and complete:
        out_of_fold = np.full(len(labels), np.nan), np.zeros(len(labels), int)
        for number, (held, outcome) in enumerate(zip(held_out, outcomes.values(), strict=True), start=1):
            out_of_fold[0][held], out_of_fold[1][held] = outcome.validation, number
    return Run(test, outcomes, out_of_fold, complete)


def held_out_rows(config: RunConfig, ids: list[str], labels: np.ndarray) -> list[np.ndarray]:
    """Rows of the training file to validate on, one array a model; none with `--no-validation`."""
    if config.no_validation:
        return []
    rows = limited(labels, config.max_train_samples)
    return [rows[part] for part in validation_folds([ids[row] for row in rows], labels[rows], config.validation, config.folds)]


def split_of(config: RunConfig, ids: list[str], labels: np.ndarray) -> str:
    """Checksum of a run's validation split, or with `--no-validation` of the rows that it trains on."""
    return split_checksum(ids, held_out_rows(config, ids, labels) or [limited(labels, config.max_train_samples)])


def require_learnable(config: RunConfig, ids: list[str], labels: np.ndarray) -> None:
    """Raises `UserError`, before an earlier run makes room, where the training reviews cannot be split or have one class only."""
    rows = limited(labels, config.max_train_samples)
    if not config.no_validation:
        validation_folds([ids[row] for row in rows], labels[rows], config.validation, config.folds)
    elif len(np.unique(labels[rows])) < 2 and not getattr(config, "adapter", None):  # an adapter that is given learns nothing
        raise UserError(f"the {len(rows):,} training reviews are of one class only: use more reviews")


def finish_run(
    config: RunConfig, competition: Competition, train_ids: list[str], test_ids: list[str], run: Run, **figures
) -> None:
    """Writes both submissions and the out-of-fold probabilities, records the score where it is known, and says it last."""
    from popcorn.data.submission import DECIMALS, OOF_SUFFIX, write_out_of_fold, write_submissions
    from popcorn.metrics import score_test
    from popcorn.runs.results import record

    write_submissions(config.output_dir / "submissions", config.name, competition.sample_ids(), test_ids, run.test)
    if run.out_of_fold is not None:
        write_out_of_fold(config.output_dir / "submissions", config.name, train_ids, *run.out_of_fold)
    else:  # those of an earlier run are of other models than this submission
        (config.output_dir / "submissions" / f"{config.name}{OOF_SUFFIX}").unlink(missing_ok=True)
    score = score_test(test_ids, run.test.round(DECIMALS))  # of the file, as Kaggle scores it
    if config.save_results and run.complete and score:
        record(config, competition, run, score, **figures)
    if score:
        log(f"Test: {score.describe()}" + ("" if competition.source != FALLBACK else " (embedded default, not Kaggle's)"))
    if not run.complete:
        log(
            "The time budget is spent: these submissions are valid, and the same command with --resume goes on with the training."
        )
    if config.save_results and not (run.complete and score):
        log("Not recorded: only a finished run whose test labels are known is.")
