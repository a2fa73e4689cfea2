"""The stacker of an ensemble: a logistic regression on its members' log-odds (stacking, Wolpert 1992), and its file."""

import json
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from popcorn.data.tables import bare
from popcorn.errors import UserError
from popcorn.models.saved import ENSEMBLE, predictions_checksum
from popcorn.utils.files import atomic_write, fingerprint

EPS = 1e-6  # the last digit in the files, so no probability is closer to 0 or 1


@dataclass(frozen=True)
class SavedEnsemble:
    """What predicts with an ensemble, in addition to its members' runs."""

    runs: list[str]
    """folder of each member's run in runs/, such as lstm/seed-1; empty where it was not there"""
    checksums: list[str]
    """`predictions_checksum` of each member's run"""
    train_sha256: str
    """checksum of the training reviews' ids, from `ids_checksum`"""
    out_of_fold: np.ndarray
    """(members, training file), each by a model that was not trained on the review"""
    coef: np.ndarray
    """(members,)"""
    intercept: float


def log_odds(probabilities: list[np.ndarray] | np.ndarray) -> np.ndarray:
    """Each member's log-odds as one feature: (reviews,) of each member to (reviews, members)."""
    return logit(np.clip(probabilities, EPS, 1 - EPS)).T


def new_stacker() -> LogisticRegression:
    """The logistic regression of a blend, not fitted."""
    return LogisticRegression(C=1.0)


def ids_checksum(ids: list[str]) -> str:
    """SHA-256 of ids in their order, without quotes."""
    return fingerprint(bare(ids))


def save_ensemble(folder: Path, ensemble: SavedEnsemble) -> None:
    """Writes the ensemble's file, atomically."""
    names = json.dumps({name: getattr(ensemble, name) for name in ("runs", "checksums", "train_sha256")})
    with atomic_write(folder / ENSEMBLE) as file:
        np.savez(file, out_of_fold=ensemble.out_of_fold, coef=ensemble.coef, intercept=ensemble.intercept, names=np.array(names))


def load_ensemble(folder: Path) -> SavedEnsemble:
    """Reads the ensemble's file.

    Raises `UserError` where it is damaged, or where a member's run is not next to it or was trained again.
    """
    again = f"run python -m popcorn ensemble --name {folder.name} again, with the members' runs in {folder.parent}"
    try:
        with np.load(folder / ENSEMBLE, allow_pickle=False) as stored:
            names = json.loads(str(stored["names"]))
            ensemble = SavedEnsemble(
                **names, out_of_fold=stored["out_of_fold"], coef=stored["coef"], intercept=float(stored["intercept"])
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as problem:
        raise UserError(f"{folder / ENSEMBLE} is damaged ({problem}): {again}") from problem
    missing = [run for run in ensemble.runs if not run or not (folder.parent / run).is_dir()]
    if missing:
        raise UserError(f"{folder.parent} lacks the run {missing[0] or 'of a member'} of the ensemble {folder.name}: {again}")
    for run, checksum in zip(ensemble.runs, ensemble.checksums, strict=True):
        if predictions_checksum(folder.parent / run) != checksum:
            raise UserError(f"{folder.parent / run} was trained again after the ensemble {folder.name} was made: {again}")
    return ensemble
