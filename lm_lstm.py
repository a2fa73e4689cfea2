"""Bidirectional LSTM, first trained as a language model: LM-LSTM (Dai & Le 2015, section 3).

One LSTM predicts each word of a review from the words before it, another one from the words after it. Both share one softmax
(Peters et al. 2018, section 3.1). This language model is trained on all training reviews, labeled or not. The classifier
starts from its word vectors and LSTMs, and fine-tunes all parameters in one stage. The default size is for a GPU, and
`--hidden 512 --pretrain-epochs 2` is for two CPU cores. The training loop is `train` below, with adversarial training (Miyato et
al. 2017). Optional terms of its objective need no labels, so they include the unlabeled reviews (Sachan et al. 2019).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.models.layers import BiRNN, mask_of, masked_max, masked_mean, word_embedding
from popcorn.runs.run import run
from popcorn.training.adversarial import adversarial_passes, cross_entropy, entropy, kl_divergence, word_frequency
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.session import Session
from popcorn.training.word_lm import LanguageModelTask


@dataclass
class Config(WordVectorConfig):
    """This model's options, in addition to those of all models over word vectors."""

    hidden: Count = 1024
    """hidden units of each direction"""
    word_dropout: Probability = 0.0
    """probability of zeroing a word vector in training (Iyyer et al. 2015)"""
    dropout: Probability = 0.3
    """dropout probability of the pooled states"""
    pretrain_epochs: Count = 8
    """number of epochs of the language model"""
    pretrain_learning_rate: Positive = 4e-3
    """peak learning rate of the language model"""
    pretrain_batch_size: Count = 32
    """reviews per optimizer step of the language model"""
    pretrain_dropout: Probability = 0.0
    """the language model's dropout probability, of word vectors and before the softmax"""
    vat: NonNegative = 0.0
    """virtual adversarial training: weight of the KL divergence between predictions with and without the perturbation, over
    labeled and unlabeled reviews (Miyato et al. 2017, equation 8); Sachan et al. 2019 give all three terms a weight of 1"""
    adversarial: NonNegative = 1.0
    """adversarial training: weight of the cross-entropy with the perturbation, over labeled reviews (equation 6)"""
    entropy: NonNegative = 0.0
    """entropy minimization: weight of the prediction's entropy, over labeled and unlabeled reviews"""
    epsilon: Positive = 1.0
    """norm of the perturbation of a review, in standard deviations of the word vectors"""

    # the recipe: binary cross-entropy, also of perturbed reviews, AdamW, linear warm-up and decay of the learning rate; training
    # stops after `patience` epochs without a better validation AUC, and the best epoch predicts; popcorn/config.py explains each
    # option
    max_length: Count = 400
    epochs: Count = 3
    patience: Count = 2
    batch_size: Count = 32
    learning_rate: Positive = 1.5e-3
    embedding_lr_scale: Positive = 0.1
    warmup_ratio: Probability = 0.1
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0

    @property
    def has_second_pass(self) -> bool:
        """Whether a step has a second pass, with the perturbation."""
        return self.adversarial > 0 or self.with_unlabeled

    @property
    def with_unlabeled(self) -> bool:
        """Whether the objective has terms that need no labels."""
        return self.vat + self.entropy > 0

    def prepare(self, script: str) -> None:
        """A run with unlabeled reviews has a different name."""
        super().prepare(script + ("-unlabeled" if self.with_unlabeled else ""))


CUTOFFS = 2_000, 10_000
"""sizes of the adaptive softmax's clusters: rarer words have smaller weight matrices (Grave et al. 2017)"""


class Encoder(nn.Module):
    """tokens (batch, time), lengths (batch,) -> forward and backward states, each (batch, time, hidden)

    A perturbation (batch, time, width) is added to the word vectors.
    """

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): initial values of the embedding, which is trained too."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.lstm = BiRNN(nn.LSTM, vectors.shape[1], config.hidden)

    def forward(self, tokens: Tensor, lengths: Tensor, perturbation: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        return self.lstm(self.word_dropout(self.embedding(tokens)) + perturbation, lengths)


class LanguageModel(nn.Module):
    """tokens (batch, time), lengths (batch,) -> log-probabilities (targets,)

    The forward LSTM predicts every word but the first. Then the backward LSTM predicts every word but the last.
    """

    def __init__(self, config: Config, vectors: Tensor, counts: Tensor):
        """vectors (vocabulary, width); counts (vocabulary,): the number of occurrences of each word."""
        super().__init__()
        self.encoder = Encoder(replace(config, word_dropout=config.pretrain_dropout), vectors)
        self.dropout = nn.Dropout(config.pretrain_dropout)
        ends = sorted({min(end, len(counts) - 1) for end in CUTOFFS})
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(config.hidden, len(counts), ends)
        for layer in (self.softmax.head, *(projection[-1] for projection in self.softmax.tail)):
            layer.register_forward_hook(lambda _layer, _inputs, logits: logits.float())  # log-softmax in fp32
        # stable: a run resumed on another machine needs the same order of words with equal counts
        self.register_buffer("frequency_rank", counts.argsort(descending=True, stable=True).argsort(), persistent=False)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        forward, backward = self.encoder(tokens, lengths)  # each (batch, time, hidden)
        pairs = mask_of(lengths, tokens.shape[1])[:, 1:]  # of a word and the word before it
        states = torch.cat([forward[:, :-1][pairs], backward[:, 1:][pairs]])  # (targets, hidden)
        targets = torch.cat([tokens[:, 1:][pairs], tokens[:, :-1][pairs]])
        return self.softmax(self.dropout(states).float(), self.frequency_rank[targets]).output


class LMLSTM(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): initial values, which the language model's encoder then replaces."""
        super().__init__()
        self.encoder = Encoder(config, vectors)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(4 * config.hidden, 1)
        self.register_buffer("mean", torch.zeros(4 * config.hidden))
        self.register_buffer("std", torch.ones(4 * config.hidden))

    @property
    def embedding(self) -> nn.Embedding:
        """The word vectors, which have a learning rate of their own."""
        return self.encoder.embedding

    @torch.no_grad()
    def initialize_classifier(self, tokens: Tensor, lengths: Tensor) -> None:
        """Takes mean and standard deviation of the pooled states from some reviews; sets the classifier's weights to zero.

        A language model's pooled states differ little between reviews. Without standardization a classifier would learn slowly.
        """
        pooled = self.eval().pool(tokens, lengths)
        self.mean, self.std = pooled.mean(0), pooled.std(0).clamp(min=1e-5)
        nn.init.zeros_(self.classifier.weight)

    def pool(self, tokens: Tensor, lengths: Tensor, perturbation: Tensor | float = 0.0) -> Tensor:
        """Maximum and mean of the states over time (Howard & Ruder 2018, section 3.3), (batch, 4 * hidden)."""
        states = torch.cat(self.encoder(tokens, lengths, perturbation), dim=-1)  # (batch, time, 2 * hidden)
        return torch.cat([masked_max(states, lengths), masked_mean(states, lengths)], dim=-1)

    def forward(self, tokens: Tensor, lengths: Tensor, perturbation: Tensor | float = 0.0) -> Tensor:
        pooled = (self.pool(tokens, lengths, perturbation) - self.mean) / self.std
        return self.classifier(self.dropout(pooled)).squeeze(-1)


def train(session: Session) -> None:
    """Mini-batch training with AdamW, linear warm-up and decay, and gradient clipping.

    Validates after every epoch. With `vat` or `entropy`, an epoch has the unlabeled reviews too.
    """
    config, model = session.config, session.model
    if config.has_second_pass:
        frequency = word_frequency(session)
        labeled_fraction = 1 - np.isnan(session.labels[session.split.train]).mean()
    for epoch in session.epochs():  # at most config.epochs; fewer with early stopping or a time budget
        for batch in session.batches(epoch):  # a resumed run continues where it stopped
            for attempt in session.attempts(batch):  # again, with smaller micro-batches, if memory runs out
                with attempt:
                    for inputs, labels in session.micro_batches(batch):
                        if config.has_second_pass:
                            logits, perturbed = adversarial_passes(model, inputs, labels, frequency, config.epsilon)
                            loss = cross_entropy(logits, labels) + config.adversarial * cross_entropy(perturbed, labels)
                            loss = loss / labeled_fraction  # averaged over batches, this is the mean over labeled reviews
                            loss = loss + config.vat * kl_divergence(logits, perturbed) + config.entropy * entropy(logits)
                        else:
                            logits = model(*inputs)  # (micro-batch,)
                            loss = cross_entropy(logits, labels)
                        session.backward(loss / len(batch), logits, labels)
            session.accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            session.optimizer.step()
            session.scheduler.step()
            session.optimizer.zero_grad()
            session.end_step()
        session.end_epoch(session.evaluate())


if __name__ == "__main__":
    config = parse(Config)
    task = LanguageModelTask(LMLSTM, LanguageModel, config, config.with_unlabeled)
    run(task, PyTorchTrainer(train))
