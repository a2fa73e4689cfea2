"""Trained models as something to ask: the probability that a text is positive, and the words that speak for it and against it."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from popcorn.config import RunConfig
from popcorn.data.word_tokenizer import clean, tokenize, tokenize_all
from popcorn.errors import log
from popcorn.utils.packages import MissingPackage, needs

FEW = 50  # texts: to tokenize them takes less time than to start processes for it
STEPS = 32  # of integrated gradients, whose sum is good to some percent with so many


class Predictor(Protocol):
    """A trained model for texts."""

    def probability(self, texts: list[str]) -> np.ndarray:
        """That each text is positive, float64 (texts,)."""

    def words(self, text: str) -> list[tuple[str, float]]:
        """What the model read, word by word, and how much each word moved the log-odds towards positive."""


class Mean:
    """Several fits of one model."""

    def __init__(self, models: list[Predictor]):
        self.models = models

    def probability(self, texts: list[str]) -> np.ndarray:
        return np.mean([model.probability(texts) for model in self.models], axis=0)

    def words(self, text: str) -> list[tuple[str, float]]:
        """Of the first of them: the others read the same words."""
        return self.models[0].words(text)


class Linear:
    """scikit-learn's pipelines from texts to classes, the first steps of which may be common to several fits."""

    def __init__(self, common, fits: list):
        """common: a pipeline of such steps, or of none; fits: the rest of each fit, whose mean counts."""
        self.common, self.fits = common, fits

    def probability(self, texts: list[str]) -> np.ndarray:
        features = [clean(text) for text in texts]
        if len(self.common):
            features = self.common.transform(features)
        return np.mean([fit.predict_proba(features)[:, 1] for fit in self.fits], axis=0)

    def words(self, text: str) -> list[tuple[str, float]]:
        """A term of several words is shared out among them, and a term's weight among the places it stands at.

        In a paragraph vector a term weighs as much as where it pulls the vector.
        """
        from sklearn.pipeline import Pipeline

        whole = Pipeline([*self.common.steps, *self.fits[0].steps])
        terms, judge = whole[0], whole[-1].coef_[0]
        words = terms.build_tokenizer()(clean(text))
        if hasattr(whole[1], "term_weights"):
            row = terms.transform([clean(text)])
            weights = whole[1].term_weights(row.indices) @ judge
        else:
            row = whole[:-1].transform([clean(text)])
            weights = judge[row.indices]
        worth = dict(zip(row.indices, row.data * weights, strict=True))
        least, most = terms.ngram_range
        places: dict[int, list[tuple[int, int]]] = {}
        for size in range(least, most + 1):
            for start in range(len(words) - size + 1):
                number = terms.vocabulary_.get(" ".join(words[start : start + size]))
                if number is not None:
                    places.setdefault(number, []).append((start, size))
        carried = np.zeros(len(words))
        for number, found in places.items():
            for start, size in found:
                carried[start : start + size] += worth.get(number, 0.0) / len(found) / size
        return list(zip(words, carried.tolist(), strict=True))


class Neural:
    """A module that judges padded batches of token ids."""

    def __init__(self, judge: Callable, embedding, read: Callable, words_of: Callable, frame: int):
        """`judge`: tokens and lengths to a logit (batch,). `read`: texts to `EncodedReviews`. `words_of`: a text to its words that
        are read, each with its number of tokens. frame: so many tokens at each end of a review are no words ([CLS] and [SEP]).
        """
        self.judge, self.embedding, self.read, self.words_of, self.frame = judge, embedding, read, words_of, frame
        self.device = embedding.weight.device
        self.is_unexplained = False

    def probability(self, texts: list[str]) -> np.ndarray:
        import torch

        from popcorn.data.batching import sorted_batches
        from popcorn.training.memory import Pieces

        reviews, pieces = self.read(texts), Pieces()
        found = np.zeros(len(reviews))

        def positive(rows: np.ndarray) -> np.ndarray:
            tokens, lengths = reviews.batch(rows)
            return torch.sigmoid(self.judge(tokens.to(self.device), lengths.to(self.device)).double()).cpu().numpy()

        with torch.no_grad():
            for batch in sorted_batches(np.arange(len(reviews)), reviews.lengths, 128):
                for rows, its in pieces.predict(positive, batch):
                    found[rows] = its
        return found

    def words(self, text: str) -> list[tuple[str, float]]:
        """Integrated gradients (Sundararajan et al. 2017) from a review of nothing but padding, summed over a word's vectors.

        Without captum, which computes them, all are zero, and a sentence says so once.
        """
        reviews, words = self.read([text]), self.words_of(text)
        try:
            with needs("captum", "showing which words moved the result"):
                from captum.attr import LayerIntegratedGradients
        except MissingPackage as problem:
            if not self.is_unexplained:
                log(str(problem))
            self.is_unexplained = True
            return [(word, 0.0) for word, _ in words]
        tokens, lengths = (part.to(self.device) for part in reviews.batch(np.array([0])))
        inside = slice(self.frame, tokens.shape[1] - self.frame)
        nothing = tokens.clone()
        nothing[:, inside] = reviews.padding
        method = LayerIntegratedGradients(lambda tokens: self.judge(tokens, lengths.expand(len(tokens))), self.embedding)
        carried = method.attribute(tokens, nothing, n_steps=STEPS, internal_batch_size=8).sum(-1)[0]
        starts = np.cumsum([0, *(pieces for _, pieces in words)])[:-1]
        by_word = np.add.reduceat(carried[inside].detach().cpu().numpy(), starts) if words else []
        return [(word, float(weight)) for (word, _), weight in zip(words, by_word, strict=True)]


def tokenized(texts: list[str]) -> Iterable[list[str]]:
    """Each text's words; of many texts on all processors."""
    if len(texts) < FEW:
        return [tokenize(text) for text in texts]
    words, tokens, offsets = tokenize_all(texts)
    return [[words[token] for token in review] for review in np.split(tokens, offsets[1:-1])]


def load_hf_predictor(model, config: RunConfig, folder: Path) -> Neural:
    """The fine-tuned model with its tokenizer."""
    from transformers import PreTrainedModel

    from popcorn.data.batching import EncodedReviews
    from popcorn.data.subword_tokenizer import add_special_tokens, tokenize_texts, words_of
    from popcorn.models.layers import mask_of
    from popcorn.models.tokenizer import read_tokenizer
    from popcorn.training.hf_trainer import log_odds

    tokenizer = read_tokenizer(folder)
    model.eval()

    def read(texts: list[str]) -> EncodedReviews:
        contents = [np.array(ids, np.int32) for ids in tokenize_texts(texts, tokenizer)]
        return EncodedReviews(
            add_special_tokens(contents, tokenizer, config.max_length), config.max_length, tokenizer.pad_token_id
        )

    def judge(tokens, lengths):
        if not hasattr(model, "config"):  # our own module over an encoder, which takes lengths
            return model(tokens, lengths)
        mask = mask_of(lengths, tokens.shape[1]).long()
        return log_odds(model(input_ids=tokens, attention_mask=mask).logits)

    inner = model if hasattr(model, "get_input_embeddings") else next(
        each for each in model.modules() if isinstance(each, PreTrainedModel)
    )  # fmt: skip
    words = partial(words_of, tokenizer=tokenizer, max_length=config.max_length)
    return Neural(judge, inner.get_input_embeddings(), read, words, frame=1)
