"""Bidirectional LSTM that has learned to foretell words before it judges reviews: LM-LSTM (Dai & Le 2015, section 3).

A language model comes first: one LSTM foretells each word of a review from those before it, another from those behind it, and
both answer through the same softmax (Peters et al. 2018, section 3.1). It learns from all training reviews, labeled or not. The
classifier begins with its word vectors and its LSTMs, and all of it learns on at once. It is made for a GPU: on two CPU cores the
language model alone would take half a day or more.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import mask_of, masked_max, masked_mean, reverse_within_length, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_lm import LanguageModelTask


@dataclass
class Config(WordVectorConfig):
    """What this model adds to the options of all models over word vectors."""

    hidden: Count = 1024
    """units of each direction"""
    word_dropout: Probability = 0.2
    """share of the words that are zeroed in training, whole vectors at once (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """share of the numbers before the softmax, or of the pooled ones, that are zeroed in training"""
    pretrain_epochs: Count = 8
    """passes of the language model over all training reviews"""
    pretrain_learning_rate: Positive = 2e-3
    """peak of the learning rate in them"""

    # the recipe: AdamW, binary cross-entropy, linear warm-up and decay, early stopping; --help explains each
    max_length: Count = 400
    epochs: Count = 3
    patience: Count = 2
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    embedding_lr_scale: Positive = 0.1
    warmup_ratio: Probability = 0.1
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0


COMMON = 2_000, 10_000
"""the softmax's clusters end at so many words; the rarer ones behind them cost less (Grave et al. 2017)"""


class Encoder(nn.Module):
    """tokens (batch, time), lengths (batch,) -> what each direction knows at every word, twice (batch, time, hidden)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): the embedding's first values; it is trained with the rest."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.forwards = nn.LSTM(vectors.shape[1], config.hidden, batch_first=True)
        self.backwards = nn.LSTM(vectors.shape[1], config.hidden, batch_first=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        words = self.word_dropout(self.embedding(tokens))  # (batch, time, width)
        forwards, _ = self.forwards(words)
        backwards, _ = self.backwards(reverse_within_length(words, lengths))
        return forwards, reverse_within_length(backwards, lengths)


class LanguageModel(nn.Module):
    """tokens (batch, time), lengths (batch,) -> log-probability (targets,) of all but the first words, then all but the last"""

    def __init__(self, config: Config, vectors: Tensor, counts: Tensor):
        """counts (vocabulary,): how often each word stands in the reviews; vectors (vocabulary, width)."""
        super().__init__()
        self.encoder = Encoder(config, vectors)
        self.dropout = nn.Dropout(config.dropout)
        ends = sorted({min(end, len(counts) - 1) for end in COMMON})
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(config.hidden, len(counts), ends)
        # the words in the order of frequency; a run that goes on elsewhere must find those of equal frequency where they were
        self.register_buffer("place", counts.argsort(descending=True, stable=True).argsort(), persistent=False)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        forwards, backwards = self.encoder(tokens, lengths)  # each (batch, time, hidden)
        pairs = mask_of(lengths, tokens.shape[1])[:, 1:]  # of a word and its neighbor before it
        states = torch.cat([forwards[:, :-1][pairs], backwards[:, 1:][pairs]])  # (targets, hidden)
        targets = torch.cat([tokens[:, 1:][pairs], tokens[:, :-1][pairs]])
        # torch's softmax puts its clusters' answers together in the type of its input, which a CPU's autocast would not give them
        with torch.autocast(tokens.device.type, enabled=torch.is_autocast_enabled("cuda")):
            return self.softmax(self.dropout(states).float(), self.place[targets]).output


class LMLSTM(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): the embedding's first values, until the language model's encoder takes its place."""
        super().__init__()
        self.encoder = Encoder(config, vectors)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(4 * config.hidden, 1)

    @property
    def embedding(self) -> nn.Embedding:
        """The word vectors, which learn at a rate of their own."""
        return self.encoder.embedding

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        states = torch.cat(self.encoder(tokens, lengths), dim=-1)  # (batch, time, 2 * hidden)
        # concat pooling (Howard & Ruder 2018, section 3.3), without the last states, which the maximum has seen
        pooled = torch.cat([masked_max(states, lengths), masked_mean(states, lengths)], dim=-1)  # (batch, 4 * hidden)
        return self.classifier(self.dropout(pooled)).squeeze(-1)


if __name__ == "__main__":
    run(LanguageModelTask(LMLSTM, LanguageModel, parse(Config)), PyTorchTrainer(train))
