"""Encoded reviews as padded batches: truncated, grouped by length, padded on the right."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from popcorn.data.word_tokenizer import PAD, UNKNOWN

BUCKET_BATCHES = 50  # batches sorted by length together: many for little padding, few for random batches


class EncodedReviews:
    """Token ids of N reviews, each with at least one and at most `max_length` tokens.

    An empty text is one unknown word.
    """

    def __init__(self, reviews: list[np.ndarray], max_length: int, padding: int = PAD):
        """reviews: int32 (tokens,) each; `padding` is the id of the padding token."""
        self.padding = padding
        empty = np.array([UNKNOWN], dtype=np.int32)
        self.reviews = [truncate_head_tail(review, max_length) if len(review) else empty for review in reviews]
        self.lengths = np.array([len(review) for review in self.reviews])

    def __len__(self) -> int:
        return len(self.reviews)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Token ids, int64 (batch, time), padded on the right, and lengths, int64 (batch,)."""
        reviews = [torch.from_numpy(self.reviews[row]) for row in rows]
        return pad_sequence(reviews, batch_first=True, padding_value=self.padding).long(), torch.from_numpy(self.lengths[rows])


def truncate_head_tail(review: np.ndarray, max_length: int) -> np.ndarray:
    """Head and tail of a long review: it often ends with the opinion."""
    if len(review) <= max_length:
        return review
    head = max_length // 4
    return np.concatenate([review[:head], review[head - max_length :]])


def length_grouped_batches(rows: np.ndarray, lengths: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """Splits `rows` into random batches of similar lengths.

    Batches have at most `batch_size` rows, and sizes that differ by at most one. The result depends on the arguments alone, so a
    killed run can resume within an epoch.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(rows)
    buckets = np.array_split(order, max(1, round(len(order) / (BUCKET_BATCHES * batch_size))))
    order = np.concatenate([bucket[np.argsort(lengths[bucket], kind="stable")] for bucket in buckets])
    batches = np.array_split(order, -(-len(order) // batch_size))
    return [batches[i] for i in generator.permutation(len(batches))]


def sorted_batches(rows: np.ndarray, lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Splits `rows` into batches from the shortest to the longest, for prediction."""
    order = rows[np.argsort(lengths[rows], kind="stable")]
    return np.array_split(order, -(-len(order) // batch_size))
