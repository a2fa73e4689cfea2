"""Paragraph vectors that predict the terms of each review, and a linear classifier.

Le & Mikolov 2014. The vectors are trained without labels, as a distributed bag of words (section 2.3) with negative sampling.
Terms are words, pairs and triples, as in Li et al. 2016, "Learning Document Embeddings by Predicting N-grams". The classifier
uses the normalized vector, so only its direction counts. Thongtan & Phienthrakul 2019 go further and train by the cosine.
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
    """This model's options, in addition to those of all scripts."""

    ngrams: Count = 3
    """maximum number of words in a term"""
    min_df: Count = 5
    """minimum number of reviews, labeled or not, that contain a term"""
    vector_size: Count = 200
    """dimension of the vectors"""
    epochs: Count = 10
    """number of epochs over all training reviews, and over a new review to infer its vector"""
    learning_rate: Positive = 0.05
    """initial learning rate; it decreases to almost 0"""
    negative: Count = 5
    """number of negative samples for each term"""
    sample: Probability = 1e-4
    """threshold for downsampling frequent terms (Mikolov et al. 2013, section 2.3), which starts at about 3 times this
    frequency; 0 turns it off"""
    c: Positive = 1.0
    """inverse strength of the classifier's L2 penalty"""
    deterministic: bool = False
    """train the vectors with one worker, which is slower on several cores: the same command then gives the same submission"""


with needs("gensim", "training paragraph vectors"):
    from gensim.models.doc2vec import Doc2Vec, train_document_dbow

MIN_ALPHA = 1e-4  # final learning rate
CHUNK = 250  # reviews in one thread's batch


class ParagraphVectors(TransformerMixin, BaseEstimator):
    """Term counts to review vectors, by gensim's Doc2Vec.

    For each term t of a review, its vector d makes log s(v_t d) + sum_n log s(-v_n d) large. s is the logistic function and v_t
    the term's vector. The v_n are `negative` terms, sampled by count to the power of 3/4 (Mikolov et al. 2013, equation 4). `fit`
    trains all vectors together, and keeps the terms' vectors in `vectors_`. `transform` infers each review's vector from them
    (section 2.2), with the same number of epochs, for reviews in `fit` too.
    """

    workers: int | None = None
    """number of training workers; None: one per CPU core"""

    def __init__(self, vector_size: int, epochs: int, learning_rate: float, negative: int, sample: float, seed: int):
        self.vector_size, self.epochs, self.learning_rate = vector_size, epochs, learning_rate
        self.negative, self.sample, self.seed = negative, sample, seed

    def fit(self, counts: csr_matrix, labels: None = None) -> "ParagraphVectors":
        """counts (reviews, terms); sets `vectors_` float16 (terms, vector size) and `counts_` (terms,).

        Call it once. It is exactly repeatable only with one worker, since several write to the same vectors.
        """
        generator = np.random.default_rng(self.seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reviews.txt"  # of term ids, since terms have spaces; a file lets gensim work without Python
            with path.open("w") as file:
                for row in generator.permutation(counts.shape[0]):
                    file.write(" ".join(terms_of(counts[row], generator)) + "\n")
            bar = EpochBar("Training paragraph vectors", self.epochs)
            workers = self.workers or cpu_count()
            model = Doc2Vec(corpus_file=str(path), workers=workers, callbacks=[bar], min_alpha=MIN_ALPHA, **self._options())
        self.vectors_ = model.syn1neg.astype(np.float16)[self._rows(model, counts.shape[1])]
        self.counts_ = np.asarray(counts.sum(0)).ravel()
        return self

    def transform(self, counts: csr_matrix) -> np.ndarray:
        """(reviews, terms) -> float32 (reviews, vector size); zeros for a review without a known term."""
        chunks = [counts[start : start + CHUNK] for start in range(0, counts.shape[0], CHUNK)]
        model = self._model  # built here, before several threads would build it
        threads = Parallel(n_jobs=-1, prefer="threads", return_as="generator")
        vectors = threads(delayed(self._infer)(copy(model), chunk) for chunk in chunks)
        return np.concatenate(
            list(tqdm(vectors, "Vectors of reviews", len(chunks), disable=len(chunks) < 2, unit=f"{CHUNK} reviews"))
        )

    def term_weights(self, terms: np.ndarray) -> np.ndarray:
        """Each term's contribution to a review vector, (n, vector size), for terms (n,).

        It is twice the expected gradient at a zero vector.
        """
        frequency = self.counts_[terms] / self.counts_.sum()
        ratio = self.sample / frequency
        kept = np.minimum(1, np.sqrt(ratio) + ratio) if self.sample else np.ones(len(terms))
        return kept[:, None] * (self.vectors_[terms] - self.negative * self._noise)

    def _infer(self, model: Doc2Vec, counts: csr_matrix) -> np.ndarray:
        """Does what gensim's `infer_vector` does, but starts from zero.

        gensim's own start vector differs from process to process.
        """
        vectors = np.zeros((counts.shape[0], self.vector_size), np.float32)
        work, free = np.zeros(self.vector_size, np.float32), np.ones(1, np.float32)
        for vector, row in zip(vectors, counts, strict=True):
            model.random = np.random.RandomState(self.seed)  # of this copy of the model, which no other thread uses
            terms = terms_of(row, np.random.default_rng(self.seed))
            for rate in np.linspace(self.learning_rate, MIN_ALPHA, self.epochs):
                train_document_dbow(
                    model, terms, [0], rate, work, learn_words=False, learn_hidden=False, doctag_vectors=vector[None],
                    doctags_lockf=free,
                )  # fmt: skip
        return vectors

    @cached_property
    def _model(self) -> Doc2Vec:
        """gensim's model, rebuilt from the fitted attributes: the same after `fit` and after loading."""
        model = Doc2Vec(**self._options())
        model.build_vocab_from_freq({str(term): int(count) for term, count in enumerate(self.counts_)})
        model.syn1neg[self._rows(model, len(self.counts_))] = self.vectors_
        return model

    @cached_property
    def _noise(self) -> np.ndarray:
        """Mean vector of the negative samples, (vector size,)."""
        return np.average(self.vectors_.astype(np.float32), axis=0, weights=self.counts_**0.75)

    def _rows(self, model: Doc2Vec, terms: int) -> list[int]:
        """Rows of the terms in gensim's matrix, which is sorted by frequency."""
        return [model.wv.key_to_index[str(term)] for term in range(terms)]

    def _options(self) -> dict:
        return {
            "dm": 0, "dbow_words": 0, "hs": 0, "negative": self.negative, "sample": self.sample, "min_count": 1,
            "vector_size": self.vector_size, "epochs": self.epochs, "alpha": self.learning_rate, "seed": self.seed,
        }  # fmt: skip


class RepeatableParagraphVectors(ParagraphVectors):
    """The same with one worker, so that every run gives the same vectors.

    Its name keeps its cached vectors apart from the others.
    """

    workers = 1


def terms_of(counts: csr_matrix, generator: np.random.Generator) -> list[str]:
    """The ids of one review's terms in random order: counts (1, terms).

    Each id occurs as often as its term.
    """
    return [str(term) for term in generator.permutation(np.repeat(counts.indices, counts.data))]


def build_pipeline(config: Config) -> Pipeline:
    """Texts to probabilities; punctuation marks are words."""
    terms = CountVectorizer(
        token_pattern=r"\w+(?:'\w+)?|[^\w\s]", ngram_range=(1, config.ngrams), min_df=config.min_df, dtype=np.int32
    )
    vectors_class = RepeatableParagraphVectors if config.deterministic else ParagraphVectors
    vectors = vectors_class(config.vector_size, config.epochs, config.learning_rate, config.negative, config.sample, config.seed)
    return make_pipeline(terms, vectors, Normalizer(), LogisticRegression(C=config.c, max_iter=1_000))


if __name__ == "__main__":
    run(TextTask(build_pipeline, parse(Config), unsupervised=2), SklearnTrainer())
