"""Bidirectional GRU over word vectors (Cho et al. 2014, section 2.3), in the reset-after form that the fused kernels compute.

As in the paper a review is summed up by the state at which its reader ends: here of two readers, one that ends at the last
word and one that ends at the first, joined with the largest value that each unit took on the way.
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
    word_dropout: Probability = 0.2
    """share of the words that are zeroed in training, whole vectors at once (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """share of the summary that is zeroed in training"""

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


class GRU(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): the embedding's first values; it is trained with the rest."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.readers = nn.ModuleList(nn.GRU(vectors.shape[1], config.hidden, batch_first=True) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(4 * config.hidden, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        last = (lengths - 1).view(-1, 1, 1)
        summaries = []
        for reader, sequence in zip(self.readers, (words, reverse_within_length(words, lengths)), strict=True):
            states, _ = reader(sequence)  # (batch, time, hidden)
            # Behind the last word a reader would go on over the padding: its state is taken where the review ends
            summaries.append(states.gather(1, last.expand(-1, -1, states.shape[-1])).squeeze(1))
            summaries.append(masked_max(states, lengths))
        return self.classifier(self.dropout(torch.cat(summaries, dim=-1))).squeeze(-1)


if __name__ == "__main__":
    run(WordModelTask(GRU, parse(Config)), PyTorchTrainer(train))
