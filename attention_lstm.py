"""Bidirectional LSTM with attention over its states (Zhou et al. 2016; Yang et al. 2016, section 2.2).

A small network gives every word a weight, the weights of a review's words add up to one, and the review is the weighted sum of
the LSTM's states. After a forward pass the weights are in `model.attention.weights`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import mask_of, reverse_within_length, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """What this model adds to the options of all models over word vectors."""

    hidden: Count = 128
    """units of each direction"""
    attention_size: Count = 64
    """units of the network that gives the weights"""
    word_dropout: Probability = 0.2
    """share of the words that are zeroed in training, whole vectors at once (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """share of the review's vector that is zeroed in training"""

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


class AdditiveAttention(nn.Module):
    """states (batch, time, hidden), lengths (batch,) -> (batch, hidden): Yang et al. 2016, equations 5 to 7"""

    def __init__(self, hidden: int, units: int):
        super().__init__()
        self.projection = nn.Linear(hidden, units)
        self.context = nn.Linear(units, 1, bias=False)  # u_w, "which word is informative"
        self.weights: Tensor | None = None
        """(batch, time) of the last forward pass, zero at the padding"""

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        scores = self.context(torch.tanh(self.projection(states))).squeeze(-1).float()  # (batch, time)
        weights = scores.masked_fill(~mask_of(lengths, states.shape[1]), float("-inf")).softmax(dim=1)
        self.weights = weights.detach()
        return (weights.unsqueeze(-1) * states).sum(1)


class AttentionLSTM(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): the embedding's first values; it is trained with the rest."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.forwards = nn.LSTM(vectors.shape[1], config.hidden, batch_first=True)
        self.backwards = nn.LSTM(vectors.shape[1], config.hidden, batch_first=True)
        self.attention = AdditiveAttention(2 * config.hidden, config.attention_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.hidden, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        forwards, _ = self.forwards(words)  # (batch, time, hidden)
        backwards, _ = self.backwards(reverse_within_length(words, lengths))
        states = torch.cat([forwards, reverse_within_length(backwards, lengths)], dim=-1)  # (batch, time, 2 * hidden)
        review = self.attention(states, lengths)  # (batch, 2 * hidden)
        return self.classifier(self.dropout(review)).squeeze(-1)


if __name__ == "__main__":
    run(WordModelTask(AttentionLSTM, parse(Config)), PyTorchTrainer(train))
