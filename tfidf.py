"""Logistic regression over TF-IDF of words and word pairs: the baseline for all other models.

Term weights as in Sparck Jones 1972 and Salton & Buckley 1988, with logarithmic counts.
"""

from dataclasses import dataclass

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from popcorn.config import Count, Positive, RunConfig, parse
from popcorn.runs.run import run
from popcorn.training.sklearn_pipeline import SklearnTrainer, TextTask


@dataclass
class Config(RunConfig):
    """This model's options, in addition to those of all scripts."""

    ngrams: Count = 2
    """maximum number of words in a term"""
    min_df: Count = 2
    """minimum number of reviews that contain a term"""
    c: Positive = 5.0
    """inverse strength of the L2 penalty"""


def build_pipeline(config: Config) -> Pipeline:
    """Texts to probabilities. Punctuation marks are words: "!", "?" and "(" carry sentiment."""
    terms = TfidfVectorizer(
        token_pattern=r"\w+(?:'\w+)?|[^\w\s]", ngram_range=(1, config.ngrams), min_df=config.min_df, sublinear_tf=True
    )
    return make_pipeline(terms, LogisticRegression(C=config.c, max_iter=1_000, random_state=config.seed))


if __name__ == "__main__":
    run(TextTask(build_pipeline, parse(Config)), SklearnTrainer())
