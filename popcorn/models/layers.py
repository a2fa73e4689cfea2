"""Layers that several models over word vectors share, all of them aware of padding."""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from popcorn.data.word_tokenizer import PAD


def word_embedding(vectors: Tensor) -> nn.Embedding:
    """A trainable embedding that starts from vectors (vocabulary, width); the padding's row stays zero."""
    return nn.Embedding.from_pretrained(vectors.clone(), freeze=False, padding_idx=PAD)


def mask_of(lengths: Tensor, time: int) -> Tensor:
    """Lengths (batch,) to a mask, bool (batch, time): True at words, False at padding."""
    return torch.arange(time, device=lengths.device) < lengths.unsqueeze(1)


def reverse_within_length(sequence: Tensor, lengths: Tensor) -> Tensor:
    """Reverses each sequence within its own length; the padding stays after it.

    sequence (batch, time, width), lengths (batch,) -> (batch, time, width). Applied twice, it returns its input. It replaces
    `pack_padded_sequence`, which turns off the fused LSTM kernels on a CPU and is about 15 times slower.
    """
    time = sequence.shape[1]
    position = torch.arange(time, device=lengths.device).expand(len(lengths), time)
    last = lengths.unsqueeze(1) - 1
    source = torch.where(position <= last, last - position, position)
    return sequence.gather(1, source.unsqueeze(-1).expand_as(sequence))


def masked_max(states: Tensor, lengths: Tensor) -> Tensor:
    """Maximum of each unit over the words, without the padding.

    states (batch, time, hidden), lengths (batch,) -> (batch, hidden)
    """
    return states.masked_fill(~mask_of(lengths, states.shape[1]).unsqueeze(-1), float("-inf")).amax(1)


def masked_mean(states: Tensor, lengths: Tensor) -> Tensor:
    """Mean of each unit over the words, without the padding.

    states (batch, time, hidden), lengths (batch,) -> float32 (batch, hidden)
    """
    words = states.masked_fill(~mask_of(lengths, states.shape[1]).unsqueeze(-1), 0)
    # in float32: a sum of hundreds of bf16 values would lose most of its digits
    return words.sum(1, dtype=torch.float32) / lengths.unsqueeze(1)


def last_state(states: Tensor, lengths: Tensor) -> Tensor:
    """State at each review's last word: (batch, time, hidden), (batch,) -> (batch, hidden)."""
    return states.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])).squeeze(1)


class BiRNN(nn.Module):
    """words (batch, time, width), lengths (batch,) -> forward and backward states, each (batch, time, hidden)

    One RNN runs over the review, another one over the review reversed within its own length. So both of them meet the padding
    only after all words, as with packed sequences.
    """

    def __init__(self, rnn_class: type[nn.LSTM] | type[nn.GRU], width: int, hidden: int):
        super().__init__()
        self.forward_rnn = rnn_class(width, hidden, batch_first=True)
        self.backward_rnn = rnn_class(width, hidden, batch_first=True)

    def forward(self, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        forward_states, _ = self.forward_rnn(words)
        backward_states, _ = self.backward_rnn(reverse_within_length(words, lengths))
        return forward_states, reverse_within_length(backward_states, lengths)


def max_over_time(convolution: nn.Conv1d, words: Tensor, mask: Tensor) -> Tensor:
    """Convolution and max-over-time pooling in one (Kim 2014).

    words (batch, time + kernel size - 1, width), mask of the windows' starts (batch, time) -> (batch, filters). Only the window
    with the maximum has a gradient. So the convolution runs without gradients first. Then the windows with the maxima are
    computed once more, with gradients. Values and gradients are the same, for a third of the work.
    """
    with torch.no_grad():
        feature_maps = convolution(words.detach().transpose(1, 2))  # (batch, filters, time)
        start = feature_maps.masked_fill(~mask.unsqueeze(1), float("-inf")).argmax(-1).T  # (filters, batch)
    batch, time, width = words.shape
    start = start + time * torch.arange(batch, device=words.device)  # index into the words of all reviews
    positions = start.unsqueeze(-1) + torch.arange(convolution.kernel_size[0], device=words.device)
    windows = embedding(positions, words.reshape(-1, width)).flatten(2)  # (filters, batch, kernel size * width)
    weight = convolution.weight.transpose(1, 2).flatten(1).unsqueeze(-1)  # (filters, kernel size * width, 1)
    return torch.baddbmm(convolution.bias.view(-1, 1, 1), windows, weight).squeeze(-1).T
