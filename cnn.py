"""Convolutional network over word vectors (Kim 2014).

Filters as wide as 3, 4 and 5 words slide over the review; each keeps its strongest answer, and a linear layer judges those.
"""

from dataclasses import dataclass

from popcorn.config import WordVectorConfig, parse


@dataclass
class Config(WordVectorConfig):
    """What this model adds to the options of all models over word vectors."""

    widths: tuple[int, ...] = (3, 4, 5)
    """words that a filter sees at once (the paper's h)"""
    filters: int = 100
    """filters of each width"""
    epochs: int = 4
    """at most so many passes over the training reviews"""
    word_dropout: float = 0.1
    """share of the words that are zeroed in training, whole vectors at once (Iyyer et al. 2015)"""
    dropout: float = 0.3
    """share of the filters' answers that are zeroed in training"""


if __name__ == "__main__":
    config = parse(Config)

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from popcorn.layers import mask_of, masked_max, word_embedding
from popcorn.word_model import run


class CNN(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): the embedding's first values; it is trained with the rest (CNN-non-static)."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.convolutions = nn.ModuleList(nn.Conv1d(vectors.shape[1], config.filters, width) for width in config.widths)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.filters * len(config.widths), 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        # One window starts at every word; the last ones end in zeros, whatever stands behind the review
        words = words.masked_fill(~mask_of(lengths, tokens.shape[1]).unsqueeze(-1), 0).transpose(1, 2)
        answers = []
        for convolution in self.convolutions:
            windows = relu(convolution(pad(words, (0, convolution.kernel_size[0] - 1))))  # (batch, filters, time)
            answers.append(masked_max(windows.transpose(1, 2), lengths))  # (batch, filters)
        return self.classifier(self.dropout(torch.cat(answers, dim=-1))).squeeze(-1)


if __name__ == "__main__":
    run(CNN, config)
