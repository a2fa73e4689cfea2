"""What several models over word vectors share: the embedding, and the care for padding."""

import torch
from torch import Tensor, nn

from popcorn.data.word_tokenizer import PAD


def word_embedding(vectors: Tensor) -> nn.Embedding:
    """An embedding that starts from vectors (vocabulary, width) and is trained, except for the padding's row of zeros."""
    return nn.Embedding.from_pretrained(vectors.clone(), freeze=False, padding_idx=PAD)


def mask_of(lengths: Tensor, time: int) -> Tensor:
    """True at the words and False at the padding: lengths (batch,) -> bool (batch, time)."""
    return torch.arange(time, device=lengths.device) < lengths.unsqueeze(1)


def reverse_within_length(sequence: Tensor, lengths: Tensor) -> Tensor:
    """Turns each sequence round within its own length and leaves the padding behind it.

    sequence (batch, time, width), lengths (batch,) -> (batch, time, width). Applied twice it gives back its input. It
    stands for `pack_padded_sequence`, which takes the fused LSTM kernels away on a CPU and is some fifteen times slower.
    """
    time = sequence.shape[1]
    position = torch.arange(time, device=lengths.device).expand(len(lengths), time)
    last = lengths.unsqueeze(1) - 1
    source = torch.where(position <= last, last - position, position)
    return sequence.gather(1, source.unsqueeze(-1).expand_as(sequence))


def masked_max(states: Tensor, lengths: Tensor) -> Tensor:
    """Each number's maximum over the words, without the padding: (batch, time, hidden), (batch,) -> (batch, hidden)."""
    return states.masked_fill(~mask_of(lengths, states.shape[1]).unsqueeze(-1), float("-inf")).amax(1)


def masked_mean(states: Tensor, lengths: Tensor) -> Tensor:
    """Each number's mean over the words, without the padding: (batch, time, hidden), (batch,) -> float32 (batch, hidden)."""
    words = states.masked_fill(~mask_of(lengths, states.shape[1]).unsqueeze(-1), 0)
    # in float32: the sum of hundreds of bf16 numbers would lose most of their digits
    return words.sum(1, dtype=torch.float32) / lengths.unsqueeze(1)
