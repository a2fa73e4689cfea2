"""Paragraph vectors: a vector for each review that foretells its terms, and a linear classifier over it (Le & Mikolov 2014).

The vectors are learned without labels, in the distributed bag of words (section 2.3). Terms are words, pairs and triples as in
Li et al. 2016, and the classifier sees a vector's direction alone, which Thongtan & Phienthrakul 2019 found best for reviews.
"""

from dataclasses import dataclass

from popcorn.config import RunConfig, parse


@dataclass
class Config(RunConfig):
    """What this model adds to the options of all scripts."""

    ngrams: int = 3
    """longest run of words that counts as a term"""
    min_reviews: int = 5
    """terms of fewer reviews, labelled or not, are left out"""
    width: int = 200
    """of a vector"""
    epochs: int = 10
    """passes over all training reviews, and as many over one whose vector is asked for later"""
    learning_rate: float = 0.05
    """of the first step; it falls to nearly zero along a line"""
    negative: int = 5
    """terms drawn at random for each one that is there"""
    sample: float = 1e-4
    """terms more frequent than this are skipped now and then (Mikolov et al. 2013, section 2.3); 0 for never"""
    c: float = 1.0
    """inverse strength of the classifier's L2 penalty"""


if __name__ == "__main__":
    config = parse(Config)

import os
import tempfile
from copy import copy
from functools import cached_property
from pathlib import Path

import numpy as np
from gensim.models.doc2vec import Doc2Vec, train_document_dbow
from joblib import Parallel, delayed
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer
from tqdm import tqdm

from popcorn.linear import run
from popcorn.progress import EpochBar

LAST_RATE = 1e-4
CHUNK = 250  # reviews that a thread takes at once


class ParagraphVectors(TransformerMixin, BaseEstimator):
    """Counts of terms to vectors d with the largest sum over a review's terms t of log s(v_t d) + sum_n log s(-v_n d).

    s is the logistic function, v_t the vector of the term and v_n those of `negative` terms drawn at random (Mikolov et al. 2013,
    equation 4). `fit` learns the terms' vectors; `transform` holds them fast and descends to each review's anew, so that a
    review which `fit` has seen is not told from one that it has not. To be fitted once.
    """

    def __init__(self, width: int, epochs: int, learning_rate: float, negative: int, sample: float, seed: int):
        self.width, self.epochs, self.learning_rate = width, epochs, learning_rate
        self.negative, self.sample, self.seed = negative, sample, seed

    def fit(self, counts: csr_matrix, labels: None = None) -> "ParagraphVectors":
        """counts (reviews, terms); learns `vectors_` (terms, width), and keeps `counts_` (terms,), by which terms are drawn."""
        order = np.random.default_rng(self.seed).permutation(counts.shape[0])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reviews.txt"
            with path.open("w") as file:
                file.writelines(" ".join(terms_of(counts[row])) + "\n" for row in order)
            bar = EpochBar("Training paragraph vectors", self.epochs)
            model = Doc2Vec(
                corpus_file=str(path), workers=os.cpu_count() or 1, callbacks=[bar], min_alpha=LAST_RATE, **self._options()
            )
        self.vectors_ = model.syn1neg[self._rows(model, counts.shape[1])].astype(np.float16)
        self.counts_ = np.asarray(counts.sum(0)).ravel()
        return self

    def transform(self, counts: csr_matrix) -> np.ndarray:
        """(reviews, terms) -> float32 (reviews, width); a review without a known term has a vector of zeros."""
        chunks = [counts[start : start + CHUNK] for start in range(0, counts.shape[0], CHUNK)]
        model = self._model  # before there are threads that would all make it
        threads = Parallel(n_jobs=-1, prefer="threads", return_as="generator")
        found = threads(delayed(self._descend)(copy(model), chunk) for chunk in chunks)
        return np.concatenate(list(tqdm(found, "Vectors of reviews", len(chunks), disable=len(chunks) < 2)))

    def _descend(self, model: Doc2Vec, counts: csr_matrix) -> np.ndarray:
        vectors = np.zeros((counts.shape[0], self.width), np.float32)
        work, free = np.zeros(self.width, np.float32), np.ones(1, np.float32)
        for vector, row in zip(vectors, counts, strict=True):
            model.random = np.random.RandomState(self.seed)  # of this copy: no other thread or review draws from it
            terms = terms_of(row)
            for rate in np.linspace(self.learning_rate, LAST_RATE, self.epochs):
                train_document_dbow(
                    model, terms, [0], rate, work, learn_words=False, learn_hidden=False, doctag_vectors=vector[None],
                    doctags_lockf=free,
                )  # fmt: skip
        return vectors

    @cached_property
    def _model(self) -> Doc2Vec:
        """What was fitted, made anew of what is kept of it."""
        model = Doc2Vec(**self._options())
        model.build_vocab_from_freq({str(term): int(count) for term, count in enumerate(self.counts_)})
        model.syn1neg[self._rows(model, len(self.counts_))] = self.vectors_
        return model

    def _rows(self, model: Doc2Vec, terms: int) -> list[int]:
        """Where gensim, which sorts them by frequency, has put the terms."""
        return [model.wv.key_to_index[str(term)] for term in range(terms)]

    def _options(self) -> dict:
        return {
            "dm": 0, "dbow_words": 0, "hs": 0, "negative": self.negative, "sample": self.sample, "min_count": 1,
            "vector_size": self.width, "epochs": self.epochs, "alpha": self.learning_rate, "seed": self.seed,
        }  # fmt: skip


def terms_of(counts: csr_matrix) -> list[str]:
    """The numbers of one review's terms, each as often as it stands there: counts (1, terms)."""
    return [str(term) for term in np.repeat(counts.indices, counts.data)]


def model(config: Config) -> Pipeline:
    """Texts to probabilities. Every mark of punctuation is a word."""
    terms = CountVectorizer(
        token_pattern=r"\w+(?:'\w+)?|[^\w\s]", ngram_range=(1, config.ngrams), min_df=config.min_reviews, dtype=np.int32
    )
    vectors = ParagraphVectors(config.width, config.epochs, config.learning_rate, config.negative, config.sample, config.seed)
    return make_pipeline(terms, vectors, Normalizer(), LogisticRegression(C=config.c, max_iter=1_000))


if __name__ == "__main__":
    run(model, config, unsupervised=2)
