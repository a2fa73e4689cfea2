"""Predictors: the probability that a text is positive, and each word's contribution to it."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.sparse import csr_matrix, vstack
from scipy.special import expit

from popcorn.config import RunConfig
from popcorn.data.word_tokenizer import clean, tokenize, tokenize_all
from popcorn.errors import log
from popcorn.models import stacker
from popcorn.utils.packages import MissingPackage, needs

FEW = 50  # texts: for fewer, starting processes takes longer than tokenizing
STEPS = 32  # of integrated gradients; their sum is then accurate to a few percent


class Predictor(Protocol):
    """A trained model that predicts texts."""

    def probability(self, texts: list[str]) -> np.ndarray:
        """The probability that each text is positive, float64 (texts,)."""

    def explain(self, text: str) -> list[tuple[str, float]]:
        """The words of the text, each with its contribution to the log-odds of positive."""


class Mean:
    """The mean of several trained models, one per split."""

    def __init__(self, models: list[Predictor]):
        self.models = models

    def probability(self, texts: list[str]) -> np.ndarray:
        return np.mean([model.probability(texts) for model in self.models], axis=0)

    def explain(self, text: str) -> list[tuple[str, float]]:
        """Explains the first model; all models have the same words."""
        return self.models[0].explain(text)


class Stacked:
    """The members of an ensemble, and the logistic regression on their log-odds.

    It predicts single reviews too, unlike a mean of ranks, which needs all reviews at once.
    """

    def __init__(self, members: list[Predictor], coef: np.ndarray, intercept: float):
        """coef: (members,)"""
        self.members, self.coef, self.intercept = members, coef, intercept

    def probability(self, texts: list[str]) -> np.ndarray:
        return self.combine([member.probability(texts) for member in self.members])

    def combine(self, probabilities: list[np.ndarray]) -> np.ndarray:
        """(reviews,) of each member -> (reviews,)"""
        return expit(stacker.log_odds(probabilities) @ self.coef + self.intercept)

    def explain(self, text: str) -> list[tuple[str, float]]:
        """Explains the member with the largest weight, since members divide a text into different words."""
        largest = int(np.abs(self.coef).argmax())
        return [(word, weight * float(self.coef[largest])) for word, weight in self.members[largest].explain(text)]


class Linear:
    """scikit-learn pipelines from texts to classes; several of them may share their first steps."""

    def __init__(self, common, fits: list):
        """common: pipeline of the shared steps, maybe empty; fits: the remaining steps."""
        self.common, self.fits = common, fits

    def probability(self, texts: list[str]) -> np.ndarray:
        features = [clean(text) for text in texts]
        if len(self.common):
            features = self.common.transform(features)
        return np.mean([fit.predict_proba(features)[:, 1] for fit in self.fits], axis=0)

    def explain(self, text: str) -> list[tuple[str, float]]:
        """Divides each term's contribution equally among its occurrences and their words.

        With paragraph vectors, the contribution of a term is that of its term weights. With further features, it is what the
        log-odds lose without the term.
        """
        from sklearn.pipeline import Pipeline

        pipeline = Pipeline([*self.common.steps, *self.fits[0].steps])
        terms, coef = pipeline[0], pipeline[-1].coef_[0]
        words = terms.build_tokenizer()(clean(text))
        row = terms.transform([clean(text)])
        if hasattr(pipeline[1], "term_weights"):
            contributions = row.data * (pipeline[1].term_weights(row.indices) @ coef)
        elif len(coef) > row.shape[1]:  # there are features that are not of one term
            contributions = contributions_of_absence(pipeline[1:], row)
        else:
            row = pipeline[:-1].transform([clean(text)])
            contributions = row.data * coef[row.indices]
        contribution = dict(zip(row.indices, contributions, strict=True))
        shortest, longest = terms.ngram_range
        occurrences: dict[int, list[tuple[int, int]]] = {}
        for size in range(shortest, longest + 1):
            for start in range(len(words) - size + 1):
                term = terms.vocabulary_.get(" ".join(words[start : start + size]))
                if term is not None:
                    occurrences.setdefault(term, []).append((start, size))
        attributions = np.zeros(len(words))
        for term, spans in occurrences.items():
            for start, size in spans:
                attributions[start : start + size] += contribution.get(term, 0.0) / len(spans) / size
        return list(zip(words, attributions.tolist(), strict=True))


def contributions_of_absence(steps, row: csr_matrix) -> np.ndarray:
    """What the log-odds lose without each of a review's terms, (terms in the review,).

    This is occlusion (Zeiler & Fergus 2014). steps: a fitted pipeline; row (1, terms).
    """
    without = vstack([row] * row.nnz, format="csr")
    without.data[:: row.nnz + 1] = 0  # the n-th row without its n-th term
    without.eliminate_zeros()
    return steps.decision_function(row) - steps.decision_function(without)


class Neural:
    """A PyTorch module on padded batches of token ids."""

    def __init__(
        self, model: Callable, module, embedding, encode: Callable, words_of: Callable, num_special_tokens: int,
        num_after: int | None = None,
    ):  # fmt: skip
        """`model`: tokens and lengths to a logit (batch,), by `module`. `encode`: texts to `EncodedReviews`.

        `words_of`: a text to its words after truncation, each with its number of tokens. `num_special_tokens`: tokens before a
        review ([CLS] or a prompt's). `num_after`: tokens after it, where their number is another.
        """
        self.model, self.module, self.embedding, self.encode, self.words_of = model, module, embedding, encode, words_of
        self.num_before = num_special_tokens
        self.num_after = num_special_tokens if num_after is None else num_after
        self.device = embedding.weight.device
        self.is_unexplained = False

    def move_to(self, device) -> None:
        """Moves the module; a quantized one is on the GPU from its start."""
        if self.device.type != device.type:
            self.module.to(device)
            self.device = device

    def probability(self, texts: list[str]) -> np.ndarray:
        import torch

        from popcorn.data.batching import sorted_batches
        from popcorn.training.memory import Pieces

        reviews, pieces = self.encode(texts), Pieces()
        probability = np.zeros(len(reviews))

        def positive(rows: np.ndarray) -> np.ndarray:
            tokens, lengths = reviews.batch(rows)
            return torch.sigmoid(self.model(tokens.to(self.device), lengths.to(self.device)).double()).cpu().numpy()

        with torch.no_grad():
            for batch in sorted_batches(np.arange(len(reviews)), reviews.lengths, 128):
                for rows, values in pieces.predict(positive, batch):
                    probability[rows] = values
        return probability

    def explain(self, text: str) -> list[tuple[str, float]]:
        """Integrated gradients (Sundararajan et al. 2017), summed over each word's vectors.

        The baseline is a review of padding. captum computes them; without it all are zero, and a message says so once.
        """
        reviews, words = self.encode([text]), self.words_of(text)
        try:
            with needs("captum", "showing which words moved the result"):
                from captum.attr import LayerIntegratedGradients
        except MissingPackage as problem:
            if not self.is_unexplained:
                log(str(problem))
            self.is_unexplained = True
            return [(word, 0.0) for word, _ in words]
        tokens, lengths = (part.to(self.device) for part in reviews.batch(np.array([0])))
        inside = slice(self.num_before, tokens.shape[1] - self.num_after)
        baseline = tokens.clone()
        baseline[:, inside] = reviews.padding
        method = LayerIntegratedGradients(lambda tokens: self.model(tokens, lengths.expand(len(tokens))), self.embedding)
        attributions = method.attribute(tokens, baseline, n_steps=STEPS, internal_batch_size=8).sum(-1)[0]
        starts = np.cumsum([0, *(num_tokens for _, num_tokens in words)])[:-1]
        by_word = np.add.reduceat(attributions[inside].detach().cpu().numpy(), starts) if words else []
        return [(word, float(weight)) for (word, _), weight in zip(words, by_word, strict=True)]


def tokenized(texts: list[str]) -> Iterable[list[str]]:
    """Each text's words; many texts use all CPU cores."""
    if len(texts) < FEW:
        return [tokenize(text) for text in texts]
    words, tokens, offsets = tokenize_all(texts)
    return [[words[token] for token in review] for review in np.split(tokens, offsets[1:-1])]


def load_hf_predictor(model, config: RunConfig, folder: Path) -> Neural:
    """A fine-tuned model with its tokenizer."""
    from transformers import PreTrainedModel

    from popcorn.data.batching import EncodedReviews
    from popcorn.data.subword_tokenizer import add_special_tokens, tokenize_texts, words_of
    from popcorn.models.layers import mask_of
    from popcorn.models.tokenizer import read_tokenizer
    from popcorn.training.hf_trainer import log_odds

    tokenizer = read_tokenizer(folder)
    model.eval()

    def encode(texts: list[str]) -> EncodedReviews:
        contents = [np.array(ids, np.int32) for ids in tokenize_texts(texts, tokenizer)]
        return EncodedReviews(
            add_special_tokens(contents, tokenizer, config.max_length), config.max_length, tokenizer.pad_token_id
        )

    def logit(tokens, lengths):
        if not hasattr(model, "config"):  # our own module on an encoder, which takes lengths
            return model(tokens, lengths)
        mask = mask_of(lengths, tokens.shape[1]).long()
        return log_odds(model(input_ids=tokens, attention_mask=mask).logits)

    inner = model if hasattr(model, "get_input_embeddings") else next(
        each for each in model.modules() if isinstance(each, PreTrainedModel)
    )  # fmt: skip
    words = partial(words_of, tokenizer=tokenizer, max_length=config.max_length)
    return Neural(logit, model, inner.get_input_embeddings(), encode, words, num_special_tokens=1)


def load_prompt_predictor(model, prompt, examples: np.ndarray, prior: float = 0.0) -> Neural:
    """A decoder that classifies by label words, with a prompt after the tokens of `examples`.

    `prior`: log-odds without a review, which are subtracted.
    """
    from popcorn.data.batching import EncodedReviews
    from popcorn.data.subword_tokenizer import tokenize_texts, words_of
    from popcorn.models.layers import mask_of
    from popcorn.training.hf_trainer import log_odds

    model.eval()

    def encode(texts: list[str]) -> EncodedReviews:
        return prompt.encode([np.array(ids, np.int32) for ids in tokenize_texts(texts, prompt.tokenizer)], examples)

    def logit(tokens, lengths):
        return log_odds(model(input_ids=tokens, attention_mask=mask_of(lengths, tokens.shape[1]).long()).logits) - prior

    words = partial(words_of, tokenizer=prompt.tokenizer, max_length=prompt.room + 2)
    num_before = len(prompt.start) + len(examples) + len(prompt.before)
    return Neural(logit, model, model.get_input_embeddings(), encode, words, num_before, len(prompt.after))
