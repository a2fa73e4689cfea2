"""C-LSTM: an LSTM over the feature maps of a convolution (Zhou et al. 2015).

Filters over three words turn the review into a sequence of phrase vectors. The LSTM's state at the last word and its maximum
over time go to a linear layer. As in the paper, nothing is pooled between convolution and LSTM. The training reviews without a
label have the probabilities of nbsvm.py as labels. The training loop is popcorn/training/loop.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import last_state, masked_max, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """This model's options, in addition to those of all models over word vectors."""

    kernel_size: Count = 3
    """kernel size of the convolution, in words"""
    num_filters: Count = 150
    """number of filters, the dimension of a phrase vector"""
    hidden: Count = 150
    """hidden units of the LSTM"""
    word_dropout: Probability = 0.2
    """probability of zeroing a word vector in training (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """dropout probability of the last state and the maximum"""

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


class CNNLSTM(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): initial values of the embedding, which is trained too."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.convolution = nn.Conv1d(vectors.shape[1], config.num_filters, config.kernel_size)
        self.lstm = nn.LSTM(config.num_filters, config.hidden, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.hidden, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        # causal padding: one window ends at every word, so no phrase includes the padding after the review
        words = pad(words.transpose(1, 2), (self.convolution.kernel_size[0] - 1, 0))
        phrases = relu(self.convolution(words)).transpose(1, 2)  # (batch, time, filters)
        states, _ = self.lstm(phrases)  # (batch, time, hidden)
        pooled = torch.cat([last_state(states, lengths), masked_max(states, lengths)], dim=-1)  # (batch, 2 * hidden)
        return self.classifier(self.dropout(pooled)).squeeze(-1)


if __name__ == "__main__":
    run(WordModelTask(CNNLSTM, parse(Config)), PyTorchTrainer(train))
