"""The folder of a run: its settings, and the results of its finished splits."""

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import asdict, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from popcorn.config import RunConfig, ZeroShotConfig
from popcorn.errors import UserError, log
from popcorn.models.saved import PREDICTIONS
from popcorn.training.fit_result import FitResult
from popcorn.utils.cache import file_lock
from popcorn.utils.files import atomic_write, write_json

SETTINGS = "settings.json"
NOT_PART_OF_A_RUN = (
    "resume", "time_budget", "save_results", "output_dir", "data_dir", "word_vectors", "checkpoint_every", "refit",
    "micro_batch_size",
)  # fmt: skip
"""options that may change on resume; data and vectors are compared by checksum instead"""


def folder_of(config: RunConfig) -> Path:
    """The folder of a run."""
    return config.output_dir / "runs" / config.name / f"seed-{config.seed}"


def seed_folders(folder: Path) -> list[Path]:
    """The folders of a name's runs, one per seed; without locks and runs that another one replaced."""
    return [path for path in sorted(folder.glob("seed-*")) if path.is_dir() and path.suffix != ".earlier"]


def sole_owner(config: RunConfig) -> AbstractContextManager:
    """Locks the run's folder for this process until the submissions are written.

    Raises `UserError`, before any change, where another process has the lock.
    """
    folder = folder_of(config)
    return file_lock(
        folder,
        waits=False,
        refusal=f"another run is at work in {folder}: wait until it ends, or give this one another --name, --seed or "
        "--output-dir",
    )


def settings_of(config: RunConfig) -> dict[str, str]:
    """The options that must be the same on resume."""
    free = {*NOT_PART_OF_A_RUN, "batch_size"} if isinstance(config, ZeroShotConfig) else {*NOT_PART_OF_A_RUN}
    if getattr(config, "scl", 0):  # its loss compares the reviews of a micro-batch
        free -= {"micro_batch_size"}
    return {name: str(value) for name, value in asdict(config).items() if name not in free}


def default_settings(config: RunConfig) -> dict[str, str]:
    """The default values of these options."""
    return {each.name: str(each.default) for each in fields(config) if each.name not in NOT_PART_OF_A_RUN}


def differing_settings(config: RunConfig, **content: str) -> list[str]:
    """A sentence for each option or checksum that differs from the folder's run.

    Empty where there is no earlier run.
    """
    settings = folder_of(config) / SETTINGS
    if not settings.is_file():
        return []
    try:
        # a run from before an option existed had the option's default
        earlier = default_settings(config) | dict(json.loads(settings.read_text(encoding="utf-8")))
        current = settings_of(config) | content
    except (OSError, ValueError, TypeError) as problem:
        raise UserError(f"{settings} is damaged ({problem}): leave out --resume to start again") from problem
    if "teacher_sha256" in earlier.keys() & current.keys():  # the checksum is compared, since the teacher's file may have moved
        del current["pseudo_labels"]
    return [
        f"its {name} is {earlier.get(name, 'not recorded')} where this one's is {current.get(name)}"
        for name in sorted(current)
        if earlier.get(name) != current.get(name)
    ]


def start_or_resume(config: RunConfig, **content: str) -> None:
    """Creates the run's folder with its settings, or resumes the run in it.

    Without `--resume`, the folder of an earlier run is renamed to `<folder>.earlier` (one is kept). With `--resume`, the settings
    and the `content` (checksums of data, vectors, model) must be those of the earlier run. Otherwise raises `UserError`.
    """
    folder = folder_of(config)
    settings = folder / SETTINGS
    if getattr(config, "resume", False) and settings.is_file():
        if differing := differing_settings(config, **content):
            raise UserError(
                f"{settings} is of another run: {differing[0]}; give the same options, or leave out --resume to start again"
            )
        log(f"Resuming the run in {folder}")
        return
    if folder.is_dir():
        earlier = folder.with_name(folder.name + ".earlier")
        shutil.rmtree(earlier, ignore_errors=True)
        folder.rename(earlier)
    write_json(settings, settings_of(config) | content)


def save_fit_result(folder: Path, result: FitResult) -> None:
    """Saves the result of a finished split, and removes its checkpoints.

    Each checkpoint is three times as large as the model.
    """
    rest = {name: value for name, value in vars(result).items() if name not in ("validation", "test")}
    with atomic_write(folder / PREDICTIONS) as file:
        np.savez(file, validation=result.validation, test=result.test, rest=np.array(json.dumps(rest)))
    for pattern in ("checkpoint-*", "step-*"):  # the Trainer's, and the PyTorch loop's
        for checkpoint in folder.glob(pattern):
            shutil.rmtree(checkpoint)


def load_fit_result(folder: Path) -> FitResult | None:
    """The result of a finished split; None where it is not finished.

    Raises `UserError` where the file is damaged.
    """
    try:
        with np.load(folder / PREDICTIONS, allow_pickle=False) as stored:
            return FitResult(validation=stored["validation"], test=stored["test"], **json.loads(str(stored["rest"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as problem:
        raise UserError(f"{folder / PREDICTIONS} is damaged ({problem}): remove it, and the split is trained again") from problem


def load_test_probabilities(folder: Path) -> np.ndarray | None:
    """Test probabilities of a run, (test,): of the refit, the validated model, or the mean over folds.

    The first of them that is finished, or None. Raises `UserError` where a file is damaged.
    """
    result = load_fit_result(folder / "refit") or load_fit_result(folder / "validated")
    if result is not None:
        return result.test
    folds = [fit.test for path in sorted(folder.glob("fold-*")) if (fit := load_fit_result(path)) is not None]
    return np.mean(folds, axis=0) if folds else None
