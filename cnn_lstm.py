"""C-LSTM: a convolution over time whose windows an LSTM reads in their order (Zhou et al. 2015).

Filters of three words turn the review into a sequence of phrases; the LSTM's last state, where the review ends, and the largest
value that each of its units took are judged by a linear layer. As in the paper nothing is pooled between the two.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import masked_max, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """What this model adds to the options of all models over word vectors."""

    kernel_size: Count = 3
    """words that a filter sees at once"""
    num_filters: Count = 150
    """filters, the width of a phrase"""
    hidden: Count = 150
    """units of the LSTM"""
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


class CNNLSTM(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): the embedding's first values; it is trained with the rest."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.convolution = nn.Conv1d(vectors.shape[1], config.num_filters, config.kernel_size)
        self.lstm = nn.LSTM(config.num_filters, config.hidden, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.hidden, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        # One window ends at every word, and the first ones begin with zeros: a phrase never looks past the review's end
        words = pad(words.transpose(1, 2), (self.convolution.kernel_size[0] - 1, 0))
        phrases = relu(self.convolution(words)).transpose(1, 2)  # (batch, time, filters)
        states, _ = self.lstm(phrases)  # (batch, time, hidden)
        last = states.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])).squeeze(1)
        return self.classifier(self.dropout(torch.cat([last, masked_max(states, lengths)], dim=-1))).squeeze(-1)


if __name__ == "__main__":
    run(WordModelTask(CNNLSTM, parse(Config)), PyTorchTrainer(train))
