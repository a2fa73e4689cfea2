import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm import LSTM, Config
from popcorn.batches import Reviews, by_length, shuffled
from popcorn.layers import masked_max, masked_mean, reverse_within_length
from popcorn.text import PAD, UNKNOWN

LENGTHS = torch.tensor([7, 1, 4])


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = LSTM(Config(hidden=6), torch.randn(30, 5)).eval()
    with torch.no_grad():
        model.classifier.weight *= 20  # logits as far apart as a trained model's
    return model


def tokens(time: int = 7) -> torch.Tensor:
    """Three reviews of the lengths above, padded to `time`."""
    words = torch.randint(2, 30, (3, time), generator=torch.Generator().manual_seed(1))
    return words.masked_fill(torch.arange(time) >= LENGTHS.unsqueeze(1), PAD)


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


def test_states_are_those_of_torchs_packed_bidirectional_lstm(model):
    """The reference never sees padding: it is given packed sequences."""
    reference = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for name, weights in model.forwards.named_parameters():
            getattr(reference, name).copy_(weights)
        for name, weights in model.backwards.named_parameters():
            getattr(reference, f"{name}_reverse").copy_(weights)
        packed = pack_padded_sequence(model.embedding(tokens()), LENGTHS, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
        pooled = [
            torch.cat([row[:length].max(0).values, row[:length].mean(0)]) for row, length in zip(states, LENGTHS, strict=True)
        ]
        logits = model.classifier(torch.stack(pooled)).squeeze(-1)
        assert torch.allclose(model(tokens(), LENGTHS), logits, atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_padding_and_company_change_nothing(model, precision, tolerance):
    """Rounding may differ with the shape of a product; what stands behind a review, and beside it, may not show."""
    with torch.no_grad(), torch.autocast("cpu", precision, enabled=precision != torch.float32):
        together = model(tokens(), LENGTHS)
        padded = model(nn.functional.pad(tokens(), (0, 13), value=PAD), LENGTHS)
        noise = model(torch.where(tokens() == PAD, 9, tokens()), LENGTHS)  # even words in place of the padding
        alone = torch.cat([model(tokens()[row : row + 1, :length], LENGTHS[row : row + 1]) for row, length in enumerate(LENGTHS)])
    for other in (padded, noise, alone):
        assert torch.allclose(together.float(), other.float(), atol=tolerance)
    assert together.std() > 10 * tolerance  # a model that says the same of all reviews would pass the above


def test_a_model_that_reads_padding_is_found_out(model):
    """The check above, on the common mistake: a bidirectional LSTM over right-padded reviews."""
    wrong = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
    with torch.no_grad():
        short = wrong(model.embedding(tokens()))[0][2, 0]
        padded = wrong(model.embedding(nn.functional.pad(tokens(), (0, 13), value=PAD)))[0][2, 0]
    assert not torch.allclose(short, padded, atol=1e-3)


def test_gradients_reach_every_parameter_and_no_padding(model):
    model.train()
    model(tokens(), LENGTHS).sum().backward()
    for name, weights in model.named_parameters():
        assert weights.grad is not None and weights.grad.abs().sum() > 0, name
    assert not model.embedding.weight.grad[PAD].any()


def test_batches_hold_every_review_once_and_alike_in_length():
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 400, 1_003)
    rows = np.arange(3, 1_003)
    batches = shuffled(rows, lengths, 32, seed=1)
    assert np.array_equal(np.sort(np.concatenate(batches)), rows)
    assert {len(batch) for batch in batches} <= {31, 32}
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.2 * lengths[rows].sum()
    again, other = shuffled(rows, lengths, 32, seed=1), shuffled(rows, lengths, 32, seed=2)
    assert all(np.array_equal(one, two) for one, two in zip(batches, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(batches, other, strict=True))
    assert np.array_equal(np.sort(np.concatenate(by_length(rows, lengths, 64))), rows)


def test_long_reviews_keep_head_and_tail_and_empty_ones_are_unknown():
    reviews = Reviews(np.arange(2, 14, dtype=np.int32), np.array([0, 10, 10, 12]), max_tokens=8)
    batch, lengths = reviews.batch(np.array([0, 1, 2]))
    assert batch.tolist() == [[2, 3, 6, 7, 8, 9, 10, 11], [UNKNOWN] + [PAD] * 7, [12, 13] + [PAD] * 6]
    assert lengths.tolist() == [8, 1, 2]
