"""Bidirectional LSTM over word vectors (Hochreiter & Schmidhuber 1997; Graves & Schmidhuber 2005).

Two LSTMs read each review, one from its first word to its last and one from its last to its first. What both know at every
word is projected together, pooled by the maximum and the mean over the review's own words, and judged by a linear layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import masked_max, masked_mean, reverse_within_length, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """What this model adds to the options of all models over word vectors."""

    hidden: Count = 128
    """units of each direction"""
    word_dropout: Probability = 0.2
    """share of the words that are zeroed in training, whole vectors at once (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """share of the pooled numbers that are zeroed in training"""

    # the recipe: AdamW, binary cross-entropy, linear warm-up and decay, early stopping; --help explains each
    max_length: Count = 400
    epochs: Count = 3
    patience: Count = 2
    batch_size: Count = 128
    learning_rate: Positive = 3e-3
    embedding_lr_scale: Positive = 0.1
    warmup_ratio: Probability = 0.1
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0


class LSTM(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): the embedding's first values; it is trained with the rest."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.forwards = nn.LSTM(vectors.shape[1], config.hidden, batch_first=True)
        self.backwards = nn.LSTM(vectors.shape[1], config.hidden, batch_first=True)
        # a state lies between -1 and 1, where the maximum of hundreds is soon 1: what is compared must be free to grow
        self.projection = nn.Linear(2 * config.hidden, 2 * config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(4 * config.hidden, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        # Padding stands behind each review in both directions, where an LSTM comes to it only after all words
        forwards, _ = self.forwards(words)  # (batch, time, hidden)
        backwards, _ = self.backwards(reverse_within_length(words, lengths))
        states = torch.cat([forwards, reverse_within_length(backwards, lengths)], dim=-1)  # (batch, time, 2 * hidden)
        states = self.projection(states)
        pooled = torch.cat([masked_max(states, lengths), masked_mean(states, lengths)], dim=-1)  # (batch, 4 * hidden)
        return self.classifier(self.dropout(pooled)).squeeze(-1)


if __name__ == "__main__":
    run(WordModelTask(LSTM, parse(Config)), PyTorchTrainer(train))
