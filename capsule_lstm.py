"""Bidirectional LSTM with capsules routed by agreement (Sabour, Frosst & Hinton 2017).

Each primary capsule looks for one thing and keeps the strongest signs of it in the review; it predicts the capsules of the two
classes. Routing sends it to the class whose capsule its prediction agrees with, and the longer of the two is the verdict. The
loss is the cross-entropy of the two lengths and not the paper's margin loss: that one gives no probabilities, which the ROC AUC
and an ensemble live on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import masked_max, reverse_within_length, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """What this model adds to the options of all models over word vectors."""

    hidden: Count = 128
    """units of each direction"""
    num_primary: Count = 32
    """primary capsules, as the paper has kinds of them"""
    primary_dim: Count = 8
    """numbers of a primary capsule"""
    class_dim: Count = 16
    """numbers of a class's capsule"""
    routing_iterations: Count = 3
    """rounds of routing (the paper's r)"""
    word_dropout: Probability = 0.2
    """share of the words that are zeroed in training, whole vectors at once (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """share of the primary capsules that are zeroed in training, whole vectors at once"""

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


CLASSES = 2  # negative, positive


def squash(vectors: Tensor) -> Tensor:
    """Shortens each vector (..., size) to a length below one and keeps its direction (equation 1)."""
    square = vectors.square().sum(-1, keepdim=True)
    return vectors * (square / (1 + square)) * (square + 1e-9).rsqrt()


def route(predictions: Tensor, rounds: int) -> Tensor:
    """Routing by agreement (procedure 1): predictions (batch, kinds, classes, size) -> capsules (batch, classes, size)."""
    logits = torch.zeros(predictions.shape[:3], device=predictions.device)  # (batch, kinds, classes), of agreement
    for number in range(rounds):
        coupling = logits.softmax(dim=-1).unsqueeze(-1)
        # couplings are taken as constants, which the paper leaves open and the authors' own code does not do
        seen = predictions if number == rounds - 1 else predictions.detach()
        capsules = squash((coupling * seen).sum(1))  # (batch, classes, size)
        logits = logits + (seen * capsules.unsqueeze(1)).sum(-1).detach()
    return capsules


class CapsuleLSTM(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): the embedding's first values; it is trained with the rest."""
        super().__init__()
        self.rounds, self.kinds = config.routing_iterations, config.num_primary
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.forwards = nn.LSTM(vectors.shape[1], config.hidden, batch_first=True)
        self.backwards = nn.LSTM(vectors.shape[1], config.hidden, batch_first=True)
        self.primary = nn.Linear(2 * config.hidden, config.num_primary * config.primary_dim)
        self.dropout = nn.Dropout1d(config.dropout)
        # W of equation 2, one for each kind and class
        self.predict = nn.Parameter(
            torch.randn(config.num_primary, CLASSES, config.primary_dim, config.class_dim) / config.primary_dim
        )
        self.scale = nn.Parameter(torch.tensor(10.0))  # lengths are below one, logits are not

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        forwards, _ = self.forwards(words)  # (batch, time, hidden)
        backwards, _ = self.backwards(reverse_within_length(words, lengths))
        states = torch.cat([forwards, reverse_within_length(backwards, lengths)], dim=-1)  # (batch, time, 2 * hidden)
        signs = masked_max(self.primary(states), lengths).float()  # (batch, kinds * primary)
        primary = self.dropout(squash(signs.unflatten(-1, (self.kinds, -1))))  # (batch, kinds, primary)
        predictions = torch.einsum("bkp,kcps->bkcs", primary, self.predict).float()  # (batch, kinds, classes, capsule)
        negative, positive = route(predictions, self.rounds).norm(dim=-1).unbind(-1)  # each (batch,)
        return self.scale * (positive - negative)


if __name__ == "__main__":
    run(WordModelTask(CapsuleLSTM, parse(Config)), PyTorchTrainer(train))
