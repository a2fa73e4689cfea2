"""Metrics of validation and test, which all trainers report."""

import re
from dataclasses import dataclass

import numpy as np

from popcorn.errors import TrainingDivergedError, UserError

SELECTION_METRIC = "validation_auc"
"""early stopping selects the epoch by it: it is Kaggle's own metric, and on a few thousand reviews steadier than accuracy"""


def compute_metrics(labels: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Accuracy, area under the ROC curve and mean log loss on a validation set.

    Raises `UserError` where all labels are of one class, and `TrainingDivergedError` where a probability is not finite.
    """
    from sklearn.metrics import log_loss, roc_auc_score

    if len(np.unique(labels)) < 2:
        raise UserError(f"the {len(labels)} reviews to validate on are of one class only: use more reviews")
    if not np.isfinite(probability).all():
        raise TrainingDivergedError(
            "the model's validation probabilities are not numbers: try a lower --learning-rate or --precision fp32"
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
    """Metrics of one submission on `reviews` test reviews."""

    accuracy: float
    auc: float
    reviews: int

    @property
    def interval(self) -> float:
        """Half-width of the accuracy's 95% interval (normal approximation of the binomial)."""
        return half_width(self.accuracy, self.reviews)

    def describe(self) -> str:
        """The score as one line of text."""
        return f"accuracy {self.accuracy:.5f} ± {self.interval:.4f}, ROC AUC {self.auc:.5f} on {self.reviews:,} reviews"


def half_width(accuracy: float, reviews: int) -> float:
    """Half-width of the 95% interval of an accuracy on N reviews."""
    return Z95 * (accuracy * (1 - accuracy) / reviews) ** 0.5


def true_labels(ids: list[str]) -> np.ndarray | None:
    """Labels (n,) from the star rating in each id; None where an id has none."""
    matches = [RATED.match(id) for id in ids]
    if not matches or not all(matches):
        return None
    return np.array([int(match.group(2)) >= POSITIVE_FROM for match in matches], dtype=np.int64)


def score_test(ids: list[str], values: np.ndarray) -> Score | None:
    """Scores probabilities or labels (n,) in the order of `ids`.

    None where the ids do not have the ratings of both classes.
    """
    from sklearn.metrics import accuracy_score, roc_auc_score

    labels = true_labels(ids)
    if labels is None or len(np.unique(labels)) < 2:
        return None
    return Score(accuracy_score(labels, values > 0.5), roc_auc_score(labels, values), len(labels))
