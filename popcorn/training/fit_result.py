"""The result of training on one split."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class FitResult:
    """Predictions of one trained model, and how it was trained."""

    validation: np.ndarray
    """probabilities (validation reviews,)"""
    test: np.ndarray
    """probabilities (test reviews,)"""
    epoch: int = 0
    """epoch of the weights that predicted"""
    history: list[dict] = field(default_factory=list)
    """metrics of each epoch"""
    reviews_per_second: float = 0.0
    """training speed"""
    complete: bool = True
    """False if the time budget ended the training"""
