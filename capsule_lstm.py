"""Bidirectional LSTM with capsules routed by agreement (Sabour, Frosst & Hinton 2017).

Each primary capsule is a feature vector, the maximum over the words of the review. It predicts the capsules of both classes.
Routing gives more weight to predictions that agree. The longer of the two class capsules is the prediction. The loss is the
cross-entropy of the two lengths. The paper's margin loss gives no probabilities, which ROC AUC and ensembles need. The
training reviews without a label have the probabilities of nbsvm.py as labels. The training loop is popcorn/training/loop.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import BiRNN, masked_max, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """This model's options, in addition to those of all models over word vectors."""

    hidden: Count = 128
    """hidden units of each direction"""
    num_primary: Count = 32
    """number of primary capsules"""
    primary_dim: Count = 8
    """dimension of a primary capsule"""
    class_dim: Count = 16
    """dimension of a class capsule"""
    routing_iterations: Count = 3
    """number of routing iterations (r in the paper)"""
    word_dropout: Probability = 0.2
    """probability of zeroing a word vector in training (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """probability of zeroing a primary capsule in training"""

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


CLASSES = 2  # negative, positive


def squash(vectors: Tensor) -> Tensor:
    """Scales each vector (..., size) to a length below 1, same direction (equation 1)."""
    square = vectors.square().sum(-1, keepdim=True)
    return vectors * (square / (1 + square)) * (square + 1e-9).rsqrt()


def route(predictions: Tensor, iterations: int) -> Tensor:
    """Routing by agreement (procedure 1).

    predictions (batch, primary, classes, size) -> class capsules (batch, classes, size)
    """
    logits = torch.zeros(predictions.shape[:3], device=predictions.device)  # agreement (batch, primary, classes)
    for iteration in range(iterations):
        coupling = logits.softmax(dim=-1).unsqueeze(-1)
        # couplings are constants for the gradient: the paper does not say so, and the authors' code differs
        votes = predictions if iteration == iterations - 1 else predictions.detach()
        capsules = squash((coupling * votes).sum(1))  # (batch, classes, size)
        logits = logits + (votes * capsules.unsqueeze(1)).sum(-1).detach()
    return capsules


class CapsuleLSTM(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): initial values of the embedding, which is trained too."""
        super().__init__()
        self.routing_iterations, self.num_primary = config.routing_iterations, config.num_primary
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.lstm = BiRNN(nn.LSTM, vectors.shape[1], config.hidden)
        self.primary = nn.Linear(2 * config.hidden, config.num_primary * config.primary_dim)
        self.dropout = nn.Dropout1d(config.dropout)
        # W of equation 2, one for each primary capsule and class
        self.predict = nn.Parameter(
            torch.randn(config.num_primary, CLASSES, config.primary_dim, config.class_dim) / config.primary_dim
        )
        self.scale = nn.Parameter(torch.tensor(10.0))  # a length is below 1; a logit has no bound

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        states = torch.cat(self.lstm(words, lengths), dim=-1)  # forward and backward: (batch, time, 2 * hidden)
        features = masked_max(self.primary(states), lengths).float()  # (batch, num_primary * primary_dim)
        primary = self.dropout(squash(features.unflatten(-1, (self.num_primary, -1))))  # (batch, num_primary, primary_dim)
        predictions = torch.einsum("bkp,kcps->bkcs", primary, self.predict).float()  # (batch, num_primary, classes, class_dim)
        negative, positive = route(predictions, self.routing_iterations).norm(dim=-1).unbind(-1)  # each (batch,)
        return self.scale * (positive - negative)


if __name__ == "__main__":
    run(WordModelTask(CapsuleLSTM, parse(Config)), PyTorchTrainer(train))
