"""Paragraph vectors: a vector for each review that foretells its terms, and a linear classifier over it (Le & Mikolov 2014).

The vectors are learned without labels, as a distributed bag of words (section 2.3) with negative sampling. Terms are words,
pairs and triples as in Li et al. 2016, "Learning Document Embeddings by Predicting N-grams". The classifier sees the vector's
direction alone; Thongtan & Phienthrakul 2019 go further and train by the cosine.
"""

import tempfile
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from joblib import Parallel, cpu_count, delayed
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer
from tqdm import tqdm

from popcorn.config import Count, Positive, Probability, RunConfig, parse
from popcorn.runs.run import run
from popcorn.training.sklearn_pipeline import SklearnTrainer, TextTask
from popcorn.utils.packages import needs
from popcorn.utils.progress import EpochBar


@dataclass
class Config(RunConfig):
    """What this model adds to the options of all scripts."""

    ngrams: Count = 3
    """longest run of words that counts as a term"""
    min_df: Count = 5
    """terms of fewer reviews, labeled or not, are left out"""
    vector_size: Count = 200
    """of a vector"""
    epochs: Count = 10
    """passes over all training reviews, and as many over one whose vector is asked for later"""
    learning_rate: Positive = 0.05
    """of the first step; it falls to nearly zero"""
    negative: Count = 5
    """terms drawn at random for each one that is there"""
    sample: Probability = 1e-4
    """terms of more than some three times this share are skipped now and then (Mikolov et al. 2013, section 2.3); 0: never"""
    c: Positive = 1.0
    """inverse strength of the classifier's L2 penalty"""
    deterministic: bool = False
    """train the vectors with one worker, slower where there are many processors: the same command gives the same submission"""


with needs("gensim", "training paragraph vectors"):
    from gensim.models.doc2vec import Doc2Vec, train_document_dbow

LAST_RATE = 1e-4
CHUNK = 250  # reviews that a thread takes at once


class ParagraphVectors(TransformerMixin, BaseEstimator):
    """Counts of terms to vectors d that make log s(v_t d) + sum_n log s(-v_n d) large for each term t of the review.

    s is the logistic function, v_t the term's vector and v_n those of `negative` terms, drawn by their counts to the power of 3/4
    (Mikolov et al. 2013, equation 4). `fit` learns all vectors together; `transform` keeps those of the terms, `vectors_`,
    and fits each review's anew (section 2.2), in as many passes, whether `fit` has seen it or not.
    """

    workers: int | None = None
    """of the training; as many as there are processors where it is None"""

    def __init__(self, width: int, epochs: int, learning_rate: float, negative: int, sample: float, seed: int):
        self.width, self.epochs, self.learning_rate = width, epochs, learning_rate
        self.negative, self.sample, self.seed = negative, sample, seed

    def fit(self, counts: csr_matrix, labels: None = None) -> "ParagraphVectors":
        """counts (reviews, terms); learns `vectors_` float16 (terms, width), and keeps `counts_` (terms,). To be called once.

        Several workers write to the same vectors: only with one of them does it repeat exactly.
        """
        generator = np.random.default_rng(self.seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reviews.txt"  # as numbers, since terms hold blanks; from a file gensim reads without Python
            with path.open("w") as file:
                for row in generator.permutation(counts.shape[0]):
                    file.write(" ".join(terms_of(counts[row], generator)) + "\n")
            bar = EpochBar("Training paragraph vectors", self.epochs)
            workers = self.workers or cpu_count()
            model = Doc2Vec(corpus_file=str(path), workers=workers, callbacks=[bar], min_alpha=LAST_RATE, **self._options())
        self.vectors_ = model.syn1neg.astype(np.float16)[self._rows(model, counts.shape[1])]
        self.counts_ = np.asarray(counts.sum(0)).ravel()
        return self

    def transform(self, counts: csr_matrix) -> np.ndarray:
        """(reviews, terms) -> float32 (reviews, width); a review without a known term has a vector of zeros."""
        chunks = [counts[start : start + CHUNK] for start in range(0, counts.shape[0], CHUNK)]
        model = self._model  # before there are threads that would all make it
        threads = Parallel(n_jobs=-1, prefer="threads", return_as="generator")
        found = threads(delayed(self._infer)(copy(model), chunk) for chunk in chunks)
        return np.concatenate(
            list(tqdm(found, "Vectors of reviews", len(chunks), disable=len(chunks) < 2, unit=f"{CHUNK} reviews"))
        )

    def pull(self, terms: np.ndarray) -> np.ndarray:
        """Where each of the terms (n,) draws a vector that is zero, (n, width): twice the expected gradient there."""
        share = self.counts_[terms] / self.counts_.sum()
        kept = np.minimum(1, np.sqrt(self.sample / share) + self.sample / share) if self.sample else np.ones(len(terms))
        return kept[:, None] * (self.vectors_[terms] - self.negative * self._noise)

    def _infer(self, model: Doc2Vec, counts: csr_matrix) -> np.ndarray:
        """What gensim's `infer_vector` does, which begins at a vector that differs from process to process."""
        vectors = np.zeros((counts.shape[0], self.width), np.float32)
        work, free = np.zeros(self.width, np.float32), np.ones(1, np.float32)
        for vector, row in zip(vectors, counts, strict=True):
            model.random = np.random.RandomState(self.seed)  # of this copy: no other thread or review draws from it
            terms = terms_of(row, np.random.default_rng(self.seed))
            for rate in np.linspace(self.learning_rate, LAST_RATE, self.epochs):
                train_document_dbow(
                    model, terms, [0], rate, work, learn_words=False, learn_hidden=False, doctag_vectors=vector[None],
                    doctags_lockf=free,
                )  # fmt: skip
        return vectors

    @cached_property
    def _model(self) -> Doc2Vec:
        """gensim's, of what is kept: after `fit` the same, bit for bit, as where it is restored."""
        model = Doc2Vec(**self._options())
        model.build_vocab_from_freq({str(term): int(count) for term, count in enumerate(self.counts_)})
        model.syn1neg[self._rows(model, len(self.counts_))] = self.vectors_
        return model

    @cached_property
    def _noise(self) -> np.ndarray:
        """The mean of what is drawn at random, (width,)."""
        return np.average(self.vectors_.astype(np.float32), axis=0, weights=self.counts_**0.75)

    def _rows(self, model: Doc2Vec, terms: int) -> list[int]:
        """Where gensim, which sorts them by frequency, has put the terms."""
        return [model.wv.key_to_index[str(term)] for term in range(terms)]

    def _options(self) -> dict:
        return {
            "dm": 0, "dbow_words": 0, "hs": 0, "negative": self.negative, "sample": self.sample, "min_count": 1,
            "vector_size": self.width, "epochs": self.epochs, "alpha": self.learning_rate, "seed": self.seed,
        }  # fmt: skip


class RepeatableParagraphVectors(ParagraphVectors):
    """The same with one worker: the vectors of every run are the same. Its name keeps the two apart in the cache."""

    workers = 1


def terms_of(counts: csr_matrix, generator: np.random.Generator) -> list[str]:
    """The numbers of one review's terms, each as often as it stands there, in any order: counts (1, terms)."""
    return [str(term) for term in generator.permutation(np.repeat(counts.indices, counts.data))]


def build_pipeline(config: Config) -> Pipeline:
    """Texts to probabilities. Every mark of punctuation is a word."""
    terms = CountVectorizer(
        token_pattern=r"\w+(?:'\w+)?|[^\w\s]", ngram_range=(1, config.ngrams), min_df=config.min_df, dtype=np.int32
    )
    kind = RepeatableParagraphVectors if config.deterministic else ParagraphVectors
    vectors = kind(config.vector_size, config.epochs, config.learning_rate, config.negative, config.sample, config.seed)
    return make_pipeline(terms, vectors, Normalizer(), LogisticRegression(C=config.c, max_iter=1_000))


if __name__ == "__main__":
    run(TextTask(build_pipeline, parse(Config), unsupervised=2), SklearnTrainer())
