"""The care for padding: batches, reversing, pooling."""

import numpy as np
import torch

from popcorn.data.batching import EncodedReviews, length_grouped_batches, sorted_batches
from popcorn.data.word_tokenizer import PAD, UNKNOWN
from popcorn.models.layers import masked_max, masked_mean, reverse_within_length

LENGTHS = torch.tensor([7, 1, 4])


def test_reversing_stays_within_the_length():
    sequence = torch.arange(21.0).reshape(3, 7, 1)
    turned = reverse_within_length(sequence, LENGTHS).squeeze(-1).tolist()
    assert turned == [[6, 5, 4, 3, 2, 1, 0], [7, 8, 9, 10, 11, 12, 13], [17, 16, 15, 14, 18, 19, 20]]
    assert torch.equal(reverse_within_length(reverse_within_length(sequence, LENGTHS), LENGTHS), sequence)


def test_pooling_is_that_of_the_words_alone():
    states = torch.randn(3, 7, 4)
    for row, length in enumerate(LENGTHS.tolist()):
        words = states[row, :length]
        assert torch.equal(masked_max(states, LENGTHS)[row], words.max(0).values)
        assert torch.allclose(masked_mean(states, LENGTHS)[row], words.sum(0) / length)


def test_batches_hold_every_review_once_and_alike_in_length():
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 400, 1_003)
    rows = np.arange(3, 1_003)
    batches = length_grouped_batches(rows, lengths, 32, seed=1)
    assert np.array_equal(np.sort(np.concatenate(batches)), rows)
    assert {len(batch) for batch in batches} <= {31, 32}
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.2 * lengths[rows].sum()
    again, other = length_grouped_batches(rows, lengths, 32, seed=1), length_grouped_batches(rows, lengths, 32, seed=2)
    assert all(np.array_equal(one, two) for one, two in zip(batches, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(batches, other, strict=True))
    assert np.array_equal(np.sort(np.concatenate(sorted_batches(rows, lengths, 64))), rows)


def test_long_reviews_keep_head_and_tail_and_empty_ones_are_unknown():
    reviews = EncodedReviews(np.split(np.arange(2, 14, dtype=np.int32), [10, 10]), max_length=8)
    batch, lengths = reviews.batch(np.array([0, 1, 2]))
    assert batch.tolist() == [[2, 3, 6, 7, 8, 9, 10, 11], [UNKNOWN] + [PAD] * 7, [12, 13] + [PAD] * 6]
    assert lengths.tolist() == [8, 1, 2]
