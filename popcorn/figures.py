"""Figures of merit that every engine reports, and figures of the machine that a record needs."""

import platform
import resource

import numpy as np

from popcorn.errors import Diverged, UserError

BEST = "validation_auc"
"""what chooses the epoch: Kaggle's own measure, and on a few thousand reviews a steadier one than the accuracy"""


def validation_figures(labels: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Accuracy at one half, area under the ROC curve and mean log loss on a validation part.

    Raises `UserError` where the labels are of one class, and `Diverged` where a probability is not a number.
    """
    from sklearn.metrics import log_loss, roc_auc_score

    if len(np.unique(labels)) < 2:
        raise UserError(f"the {len(labels)} reviews to validate on are of one class only: use more reviews")
    if not np.isfinite(probability).all():
        raise Diverged("the model's probabilities in validation are not numbers: try a lower --learning-rate or --precision fp32")
    return {
        "validation_accuracy": float(((probability > 0.5) == labels).mean()),
        "validation_auc": float(roc_auc_score(labels, probability)),
        "validation_loss": float(log_loss(labels, probability)),
    }


def processor() -> str:
    """The processor's name and the number of its cores that this process may use."""
    from joblib import cpu_count  # knows of affinities and containers

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor that does not tell its name
    cores = cpu_count()
    return f"{name}, {cores} core{'s' if cores > 1 else ''}"


def peak_memory() -> int:
    """Bytes: the most main memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
