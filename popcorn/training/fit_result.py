"""popcorn.training.fit_result"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class FitResult:
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
