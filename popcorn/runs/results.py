"""Published results: one JSON per script, with everything needed to verify and repeat its runs."""

import json
import os
import platform
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from math import isclose
from pathlib import Path

import numpy as np

from popcorn.config import RunConfig
from popcorn.data.competition import FALLBACK, Competition
from popcorn.data.splits import SPLIT
from popcorn.errors import UserError, log
from popcorn.metrics import Score, half_width
from popcorn.training.fit_result import FitResult
from popcorn.utils.cache import file_lock
from popcorn.utils.files import write_json

PACKAGES = "numpy scikit-learn pandas gensim nltk torch accelerate transformers peft bitsandbytes".split()
ROUNDED = 1e-4
"""tolerance between a run's score and the score of its rounded submission"""
FIVE_DIGITS = 5e-6
"""tolerance between two scores that are equal to five digits"""
NOT_THE_RECIPE = ("seed", "no_validation", "save_results", "resume", "time_budget", "output_dir", "data_dir", "deterministic")


@dataclass
class RunResult:
    """The result of a finished run."""

    test: np.ndarray
    """test probabilities (test,)"""
    fits: dict[str, FitResult]
    """results by the names of the splits"""
    out_of_fold: tuple[np.ndarray, np.ndarray] | None
    """with `--folds`, the probability and the fold of each training row"""
    complete: bool
    """False if the time budget ended the run"""


def save_results(config: RunConfig, competition: Competition, result: RunResult, score: Score, **summary) -> None:
    """Adds the run to `results/<name>.json`.

    Runs of other seeds stay if recipe and data are the same; all others are replaced. Results on the fallback data never replace
    those on the competition's.
    """
    path = config.output_dir / "results" / f"{config.name}.json"
    head = {
        "name": config.name,
        "config": recipe_of(config),
        "data": data_of(competition),
        "split": SPLIT,
    }
    entry = {
        "seed": config.seed,
        "accuracy": score.accuracy,
        "auc": score.auc,
        "test_reviews": score.reviews,
        "fits": {
            name: {"epoch": fit.epoch, "history": fit.history, "reviews_per_second": fit.reviews_per_second}
            for name, fit in result.fits.items()
        },
        "command": command_line(sys.argv),
        "versions": versions(),
        **summary,
    }
    with file_lock(config.output_dir / "runs" / f"{config.name}.record"):  # another seed may end at the same time
        if competition.source == FALLBACK and any(row.name == config.name for row in rows(path.parent)):
            log(f"{path}: kept, since its results are on the competition's data; give these, on the fallback data, a --name")
            return
        runs = sorted([*_others(path, head, recipe_of(type(config)()), config.seed), entry], key=lambda each: each["seed"])
        write_json(path, head | {"runs": runs})
    log(f"{path}: recorded, {len(runs)} run(s)")
    if competition.source == FALLBACK:
        log("The tables show only results on the competition's data, and these are on the fallback data")


def _others(path: Path, head: dict, defaults: dict, seed: int) -> list[dict]:
    """Saved runs of other seeds with the same recipe and data."""
    if not path.is_file():
        return []
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return [other for other in saved["runs"] if other["seed"] != seed] if _is_same(saved, head, defaults) else []
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise not_a_record(path, problem) from problem


def _is_same(saved: dict, head: dict, defaults: dict) -> bool:
    """Whether a file of results has all entries of `head`.

    Runs from before an option existed had the option's default, from `defaults`.
    """
    return {name: saved.get(name) for name in head} | {"config": defaults | saved["config"]} == head


def command_line(argv: list[str]) -> str:
    """The command line without `--resume`, `--data-dir` and `--output-dir`; other paths are shortened to their names."""
    folders = ArgumentParser(add_help=False, allow_abbrev=False)
    folders.add_argument("--data-dir", "--data_dir")
    folders.add_argument("--output-dir", "--output_dir")
    _, kept = folders.parse_known_args(argv[1:])
    script, *options = (_without_folder(word) for word in [argv[0], *kept] if word != "--resume")
    return " ".join(["python", "-m popcorn" if script == "__main__.py" else script, *options])


def _without_folder(word: str) -> str:
    """A path, also in `--option=path`, as its name; a model's name with slashes is not a path."""
    option, equals, value = word.rpartition("=")
    return option + equals + (_short(Path(value)) if "/" in value and _is_path(value) else value)


def find_run(path: Path, score: Score | None) -> dict | None:
    """The saved run with this score, which identifies its seed; None if there is none.

    Raises `UserError` where the file does not have saved results.
    """
    if score is None or not path.is_file():
        return None
    try:
        # a submission's file is rounded to six digits
        close = (run for run in read_runs(path) if abs(run["accuracy"] - score.accuracy) + abs(run["auc"] - score.auc) < ROUNDED)
        return next(close, None)
    except (KeyError, TypeError) as problem:
        raise not_a_record(path, problem) from problem


def reproduces(run: dict, score: Score | None) -> bool:
    """Whether a score is that of a saved run: the accuracy exactly, the ROC AUC to five digits."""
    return (
        score is not None
        and score.reviews == run["test_reviews"]
        and isclose(score.accuracy, run["accuracy"])
        and abs(score.auc - run["auc"]) < FIVE_DIGITS
    )


def read_runs(path: Path) -> list[dict]:
    """The saved runs of a row, by seed.

    Raises `UserError` where the file does not have saved results.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise not_a_record(path, problem) from problem


def not_a_record(path: Path, problem: Exception) -> UserError:
    """The `UserError` for a file in results/ without valid results."""
    return UserError(f"{path} is not a recorded result ({problem!r}): remove it or run its script with --save-results")


def recipe_of(config: RunConfig) -> dict:
    """The options that the results depend on, as they are in JSON.

    A tuple is a list there.
    """
    recipe = {name: value for name, value in asdict(config).items() if name not in NOT_THE_RECIPE}
    # folders of one machine mean nothing elsewhere, so a path is reduced to its name
    return json.loads(json.dumps({name: _short(Path(value)) if _is_path(value) else value for name, value in recipe.items()}))


def data_of(competition: Competition) -> dict[str, str]:
    """Source and checksum of a run's data."""
    return {"source": FALLBACK if competition.source == FALLBACK else "competition", "sha256": competition.checksum}


def is_recorded(config: RunConfig, competition: Competition) -> bool:
    """Whether there are saved results with these options, this seed and these data."""
    try:
        saved = json.loads((config.output_dir / "results" / f"{config.name}.json").read_text(encoding="utf-8"))
        here = {"config": recipe_of(config), "data": data_of(competition), "split": SPLIT}
        return _is_same(saved, here, recipe_of(type(config)())) and any(run["seed"] == config.seed for run in saved["runs"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results may depend on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def _short(path: Path) -> str:
    """The name of a file, or of a run's folder with the folder above it."""
    return f"{path.parent.name}/{path.name}" if path.name.startswith("seed-") else path.name


def _is_path(value: object) -> bool:
    # unlike Path.exists, which raises an error for a prompt that is longer than a file's name may be
    return isinstance(value, Path) or (isinstance(value, str) and os.path.exists(value))


@dataclass(frozen=True)
class Row:
    """One row of the leaderboard: means over the seeds, and the accuracy's spread.

    The spread is the standard deviation.
    """

    name: str
    accuracy: float
    spread: float | None
    interval: float
    auc: float
    validation: float | None
    """None if all runs had --no-validation"""
    is_former_split: bool
    """whether the validation set is from an earlier version of the split's rules"""
    seconds: float
    reviews_per_second: float
    peak_memory: int
    parameters: int
    seeds: int
    machine: str
    command: str


def rows(folder: Path) -> Iterator[Row]:
    """The saved results on the competition's data, best accuracy first."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["name"] != path.stem:  # a run's files are found by its name
                raise ValueError(f"it is of {content['name']}")
            if content["data"]["source"] == "competition":
                found.append(_row(content))
        except (ValueError, KeyError, TypeError) as problem:
            raise not_a_record(path, problem) from problem
    return iter(sorted(found, key=lambda row: -row.accuracy))


def _row(content: dict) -> Row:
    runs = content["runs"]

    def mean(metric) -> float:
        return float(np.mean([metric(run) for run in runs]))

    # a run with --no-validation has no validation, and takes half the time
    validated = [run for run in runs if run["fits"].keys() - {"refit"}]
    timed = validated or runs
    validation = [
        np.mean([fit["history"][fit["epoch"] - 1]["validation_accuracy"] for name, fit in run["fits"].items() if name != "refit"])
        for run in validated
    ]
    accuracy = mean(lambda run: run["accuracy"])
    return Row(
        name=content["name"],
        accuracy=accuracy,
        spread=float(np.std([run["accuracy"] for run in runs], ddof=1)) if len(runs) > 1 else None,
        interval=half_width(accuracy, runs[0]["test_reviews"]),
        auc=mean(lambda run: run["auc"]),
        validation=float(np.mean(validation)) if validation else None,
        is_former_split=content.get("split") != SPLIT,
        seconds=float(np.median([run["seconds"] for run in timed])),
        reviews_per_second=float(np.median([next(iter(run["fits"].values()))["reviews_per_second"] for run in timed])),
        peak_memory=max(run["peak_memory"] for run in runs),
        parameters=runs[0]["parameters"],
        seeds=len(runs),
        machine=runs[0]["machine"],
        command=runs[0]["command"],
    )
