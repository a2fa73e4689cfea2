"""NB-SVM: a linear classifier over n-grams with naive Bayes ratios (Wang & Manning 2012).

Each feature is scaled by its log-count ratio. As in the paper, the features are binary. The classifier is L2-regularized logistic
regression over words, pairs and triples. Mesnil et al. 2015 found this best for these reviews, and it gives probabilities.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, diags_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from popcorn.config import Count, Positive, RunConfig, parse
from popcorn.runs.run import run
from popcorn.training.sklearn_pipeline import SklearnTrainer, TextTask


@dataclass
class Config(RunConfig):
    """This model's options, in addition to those of all scripts."""

    ngrams: Count = 3
    """maximum number of words in a term"""
    min_df: Count = 2
    """minimum number of reviews that contain a term"""
    alpha: Positive = 1.0
    """smoothing of the counts (alpha in the paper)"""
    c: Positive = 1.0
    """inverse strength of the L2 penalty"""


class LogCountRatio(TransformerMixin, BaseEstimator):
    """Multiplies each feature by its log-count ratio r (section 2).

    r = log((p / |p|) / (q / |q|)), where p and q are the smoothed counts in positive and negative reviews.
    """

    def __init__(self, alpha: float):
        self.alpha = alpha

    def fit(self, features: csr_matrix, labels: np.ndarray) -> "LogCountRatio":
        """features (reviews, terms), labels (reviews,) of 0 and 1; sets `ratio_` (terms,)."""
        positive = self.alpha + np.asarray(features[labels == 1].sum(0)).ravel()
        negative = self.alpha + np.asarray(features[labels == 0].sum(0)).ravel()
        self.ratio_ = np.log(positive / positive.sum()) - np.log(negative / negative.sum())
        return self

    def transform(self, features: csr_matrix) -> csr_matrix:
        """(reviews, terms) -> (reviews, terms)"""
        return features @ diags_array(self.ratio_)


def build_pipeline(config: Config) -> Pipeline:
    """Texts to probabilities; punctuation marks are words."""
    terms = CountVectorizer(
        token_pattern=r"\w+(?:'\w+)?|[^\w\s]", ngram_range=(1, config.ngrams), min_df=config.min_df,
        binary=True, dtype=np.float64,
    )  # fmt: skip
    classifier = LogisticRegression(C=config.c, solver="liblinear", dual=True, max_iter=1_000, random_state=config.seed)
    return make_pipeline(terms, LogCountRatio(config.alpha), classifier)


if __name__ == "__main__":
    run(TextTask(build_pipeline, parse(Config)), SklearnTrainer())
