"""Document vectors by cosine similarity, and naive Bayes n-grams: DV-ngrams-cosine (Thongtan & Phienthrakul 2019).

A review's vector predicts the review's terms by its cosine with the terms' vectors (section 3). The vectors are trained without
labels. A logistic regression classifies each review by its vector and by its terms, which are scaled by naive Bayes ratios. Zhang
& Arefyev 2022 corrected the published accuracy of this pair, 0.9742, to 0.9368.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags_array, hstack
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize
from torch.optim.lr_scheduler import LinearLR
from tqdm import tqdm

from popcorn.config import Count, Positive, Probability, RunConfig, parse
from popcorn.runs.run import run
from popcorn.training.sklearn_pipeline import SklearnTrainer, TextTask


@dataclass
class Config(RunConfig):
    """This model's options, in addition to those of all scripts."""

    ngrams: Count = 3
    """maximum number of words in a term"""
    min_df: Count = 5
    """minimum number of reviews, labeled or not, that contain a term"""
    vector_size: Count = 300
    """dimension of the vectors"""
    epochs: Count = 5
    """number of epochs over all training reviews"""
    batch_size: Count = 32
    """reviews per optimizer step"""
    learning_rate: Positive = 0.1
    """initial learning rate of AdaGrad for the terms' vectors; it decreases to 0"""
    scale: Positive = 6.0
    """factor of the cosine (alpha in the paper)"""
    negative: Positive = 5.0
    """number of negative samples per term: a weight, since none are drawn"""
    sample: Probability = 1e-4
    """threshold for downsampling frequent terms, as in the code of word2vec (Mikolov et al. 2013); 0 turns it off"""
    vector_weight: Positive = 5.0
    """norm of the review's vector among the classifier's features"""
    alpha: Positive = 1.0
    """smoothing of the counts in the naive Bayes ratios (alpha in Wang & Manning 2012)"""
    c: Positive = 0.05
    """inverse strength of the classifier's L2 penalty"""
    transductive: bool = False
    """train the vectors on the texts of the test reviews too, without labels, as the papers do"""

    def prepare(self, script: str) -> None:
        """A transductive run has a different name."""
        super().prepare(script + ("-transductive" if self.transductive else ""))


STEPS, RATE = 5, 0.1
"""number of Adam's steps that infer the reviews' vectors, and their initial learning rate"""
INFERENCE_BATCH, NUM_SAMPLES = 16, 1_000
"""reviews in a batch of `transform`: few, because its time grows with their number times that of their different terms; and the
number of negative samples, the same for all reviews"""


def loss_of(reviews: Tensor, terms: Tensor, counts: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """Negative log-likelihood, summed (section 3.2): reviews (reviews, width) and unit vectors terms (terms, width) -> scalar.

    counts and negatives (reviews, terms): expected number of each term in the review, and among its negative samples.
    """
    scores = scale * normalize(reviews) @ terms.T
    return -(counts * logsigmoid(scores) + negatives * logsigmoid(-scores)).sum()


def infer(terms: Tensor, counts: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """The reviews' vectors for fixed terms, (reviews, width), by a few steps of Adam; arguments as in `loss_of`.

    They start from the sum of the reviews' terms.
    """
    reviews = normalize(counts @ terms).requires_grad_()
    optimizer = torch.optim.Adam([reviews], RATE)
    scheduler = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=STEPS)
    for _ in range(STEPS):
        (reviews.grad,) = torch.autograd.grad(loss_of(reviews, terms, counts, negatives, scale), reviews)
        optimizer.step()
        scheduler.step()
    return normalize(reviews.detach())


class CosineVectors(TransformerMixin, BaseEstimator):
    """Terms of reviews to the reviews' vectors, followed by the terms.

    The paper trains the vectors of reviews and terms together, for 120 epochs. Here the vectors of a batch's reviews are inferred
    first, from the current terms. The terms then take one step.
    """

    def __init__(
        self, vector_size: int, epochs: int, batch_size: int, learning_rate: float, scale: float, negative: float, sample: float,
        seed: int,
    ):  # fmt: skip
        self.vector_size, self.epochs, self.batch_size, self.learning_rate = vector_size, epochs, batch_size, learning_rate
        self.scale, self.negative, self.sample, self.seed = scale, negative, sample, seed

    def fit(self, features: csr_matrix, labels: None = None) -> "CosineVectors":
        """features (reviews, terms) of 0 and 1; sets `vectors_` float16 (terms, vector size) and `counts_` (terms,)."""
        generator = torch.Generator().manual_seed(self.seed)
        self.counts_ = np.asarray(features.sum(0)).ravel()
        vectors = torch.randn(features.shape[1], self.vector_size, generator=generator) / self.vector_size**0.5
        embedding = nn.Embedding.from_pretrained(vectors, freeze=False, sparse=True)
        torch.sparse.check_sparse_tensor_invariants.disable()  # the default, without torch's warning
        optimizer = torch.optim.Adagrad(embedding.parameters(), self.learning_rate)
        steps = self.epochs * -(-features.shape[0] // self.batch_size)
        scheduler = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)
        with tqdm(total=steps, desc="Training document vectors", unit="batch") as bar:
            for _ in range(self.epochs):
                for rows in torch.randperm(features.shape[0], generator=generator).split(self.batch_size):
                    counts, terms = self._batch_terms(features[rows.numpy()])
                    # the power -1/4 turns a frequency into the usual power 3/4
                    noise = counts.sum(0) * torch.from_numpy(self.counts_[terms]) ** -0.25
                    negatives = self.negative * counts.sum(1, keepdim=True) * noise / noise.sum()
                    vectors = normalize(embedding(torch.from_numpy(terms)))
                    reviews = infer(vectors.detach(), counts, negatives, self.scale)
                    loss_of(reviews, vectors, counts, negatives, self.scale).backward()
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                    bar.update()
        self.vectors_ = normalize(embedding.weight.detach()).half().numpy()
        return self

    def transform(self, features: csr_matrix) -> csr_matrix:
        """(reviews, terms) -> (reviews, vector size + terms)

        A review without a known term has a vector of zeros.
        """
        cumulative = (self.counts_.astype(np.float64) ** 0.75).cumsum()
        samples = np.searchsorted(cumulative, (np.arange(NUM_SAMPLES) + 0.5) / NUM_SAMPLES * cumulative[-1])
        samples = torch.from_numpy(self.vectors_[samples]).float()
        vectors = np.zeros((features.shape[0], self.vector_size), np.float32)
        by_length = np.argsort(np.diff(features.indptr), kind="stable")
        batches = np.split(by_length, range(INFERENCE_BATCH, len(by_length), INFERENCE_BATCH))
        for rows in tqdm(batches, "Vectors of reviews", disable=len(batches) < 2, unit="batch"):
            counts, terms = self._batch_terms(features[rows])
            negatives = self.negative / NUM_SAMPLES * counts.sum(1, keepdim=True).expand(-1, NUM_SAMPLES)
            vectors[rows] = infer(
                torch.cat([torch.from_numpy(self.vectors_[terms]).float(), samples]),
                torch.cat([counts, torch.zeros_like(negatives)], dim=1),
                torch.cat([torch.zeros_like(counts), negatives], dim=1),
                self.scale,
            )
        return hstack([csr_matrix(vectors), features], format="csr")

    def _batch_terms(self, features: csr_matrix) -> tuple[Tensor, np.ndarray]:
        """Expected counts of the batch's terms after downsampling, (reviews, terms), and their columns in `features`, (terms,).

        Each count is multiplied by the probability of keeping its term.
        """
        terms, columns = np.unique(features.indices, return_inverse=True)
        counts = csr_matrix((features.data, columns, features.indptr), (features.shape[0], len(terms))).toarray()
        if self.sample:
            ratio = self.sample * self.counts_.sum() / self.counts_[terms]
            counts = counts * np.minimum(1, np.sqrt(ratio) + ratio)
        return torch.from_numpy(counts).float(), terms


class NaiveBayesWeights(TransformerMixin, BaseEstimator):
    """Multiplies each term by its log-count ratio (Wang & Manning 2012), and the vector by its weight."""

    def __init__(self, vector_size: int, vector_weight: float, alpha: float):
        self.vector_size, self.vector_weight, self.alpha = vector_size, vector_weight, alpha

    def fit(self, features: csr_matrix, labels: np.ndarray) -> "NaiveBayesWeights":
        """features (reviews, vector size + terms), labels (reviews,); sets `ratio_` (vector size + terms,)."""
        terms = features[:, self.vector_size :]
        positive, negative = (self.alpha + np.asarray(terms[labels == label].sum(0)).ravel() for label in (1, 0))
        ratio = np.log(positive / positive.sum()) - np.log(negative / negative.sum())
        self.ratio_ = np.concatenate([np.full(self.vector_size, self.vector_weight), ratio])
        return self

    def transform(self, features: csr_matrix) -> csr_matrix:
        """(reviews, vector size + terms) -> (reviews, vector size + terms)"""
        return features @ diags_array(self.ratio_)


def build_pipeline(config: Config) -> Pipeline:
    """Texts to probabilities; punctuation marks are words."""
    terms = CountVectorizer(
        token_pattern=r"\w+(?:'\w+)?|[^\w\s]", ngram_range=(1, config.ngrams), min_df=config.min_df, binary=True, dtype=np.float32
    )
    vectors = CosineVectors(
        config.vector_size, config.epochs, config.batch_size, config.learning_rate, config.scale, config.negative, config.sample,
        config.seed,
    )  # fmt: skip
    classifier = LogisticRegression(C=config.c, solver="liblinear", dual=True, max_iter=1_000, random_state=config.seed)
    return make_pipeline(terms, vectors, NaiveBayesWeights(config.vector_size, config.vector_weight, config.alpha), classifier)


if __name__ == "__main__":
    config = parse(Config)
    run(TextTask(build_pipeline, config, unsupervised=2, transductive=config.transductive), SklearnTrainer())
