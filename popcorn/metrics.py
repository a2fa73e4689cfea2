"""Figures of merit that every engine reports, and figures of the machine that a record needs."""

import re
from dataclasses import dataclass

import numpy as np

from popcorn.errors import TrainingDivergedError, UserError

SELECTION_METRIC = "validation_auc"
"""what chooses the epoch: Kaggle's own measure, and on a few thousand reviews a steadier one than the accuracy"""


def compute_metrics(labels: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Accuracy at one half, area under the ROC curve and mean log loss on a validation part.

    Raises `UserError` where the labels are of one class, and `TrainingDivergedError` where a probability is not a number.
    """
    from sklearn.metrics import log_loss, roc_auc_score

    if len(np.unique(labels)) < 2:
        raise UserError(f"the {len(labels)} reviews to validate on are of one class only: use more reviews")
    if not np.isfinite(probability).all():
        raise TrainingDivergedError(
            "the model's probabilities in validation are not numbers: try a lower --learning-rate or --precision fp32"
        )
    return {
        "validation_accuracy": float(((probability > 0.5) == labels).mean()),
        "validation_auc": float(roc_auc_score(labels, probability)),
        "validation_loss": float(log_loss(labels, probability)),
    }


RATED = re.compile(r'^"?(\d+)_(\d+)"?$')
POSITIVE_FROM = 5  # stars; Maas et al. 2011 took reviews of at most 4 and of at least 7
Z95 = 1.96  # standard normal quantile of a two-sided 95% interval


@dataclass(frozen=True)
class Score:
    """Figures of one submission on `reviews` test reviews."""

    accuracy: float
    auc: float
    reviews: int

    @property
    def interval(self) -> float:
        """Half-width of the accuracy's 95% interval (normal approximation of the binomial)."""
        return half_width(self.accuracy, self.reviews)

    def describe(self) -> str:
        """One line for the end of a run."""
        return f"accuracy {self.accuracy:.5f} ± {self.interval:.4f}, ROC AUC {self.auc:.5f} on {self.reviews:,} reviews"


def half_width(accuracy: float, reviews: int) -> float:
    """Half-width of the 95% interval of an accuracy measured on so many reviews."""
    return Z95 * (accuracy * (1 - accuracy) / reviews) ** 0.5


def true_labels(ids: list[str]) -> np.ndarray | None:
    """Labels (n,) by the star rating in each id, or None where an id has none."""
    matches = [RATED.match(id) for id in ids]
    if not matches or not all(matches):
        return None
    return np.array([int(match.group(2)) >= POSITIVE_FROM for match in matches], dtype=np.int64)


def score_test(ids: list[str], values: np.ndarray) -> Score | None:
    """Scores probabilities or labels (n,) in the order of `ids`; None where the ids do not tell both classes."""
    from sklearn.metrics import accuracy_score, roc_auc_score

    labels = true_labels(ids)
    if labels is None or len(np.unique(labels)) < 2:
        return None
    return Score(accuracy_score(labels, values > 0.5), roc_auc_score(labels, values), len(labels))
