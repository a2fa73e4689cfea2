"""Statistics of two models on the same reviews.

All of them treat the reviews as independent. They say nothing about another seed of the same models.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm, rankdata

from popcorn.metrics import Z95

SIGNIFICANT = 0.05
"""p-value below which a difference counts as more than chance"""
LEAST = 0.0001  # p-value that four digits can show


@dataclass(frozen=True)
class Difference:
    """A metric of the second model minus that of the first."""

    value: float
    low: float
    """lower end of the 95% interval"""
    high: float
    p: float
    """two-sided p-value of no difference"""

    @property
    def relation(self) -> str:
        """What the second model is, to be followed by the first one's name."""
        if self.p >= SIGNIFICANT:
            return "not distinguishable from"
        return "better than" if self.value > 0 else "worse than"

    def cells(self) -> list[str]:
        """Difference, interval and p-value as text."""
        p = f"{self.p:.4f}" if self.p >= LEAST else f"< {LEAST}"
        return [f"{self.value:+.5f}", f"{self.low:+.5f} to {self.high:+.5f}", p]


@dataclass(frozen=True)
class Comparison:
    """Two models on the same reviews; pairs are of the first and the second model."""

    accuracy: tuple[float, float]
    accuracy_difference: Difference
    auc: tuple[float, float] | None
    """ROC AUC; None where one of the two has labels instead of probabilities"""
    auc_difference: Difference | None
    agreement: float
    """fraction of reviews with the same label from both"""
    only_correct: tuple[np.ndarray, np.ndarray]
    """rows of the reviews that only one of the two labels correctly"""


def compare(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> Comparison:
    """Compares two arrays of probabilities or labels, each (reviews,), with the true labels."""
    correct = [(values > 0.5) == labels for values in (first, second)]
    auc, difference = None, None
    if not any(np.isin(values, (0, 1)).all() for values in (first, second)):
        auc, difference = auc_difference(labels, first, second)
    return Comparison(
        accuracy=(float(correct[0].mean()), float(correct[1].mean())),
        accuracy_difference=accuracy_difference(*correct),
        auc=auc,
        auc_difference=difference,
        agreement=float((correct[0] == correct[1]).mean()),
        only_correct=(np.flatnonzero(correct[0] & ~correct[1]), np.flatnonzero(correct[1] & ~correct[0])),
    )


def accuracy_difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """McNemar's exact test, from two arrays bool (reviews,) of correct predictions.

    It is the binomial test on the reviews that only one model classifies correctly (McNemar 1947). The interval is that of
    Agresti & Min 2005: half a review more in each of the four cells, so that it has a width even where all predictions agree.
    """
    reviews, only_first, only_second = len(first), int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    center = (only_second - only_first) / (reviews + 2)
    half_width = Z95 * (((discordant + 1) / (reviews + 2) - center**2) / (reviews + 2)) ** 0.5
    p = binomtest(only_second, discordant).pvalue if discordant else 1.0
    return Difference((only_second - only_first) / reviews, center - half_width, center + half_width, float(p))


def auc_difference(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[tuple[float, float], Difference]:
    """Both areas under the ROC curve, and their difference by DeLong et al. 1988.

    The ranks make it fast (Sun & Xu 2014). There must be at least two reviews of each class.
    """
    placements = [_placements(labels == 1, values) for values in (first, second)]
    auc = tuple(float(positive.mean()) for positive, _ in placements)
    by_class = [second - first for first, second in zip(*placements, strict=True)]
    value = auc[1] - auc[0]
    error = float(sum(each.var(ddof=1) / len(each) for each in by_class)) ** 0.5
    p = float(2 * norm.sf(abs(value) / error)) if error else float(value == 0)
    return auc, Difference(value, value - Z95 * error, value + Z95 * error, p)


def _placements(positive: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of negative reviews below each positive one, and of positive ones above each negative one.

    A tie counts one half. The mean of either is the area under the ROC curve.
    """
    ranks, num_positive = rankdata(values), int(positive.sum())
    below = (ranks[positive] - rankdata(values[positive])) / (len(values) - num_positive)
    above = 1 - (ranks[~positive] - rankdata(values[~positive])) / num_positive
    return below, above
