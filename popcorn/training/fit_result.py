"""What the training on one split gives."""

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
    """the epoch whose weights predicted"""
    history: list[dict] = field(default_factory=list)
    """metrics of each epoch"""
    reviews_per_second: float = 0.0
    """of training"""
    complete: bool = True
    """False where the time budget ended it"""
