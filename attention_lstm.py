"""Bidirectional LSTM with attention over its states (Zhou et al. 2016).

A small network computes a weight for each word, and the weights of a review sum to 1 (Yang et al. 2016, section 2.2). The
review's vector is the weighted sum of the LSTM states. After a forward pass the weights are in `model.attention.weights`. The
training reviews without a label have the probabilities of nbsvm.py as labels. The training loop is popcorn/training/loop.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import BiRNN, mask_of, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """This model's options, in addition to those of all models over word vectors."""

    hidden: Count = 128
    """hidden units of each direction"""
    attention_size: Count = 64
    """hidden units of the attention network"""
    word_dropout: Probability = 0.2
    """probability of zeroing a word vector in training (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """dropout probability of the review's vector"""

    # the recipe: binary cross-entropy, AdamW, linear warm-up and decay of the learning rate; training stops after `patience`
    # epochs without a better validation AUC, and the best epoch predicts; popcorn/config.py explains each option
    pseudo_labels: str | None = "nbsvm"
    max_length: Count = 400
    epochs: Count = 2
    patience: Count = 2
    batch_size: Count = 128
    learning_rate: Positive = 3e-3
    embedding_lr_scale: Positive = 0.1
    warmup_ratio: Probability = 0.1
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0


class AdditiveAttention(nn.Module):
    """states (batch, time, hidden), lengths (batch,) -> (batch, hidden)

    Yang et al. 2016, equations 5 to 7.
    """

    def __init__(self, hidden: int, units: int):
        super().__init__()
        self.projection = nn.Linear(hidden, units)
        self.context = nn.Linear(units, 1, bias=False)  # u_w, "which word is informative"
        self.weights: Tensor | None = None
        """attention weights (batch, time) of the last forward pass; 0 at the padding"""

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        scores = self.context(torch.tanh(self.projection(states))).squeeze(-1).float()  # (batch, time)
        weights = scores.masked_fill(~mask_of(lengths, states.shape[1]), float("-inf")).softmax(dim=1)
        self.weights = weights.detach()
        return (weights.unsqueeze(-1) * states).sum(1)


class AttentionLSTM(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): initial values of the embedding, which is trained too."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.lstm = BiRNN(nn.LSTM, vectors.shape[1], config.hidden)
        self.attention = AdditiveAttention(2 * config.hidden, config.attention_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.hidden, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        states = torch.cat(self.lstm(words, lengths), dim=-1)  # forward and backward: (batch, time, 2 * hidden)
        review = self.attention(states, lengths)  # (batch, 2 * hidden)
        return self.classifier(self.dropout(review)).squeeze(-1)


if __name__ == "__main__":
    run(WordModelTask(AttentionLSTM, parse(Config)), PyTorchTrainer(train))
