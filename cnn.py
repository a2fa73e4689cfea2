"""Two-layer convolutional network (Kim 2014).

The first convolution makes a phrase vector of each word and its neighbors, as in C-LSTM (Zhou et al. 2015). Kim's filters read
windows of 1, 2 and 3 phrases, so of 3, 4 and 5 words, and give feature maps. The maximum of each feature map over time goes to
a linear layer. The training reviews without a label have the probabilities of nbsvm.py as labels. The training loop is
popcorn/training/loop.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import mask_of, max_over_time, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """This model's options, in addition to those of all models over word vectors."""

    phrase_size: Count = 3
    """kernel size of the first layer, in words"""
    kernel_sizes: tuple[Count, ...] = (1, 2, 3)
    """kernel sizes of the second layer, in phrases (h in the paper)"""
    num_filters: Count = 200
    """number of filters of the first layer, and of each kernel size of the second one"""
    word_dropout: Probability = 0.1
    """probability of zeroing a word vector in training (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """dropout probability of the pooled feature maps"""

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


class CNN(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): initial values of the embedding, which is trained too (CNN-non-static)."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.phrase_convolution = nn.Conv1d(vectors.shape[1], config.num_filters, config.phrase_size, padding="same")
        self.convolutions = nn.ModuleList(nn.Conv1d(config.num_filters, config.num_filters, size) for size in config.kernel_sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.num_filters * len(config.kernel_sizes), 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        mask = mask_of(lengths, tokens.shape[1])
        padding = ~mask.unsqueeze(-1)
        words = self.word_dropout(self.embedding(tokens)).masked_fill(padding, 0)  # (batch, time, width)
        phrases = relu(self.phrase_convolution(words.transpose(1, 2))).transpose(1, 2)  # (batch, time, filters)
        phrases = phrases.masked_fill(padding, 0)
        feature_maps = []
        for convolution in self.convolutions:
            # one window starts at every phrase; the last windows end in zeros
            padded = pad(phrases, (0, 0, 0, convolution.kernel_size[0] - 1))
            feature_maps.append(max_over_time(convolution, padded, mask))  # (batch, filters)
        # ReLU after the maximum gives the same result as before it, for less work
        return self.classifier(self.dropout(relu(torch.cat(feature_maps, dim=-1)))).squeeze(-1)


if __name__ == "__main__":
    run(WordModelTask(CNN, parse(Config)), PyTorchTrainer(train))
