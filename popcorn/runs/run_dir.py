"""The folder of a run: its settings, and the results of the splits that are finished."""

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from popcorn.config import RunConfig
from popcorn.errors import UserError, log
from popcorn.training.fit_result import FitResult
from popcorn.utils.cache import file_lock
from popcorn.utils.files import atomic_write, write_json

SETTINGS = "settings.json"
PREDICTIONS = "predictions.npz"
"""what a split's folder has once its training is finished"""
NOT_PART_OF_A_RUN = (
    "resume", "time_budget", "save_results", "output_dir", "data_dir", "word_vectors", "checkpoint_every", "refit",
    "micro_batch_size",
)  # fmt: skip
"""options that may change between a stop and a resume; the data and the vectors are compared by content instead"""


def folder_of(config: RunConfig) -> Path:
    """The folder of a run."""
    return config.output_dir / "runs" / config.name / f"seed-{config.seed}"


def sole_owner(config: RunConfig) -> AbstractContextManager:
    """Holds the run's folder for this process, from before `start_or_resume` until the submissions are written.

    Raises `UserError`, before anything is touched, where another run that is alive holds it.
    """
    folder = folder_of(config)
    return file_lock(
        folder,
        waits=False,
        refusal=f"another run is at work in {folder}: wait until it has ended, or give this one another --name, --seed or "
        "--output-dir",
    )


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


def start_or_resume(config: RunConfig, **content: str) -> None:
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
        log(f"Going on with the run in {folder}")
        return
    if folder.is_dir():
        earlier = folder.with_name(folder.name + ".earlier")
        shutil.rmtree(earlier, ignore_errors=True)
        folder.rename(earlier)
    write_json(begun, settings_of(config) | content)


def save_fit_result(folder: Path, result: FitResult) -> None:
    """Writes it into a finished split's folder, and removes the checkpoints, each three times the size of the model."""
    rest = {name: value for name, value in vars(result).items() if name not in ("validation", "test")}
    with atomic_write(folder / PREDICTIONS) as file:
        np.savez(file, validation=result.validation, test=result.test, rest=np.array(json.dumps(rest)))
    for pattern in ("checkpoint-*", "step-*"):  # the Trainer's, and the PyTorch loop's
        for checkpoint in folder.glob(pattern):
            shutil.rmtree(checkpoint)


def load_fit_result(folder: Path) -> FitResult | None:
    """The result of a finished split's folder; None where it was not finished. Raises `UserError` where it is damaged."""
    try:
        with np.load(folder / PREDICTIONS, allow_pickle=False) as stored:
            return FitResult(validation=stored["validation"], test=stored["test"], **json.loads(str(stored["rest"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as problem:
        raise UserError(f"{folder / PREDICTIONS} is damaged ({problem}): remove it, and the split is trained again") from problem
