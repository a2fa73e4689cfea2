"""Bidirectional GRU over word vectors (Cho et al. 2014, section 2.3), in torch's reset-after form.

As in the paper, the final state represents the review. Here there are two, from both directions: one at the last word and one at
the first. The maximum of each unit over all words is added to both. The training reviews without a label have the probabilities
of nbsvm.py as labels. The training loop is popcorn/training/loop.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import BiRNN, last_state, masked_max, word_embedding
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
    """dropout probability of the final states and the maxima"""

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


class GRU(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): initial values of the embedding, which is trained too."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.gru = BiRNN(nn.GRU, vectors.shape[1], config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(4 * config.hidden, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        forward, backward = self.gru(words, lengths)  # each (batch, time, hidden)
        # the final states are at the review's last word, not at the padding after it, and at its first word
        pooled = [last_state(forward, lengths), masked_max(forward, lengths), backward[:, 0], masked_max(backward, lengths)]
        return self.classifier(self.dropout(torch.cat(pooled, dim=-1))).squeeze(-1)  # of (batch, 4 * hidden)


if __name__ == "__main__":
    run(WordModelTask(GRU, parse(Config)), PyTorchTrainer(train))
