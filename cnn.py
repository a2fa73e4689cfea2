"""Convolutional network over word vectors (Kim 2014).

Filters as wide as 3, 4 and 5 words slide over the review; each keeps its strongest answer, and a linear layer judges those.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad, relu

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import mask_of, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """What this model adds to the options of all models over word vectors."""

    kernel_sizes: tuple[Count, ...] = (3, 4, 5)
    """words that a filter sees at once (the paper's h)"""
    num_filters: Count = 100
    """filters of each width"""
    word_dropout: Probability = 0.1
    """share of the words that are zeroed in training, whole vectors at once (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """share of the filters' answers that are zeroed in training"""

    # the recipe: AdamW, binary cross-entropy, linear warm-up and decay, early stopping; --help explains each
    max_length: Count = 400
    epochs: Count = 4
    patience: Count = 2
    batch_size: Count = 128
    learning_rate: Positive = 3e-3
    embedding_lr_scale: Positive = 0.1
    warmup_ratio: Probability = 0.1
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0


def max_over_time(convolution: nn.Conv1d, words: Tensor, mask: Tensor) -> Tensor:
    """Each filter's largest answer: words (batch, time + width - 1, size), mask of the starts (batch, time) -> (batch, filters).

    Only the window that gives the largest answer has a gradient. So all windows are tried without one, and the winners are
    answered once more with it: the same values and gradients as through the maximum, for a third of the work.
    """
    with torch.no_grad():
        answers = convolution(words.detach().transpose(1, 2))  # (batch, filters, time)
        start = answers.masked_fill(~mask.unsqueeze(1), float("-inf")).argmax(-1).T  # (filters, batch)
    batch, time, size = words.shape
    start = start + time * torch.arange(batch, device=words.device)  # among the words of all reviews
    places = start.unsqueeze(-1) + torch.arange(convolution.kernel_size[0], device=words.device)
    windows = embedding(places, words.reshape(-1, size)).flatten(2)  # (filters, batch, width * size)
    weight = convolution.weight.transpose(1, 2).flatten(1).unsqueeze(-1)  # (filters, width * size, 1)
    return torch.baddbmm(convolution.bias.view(-1, 1, 1), windows, weight).squeeze(-1).T


class CNN(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, size): the embedding's first values; it is trained with the rest (CNN-non-static)."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.convolutions = nn.ModuleList(nn.Conv1d(vectors.shape[1], config.num_filters, width) for width in config.kernel_sizes)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.num_filters * len(config.kernel_sizes), 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        mask = mask_of(lengths, tokens.shape[1])
        words = self.word_dropout(self.embedding(tokens)).masked_fill(~mask.unsqueeze(-1), 0)  # (batch, time, size)
        answers = []
        for convolution in self.convolutions:
            # One window starts at every word; the last ones end in zeros, whatever stands behind the review
            filled = pad(words, (0, 0, 0, convolution.kernel_size[0] - 1))
            answers.append(max_over_time(convolution, filled, mask))  # (batch, filters)
        # after the maximum, which it does not change, the nonlinearity is asked once a filter and not once a window
        return self.classifier(self.dropout(relu(torch.cat(answers, dim=-1)))).squeeze(-1)


if __name__ == "__main__":
    run(WordModelTask(CNN, parse(Config)), PyTorchTrainer(train))
