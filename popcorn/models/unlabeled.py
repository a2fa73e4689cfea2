"""A run's predictions for the unlabeled reviews, and which reviews each model was trained on."""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from popcorn.errors import UserError
from popcorn.models.stacker import ids_checksum
from popcorn.utils.files import atomic_write

PREDICTED = "unlabeled.npz"
ORIGIN = "teacher_origin"
"""key in a run's settings and results, only where it is not known what its teacher was trained on"""


@dataclass(frozen=True)
class UnlabeledPredictions:
    """Probabilities by the models of all finished splits of a run."""

    splits: list[str]
    """names of the splits"""
    probability: np.ndarray
    """float64 (splits, unlabeled)"""
    trained_on: np.ndarray
    """bool (splits, train): whether the split's model was trained on the review"""
    is_known: bool
    """whether it is known what the run's own teacher was trained on, if it had one"""

    def unseen(self, rows: np.ndarray) -> np.ndarray:
        """Whether each model was trained on none of the rows of the training file, bool (splits,)."""
        return ~self.trained_on[:, rows].any(1)

    @property
    def all(self) -> np.ndarray:
        """The probabilities that the run submits, (unlabeled,): of the refit, or the mean over its models."""
        refit = [number for number, name in enumerate(self.splits) if name == "refit"]
        return self.probability[refit or slice(None)].mean(0)


def save_predictions(folder: Path, predictions: UnlabeledPredictions, train_ids: list[str], unlabeled_ids: list[str]) -> None:
    """Writes the predictions into the run's folder."""
    with atomic_write(folder / PREDICTED) as file:
        np.savez_compressed(
            file, splits=np.array(predictions.splits), probability=predictions.probability, trained_on=predictions.trained_on,
            is_known=np.array(predictions.is_known), ids=np.array([ids_checksum(train_ids), ids_checksum(unlabeled_ids)]),
        )  # fmt: skip


def load_predictions(folder: Path, train_ids: list[str], unlabeled_ids: list[str]) -> UnlabeledPredictions:
    """Reads what `save_predictions` wrote.

    Raises `UserError` where it is missing, damaged, or of other reviews.
    """
    path, command = folder / PREDICTED, f"run python -m popcorn predict --unlabeled --model {folder} on these data"
    try:
        with np.load(path, allow_pickle=False) as stored:
            ids = stored["ids"].tolist()
            predictions = UnlabeledPredictions(
                stored["splits"].tolist(), stored["probability"], stored["trained_on"], bool(stored["is_known"])
            )
    except FileNotFoundError as problem:
        raise UserError(f"{folder} has no predictions of the unlabeled reviews yet: {command}") from problem
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as problem:
        raise UserError(f"{path} is damaged ({problem}): {command}") from problem
    if ids != [ids_checksum(train_ids), ids_checksum(unlabeled_ids)]:
        raise UserError(f"{path} is of other reviews: {command}")
    return predictions
