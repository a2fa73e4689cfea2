"""Bidirectional LSTM over word vectors (Hochreiter & Schmidhuber 1997; Graves & Schmidhuber 2005).

One LSTM runs from the first word of a review to the last, another one from the last to the first. Their states at each word are
concatenated and projected. A linear layer classifies the maximum and the mean over the words. The training reviews without a
label have the probabilities of nbsvm.py as labels. The training loop is popcorn/training/loop.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import BiRNN, masked_max, masked_mean, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """This model's options, in addition to those of all models over word vectors."""

    hidden: Count = 128
    """hidden units of each direction"""
    word_dropout: Probability = 0.2
    """probability of zeroing a word vector in training (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """dropout probability of the pooled states"""

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


class LSTM(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): initial values of the embedding, which is trained too."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.lstm = BiRNN(nn.LSTM, vectors.shape[1], config.hidden)
        # LSTM states are between -1 and 1, and their maximum over hundreds of words is near 1; a projection has no such limit
        self.projection = nn.Linear(2 * config.hidden, 2 * config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(4 * config.hidden, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        states = torch.cat(self.lstm(words, lengths), dim=-1)  # forward and backward: (batch, time, 2 * hidden)
        states = self.projection(states)
        pooled = torch.cat([masked_max(states, lengths), masked_mean(states, lengths)], dim=-1)  # (batch, 4 * hidden)
        return self.classifier(self.dropout(pooled)).squeeze(-1)


if __name__ == "__main__":
    run(WordModelTask(LSTM, parse(Config)), PyTorchTrainer(train))
