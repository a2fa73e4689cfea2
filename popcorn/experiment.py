"""From a way to fit one model to a finished run: validation parts, refit, submissions, score, recorded figures."""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from popcorn.config import RunConfig
from popcorn.data import EMBEDDED, Competition
from popcorn.errors import UserError, say
from popcorn.files import alone, whole, write_json
from popcorn.split import limited, split_checksum, validation_parts

SETTINGS = "settings.json"
OUTCOME = "outcome.npz"
"""what a fit's folder has once it is finished"""
NOT_PART_OF_A_RUN = (
    "resume", "time_budget", "record", "output_dir", "data_dir", "vectors", "checkpoint_every", "refit", "micro_batch",
)  # fmt: skip
"""options that may change between a stop and a resume; the data and the vectors are compared by content instead"""


@dataclass(frozen=True)
class Part:
    """One fit: the rows of the training file to learn from, those to validate on, and a number of epochs if it is known."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    epochs: int | None = None


@dataclass
class Outcome:
    """What a fit gives: probabilities of the validation rows and of the test, and how it came there."""

    validation: np.ndarray
    test: np.ndarray
    epoch: int = 0
    """the epoch whose weights predicted"""
    history: list[dict] = field(default_factory=list)
    """figures by epoch"""
    reviews_per_second: float = 0.0
    complete: bool = True
    """False where the time budget ended it"""


@dataclass
class Run:
    """A finished run: the test's probabilities (test,), and the outcomes by the names of their parts."""

    test: np.ndarray
    outcomes: dict[str, Outcome]
    out_of_fold: tuple[np.ndarray, np.ndarray] | None
    """with --folds, each training row's probability and the number of its fold"""
    complete: bool


def fit_all(config: RunConfig, ids: list[str], labels: np.ndarray, fit: Callable[[Part], Outcome]) -> Run:
    """Fits every validation part (one, or `--folds`), then all training rows where `--refit` says so.

    A fit that the time budget ended still predicts; the parts after it are left for `--resume`.
    """
    rows = limited(labels, config.limit)
    if len(np.unique(labels[rows])) < 2:
        those = f"the {len(rows)} training reviews" + (f" of --limit {config.limit}" if config.limit else "")
        raise UserError(f"{those} are of one class, and a model learns from two: use more reviews")
    outcomes: dict[str, Outcome] = {}
    if config.final:
        outcome = outcomes["refit"] = fit(Part("refit", rows, rows[:0], epochs=getattr(config, "epochs", None)))
        return Run(outcome.test, outcomes, None, outcome.complete)
    held_out = held_out_rows(config, ids, labels)
    for number, held in enumerate(held_out, start=1):
        part = Part(f"fold-{number}" if config.folds else "validated", np.setdiff1d(rows, held), held)
        outcome = outcomes[part.name] = fit(part)
        if not outcome.complete:
            break
    complete = outcome.complete
    if config.refit and not config.folds and complete:
        refit = outcomes["refit"] = fit(Part("refit", rows, rows[:0], epochs=outcome.epoch))
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
    """Rows of the training file to validate on, one array a model; none with `--final`."""
    if config.final:
        return []
    rows = limited(labels, config.limit)
    return [rows[part] for part in validation_parts([ids[row] for row in rows], labels[rows], config.validation, config.folds)]


def split_of(config: RunConfig, ids: list[str], labels: np.ndarray) -> str:
    """Checksum of a run's validation split, or with `--final` of the rows that it trains on."""
    return split_checksum(ids, held_out_rows(config, ids, labels) or [limited(labels, config.limit)])


def folder_of(config: RunConfig) -> Path:
    """The folder of a run."""
    return config.output_dir / "runs" / config.name / f"seed-{config.seed}"


def sole_owner(config: RunConfig) -> AbstractContextManager:
    """Holds the run's folder for this process, from before `begin` until the submissions are written.

    Raises `UserError`, before anything is touched, where another run that is alive holds it.
    """
    folder = folder_of(config)
    return alone(
        folder,
        waits=False,
        refusal=f"another run is at work in {folder}: wait until it has ended, or give this one another --name, --seed or "
        "--output-dir",
    )


def require_learnable(config: RunConfig, ids: list[str], labels: np.ndarray) -> None:
    """Raises `UserError`, before an earlier run makes room, where the training reviews cannot be split or have one class only."""
    rows = limited(labels, config.limit)
    if not config.final:
        validation_parts([ids[row] for row in rows], labels[rows], config.validation, config.folds)
    elif len(np.unique(labels[rows])) < 2 and not getattr(config, "adapter", None):  # an adapter that is given learns nothing
        raise UserError(f"the {len(rows):,} training reviews are of one class only: use more reviews")


def settings_of(config: RunConfig) -> dict[str, str]:
    """The options that a run must be resumed with."""
    return {name: str(value) for name, value in asdict(config).items() if name not in NOT_PART_OF_A_RUN}


def default_settings(config: RunConfig) -> dict[str, str]:
    """The options as they are where none is given."""
    return {each.name: str(each.default) for each in fields(config) if each.name not in NOT_PART_OF_A_RUN}


def differing_settings(config: RunConfig, **content: str) -> list[str]:
    """A sentence for each option, or content given, that differs from what the folder's run was begun with; of no run, none."""
    begun = folder_of(config) / SETTINGS
    if not begun.is_file():
        return []
    try:
        # a run that is older than an option was begun as the option's default has it
        before = default_settings(config) | dict(json.loads(begun.read_text(encoding="utf-8")))
        now = settings_of(config) | content
    except (OSError, ValueError, TypeError) as problem:
        raise UserError(f"{begun} is damaged ({problem}): leave out --resume to begin anew") from problem
    return [
        f"its {name} is {before.get(name, 'not recorded')} where this one's is {now.get(name)}"
        for name in sorted(now)
        if before.get(name) != now.get(name)
    ]


def begin(config: RunConfig, **content: str) -> None:
    """Makes the run's folder, with the settings it is begun with.

    Without `--resume` a folder of an earlier run makes room (one earlier run is kept as `<folder>.earlier`). With it, the
    settings and the `content` (checksums of data, vectors, model) must be those that the run was begun with, or `UserError`.
    """
    folder = folder_of(config)
    begun = folder / SETTINGS
    if getattr(config, "resume", False) and begun.is_file():
        if differing := differing_settings(config, **content):
            raise UserError(
                f"{begun} is of another run: {differing[0]}; give the same options as then, or leave out --resume to begin anew"
            )
        say(f"Going on with the run in {folder}")
        return
    if folder.is_dir():
        earlier = folder.with_name(folder.name + ".earlier")
        shutil.rmtree(earlier, ignore_errors=True)
        folder.rename(earlier)
    write_json(begun, settings_of(config) | content)


def kept(folder: Path, part: Part, fit: Callable[[Part], Outcome], write: bool = True) -> Outcome:
    """The outcome of a part, from the run's folder where it was finished before; else fitted, and kept there by `write`."""
    if finished := read_outcome(folder / part.name):
        return finished
    outcome = fit(part)
    if outcome.complete and write:
        keep_outcome(folder / part.name, outcome)
        for kind in ("checkpoint-*", "step-*"):  # the Trainer's and our own, three times the size of the model each
            for checkpoint in (folder / part.name).glob(kind):
                shutil.rmtree(checkpoint)
    return outcome


def keep_outcome(folder: Path, outcome: Outcome) -> None:
    """Writes it into a finished fit's folder."""
    rest = {name: value for name, value in vars(outcome).items() if name not in ("validation", "test")}
    with whole(folder / OUTCOME) as file:
        np.savez(file, validation=outcome.validation, test=outcome.test, rest=np.array(json.dumps(rest)))


def read_outcome(folder: Path) -> Outcome | None:
    """That of a finished fit's folder; None where it was not finished, or never begun. Raises `UserError` where it is damaged."""
    try:
        with np.load(folder / OUTCOME, allow_pickle=False) as stored:
            return Outcome(validation=stored["validation"], test=stored["test"], **json.loads(str(stored["rest"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as problem:
        raise UserError(f"{folder / OUTCOME} is damaged ({problem}): remove it, and the fit is made again") from problem


def conclude(config: RunConfig, competition: Competition, train_ids: list[str], test_ids: list[str], run: Run, **figures) -> None:
    """Writes both submissions and the out-of-fold probabilities, records the score where it is known, and says it last."""
    from popcorn.results import record
    from popcorn.score import score_test
    from popcorn.submission import DECIMALS, OUT_OF_FOLD, write_out_of_fold, write_submissions

    write_submissions(config.output_dir / "submissions", config.name, competition.sample_ids(), test_ids, run.test)
    if run.out_of_fold is not None:
        write_out_of_fold(config.output_dir / "submissions", config.name, train_ids, *run.out_of_fold)
    else:  # those of an earlier run are of other models than this submission
        (config.output_dir / "submissions" / f"{config.name}{OUT_OF_FOLD}").unlink(missing_ok=True)
    score = score_test(test_ids, run.test.round(DECIMALS))  # of the file, as Kaggle scores it
    if config.record and run.complete and score:
        record(config, competition, run, score, **figures)
    if score:
        say(f"Test: {score.describe()}" + ("" if competition.source != EMBEDDED else " (embedded default, not Kaggle's)"))
    if not run.complete:
        say(
            "The time budget is spent: these submissions are valid, and the same command with --resume goes on with the training."
        )
    if config.record and not (run.complete and score):
        say("Not recorded: only a finished run whose test labels are known is.")
