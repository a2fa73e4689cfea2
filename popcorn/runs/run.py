"""The flow of every run, from the script's call of `run` to its submissions.

A task has the encoded reviews and the model (popcorn/training/task.py). A trainer trains it on one split after another:
`PyTorchTrainer`, `HFTrainer` or `SklearnTrainer`, each with a method `fit(split) -> FitResult`.
"""

import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from popcorn.config import STARTED, RunConfig
from popcorn.data.competition import FALLBACK, Competition
from popcorn.data.splits import Split, refit_split, split_checksum, validation_splits
from popcorn.data.submission import DECIMALS, OOF_SUFFIX, require_same_ids, write_out_of_fold, write_submissions
from popcorn.errors import UserError, exit_on_user_error, log
from popcorn.metrics import score_test
from popcorn.runs import run_dir
from popcorn.runs.results import RunResult, save_results
from popcorn.training.disk import require_disk_space
from popcorn.training.fit_result import FitResult
from popcorn.training.task import Task
from popcorn.utils import kaggle
from popcorn.utils.files import require_writable
from popcorn.utils.processes import is_main_process, main_process_first


class Trainer(Protocol):
    """Trains the model of a task."""

    def start(self, config: RunConfig) -> dict[str, str] | None:
        """Joins several processes, and prepares the hardware.

        Returns what must be the same on resume, in addition to the options.
        """

    def set_up(self, task: Task, run_dir: Path, deadline: float) -> None:
        """Receives the task and the run's folder; `deadline` is a `time.monotonic()`."""

    def fit(self, split: Split) -> FitResult:
        """Trains on the split, and predicts."""

    def summary(self) -> dict:
        """For the saved results: parameters, precision, time and memory."""

    def finish(self) -> None:
        """Saves files that the predictions do not need, after the submissions are written."""


def run(task: Task, trainer: Trainer) -> None:
    """Trains on every validation split, then on all reviews, and writes both submissions.

    Exits with one sentence and code 2 where the user can fix the problem.
    """
    config = task.config
    with exit_on_user_error():
        deadline = deadline_of(config)
        require_writable(config.output_dir / "submissions")
        recipe = trainer.start(config) or {}
        # with several processes, the main one locks the run's folder for all
        with run_dir.sole_owner(config) if is_main_process() else nullcontext():
            with main_process_first():
                task.load()
                require_same_ids(task.competition.sample_ids(), task.test_ids)  # before the training, not after it
                splits = validation_splits(config, task.train_ids, task.labels)
            task.pretrain(deadline)
            content = task.content() | recipe | {"split": split_checksum(task.train_ids, [split.held_out for split in splits])}
            folder = run_dir.folder_of(config)
            with main_process_first():
                if is_main_process():
                    models = len(splits) + has_refit(config)
                    require_disk_space(folder, task.trainable_parameters, models, getattr(config, "resume", False))
                    run_dir.start_or_resume(config, **content)
                    task.save_artifacts(folder)
            trainer.set_up(task, folder, deadline)
            results = fit_splits(task, trainer, splits, folder)
            if is_main_process():
                provenance = task.provenance | {"split": content["split"]}
                finish_run(config, task.competition, task.train_ids, task.test_ids, combine(task, splits, results), **provenance,
                           **trainer.summary())  # fmt: skip
            trainer.finish()
            if is_main_process():
                save_unsaved(results, folder)


def has_refit(config: RunConfig) -> bool:
    """Whether a model is trained on all reviews after one validation."""
    return config.refit and not config.folds and not config.no_validation


def fit_splits(task: Task, trainer: Trainer, splits: list[Split], folder: Path) -> dict[str, FitResult]:
    """Results by the names of the splits, including the refit.

    Results of splits that an earlier process finished are loaded. A split that the time budget ends still predicts; the remaining
    splits wait for `--resume`.
    """
    config, results = task.config, {}
    for split in splits:
        results[split.name] = result = run_dir.load_fit_result(folder / split.name) or fit_and_save(trainer, split, folder)
        if not result.complete:
            return results
    if has_refit(config):
        split = refit_split(config, task.labels, result.epoch)
        refit = run_dir.load_fit_result(folder / split.name)
        if refit is None and is_main_process() and len(result.test):  # in case the refit is killed, there is this submission
            write_submissions(
                config.output_dir / "submissions", config.name, task.competition.sample_ids(), task.test_ids, result.test
            )
        results["refit"] = refit or fit_and_save(trainer, split, folder)
    return results


def fit_and_save(trainer: Trainer, split: Split, folder: Path) -> FitResult:
    """Trains on the split, and saves the result unless the time budget ended the training."""
    if is_main_process():
        (folder / split.name).mkdir(exist_ok=True)
    result = trainer.fit(split)
    if result.complete and is_main_process():
        with suppress(UserError):  # a full disk must not end the run before its submission; see `save_unsaved`
            run_dir.save_fit_result(folder / split.name, result)
    return result


def save_unsaved(results: dict[str, FitResult], folder: Path) -> None:
    """Tries again to save the results of splits that could not be saved.

    Raises `UserError` where that fails again.
    """
    for name, result in results.items():
        if result.complete and not (folder / name / run_dir.PREDICTIONS).is_file():
            run_dir.save_fit_result(folder / name, result)


def combine(task: Task, splits: list[Split], results: dict[str, FitResult]) -> RunResult:
    """The run's test probabilities: of the refit, or the mean over the folds.

    With `--folds`, the out-of-fold probabilities too.
    """
    config, last = task.config, list(results.values())[-1]
    if "refit" in results and last.complete:
        return RunResult(last.test, results, None, complete=True)
    complete = last.complete and "refit" not in results
    # an incomplete fold counts only if no fold is complete
    finished = [each.test for each in results.values() if each.complete]
    test = np.mean(finished or [last.test], axis=0)
    out_of_fold = None
    if config.folds and complete:
        out_of_fold = np.full(len(task.labels), np.nan), np.zeros(len(task.labels), int)
        for number, split in enumerate(splits, start=1):
            out_of_fold[0][split.validation], out_of_fold[1][split.validation] = results[split.name].validation, number
    return RunResult(test, results, out_of_fold, complete)


def finish_run(
    config: RunConfig, competition: Competition, train_ids: list[str], test_ids: list[str], result: RunResult, **summary
) -> None:
    """Writes the submissions, saves the results with `--save-results`, and prints the score."""
    submissions = config.output_dir / "submissions"
    write_submissions(submissions, config.name, competition.sample_ids(), test_ids, result.test)
    if result.out_of_fold is not None:
        write_out_of_fold(submissions, config.name, train_ids, *result.out_of_fold)
    else:  # a file of an earlier run would not match this submission
        (submissions / f"{config.name}{OOF_SUFFIX}").unlink(missing_ok=True)
    score = score_test(test_ids, result.test.round(DECIMALS))  # of the file, as Kaggle scores it
    if config.save_results and result.complete and score:
        save_results(config, competition, result, score, **summary)
    if score:
        log(f"Test: {score.describe()}" + ("" if competition.source != FALLBACK else " (fallback data, not Kaggle's)"))
    if not result.complete:
        log("The time budget is spent: these submissions are valid, and the same command with --resume continues the training.")
    if config.save_results and not (result.complete and score):
        log("Results not saved: the run must be finished, and its test labels known.")


def deadline_of(config: RunConfig) -> float:
    """The end of `--time-budget` as a `time.monotonic()`; without one, that of Kaggle's session, or infinity.

    Raises `UserError` for a text that is not a length of time.
    """
    budget, end = getattr(config, "time_budget", None), kaggle.session_end()
    if budget is None and end is not None and hasattr(config, "time_budget"):
        left = end - time.time()
        log(f"Time budget: {pd.Timedelta(seconds=max(0, int(left)))} are left of Kaggle's session (--time-budget sets another)")
        return time.monotonic() + left
    if budget is None:
        return float("inf")
    try:
        seconds = pd.Timedelta(budget).total_seconds()
    except ValueError:
        seconds = 0
    if not seconds >= 1:  # a number without a unit would be nanoseconds
        raise UserError(f"--time-budget is {budget!r}: give a length of time such as 8h30m, 45m or 90s")
    return STARTED + seconds
