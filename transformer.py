"""Transformer encoder over phrases, from scratch (Vaswani et al. 2017).

A convolution makes a phrase vector of each word and its neighbors. Only the maximum of every four phrases goes on, so attention
is fast (Lee et al. 2017 have both before a recurrent encoder of characters). Blocks of multi-head self-attention and feed-forward
networks process the phrases, with layer norms before the sublayers (pre-norm, Xiong et al. 2020). Maximum and mean over the
phrases go to a linear layer. The last norm of Xiong et al. is left out: it scales all phrase vectors to a similar norm, so that
the maximum cannot tell strong phrases from weak ones. Positions enter as distances: ALiBi (Press et al. 2022) subtracts the
distance of two phrases, times a slope, from their attention score. The slope differs from head to head, so some heads focus on
neighbors from the start. The training reviews without a label have the probabilities of nbsvm.py as labels. The training loop is
popcorn/training/loop.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool1d, relu, scaled_dot_product_attention

from popcorn.config import Count, NonNegative, Positive, Probability, WordVectorConfig, parse
from popcorn.errors import UserError
from popcorn.models.layers import mask_of, masked_max, masked_mean, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """This model's options, in addition to those of all models over word vectors."""

    phrase_size: Count = 3
    """kernel size of the convolution, in words"""
    pool_size: Count = 4
    """number of phrases of which the maximum goes on"""
    num_layers: Count = 2
    """number of blocks (N in the paper)"""
    d_model: Count = 256
    """dimension of a phrase's vector (d_model in the paper)"""
    num_heads: Count = 4
    """number of attention heads (h)"""
    d_ff: Count = 512
    """hidden units of the feed-forward networks (d_ff)"""
    word_dropout: Probability = 0.1
    """probability of zeroing a word vector in training (Iyyer et al. 2015)"""
    dropout: Probability = 0.1
    """dropout probability of each sublayer's output (P_drop), and of the pooled phrases"""

    # the recipe: binary cross-entropy, AdamW, linear warm-up and decay of the learning rate; training stops after `patience`
    # epochs without a better validation AUC, and the best epoch predicts; popcorn/config.py explains each option
    pseudo_labels: str | None = "nbsvm"
    max_length: Count = 400
    epochs: Count = 2
    patience: Count = 2
    batch_size: Count = 128
    learning_rate: Positive = 2e-3
    embedding_lr_scale: Positive = 0.15
    warmup_ratio: Probability = 0.1
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.d_model % self.num_heads:
            raise UserError(f"--d-model is {self.d_model}, which {self.num_heads} --num-heads do not divide: give a multiple")


def alibi_bias(time: int, heads: int, device: torch.device) -> Tensor:
    """Bias of the attention scores, (heads, time, time): minus the distance times a slope.

    Time and distance count phrases after pooling. The slopes of the heads are 1, 1/4, 1/16, ..., four times those of Press et al.
    2022 (section 3) for four heads. With a pool size of 4, a step covers four words, so the slope per word is that of the paper.
    The distance counts in both directions.
    """
    positions = torch.arange(time, device=device)
    slopes = 0.25 ** torch.arange(heads, device=device)
    return -slopes[:, None, None] * (positions[:, None] - positions).abs()


class SelfAttention(nn.Module):
    """Multi-head attention (section 3.2.2): phrases (batch, time, d_model), bias -> (batch, time, d_model)

    bias (batch, heads, time, time) is added to the attention scores.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.num_heads = config.num_heads
        self.query_key_value = nn.Linear(config.d_model, 3 * config.d_model)
        self.output = nn.Linear(config.d_model, config.d_model)

    def forward(self, phrases: Tensor, bias: Tensor) -> Tensor:
        batch, time, width = phrases.shape
        split = self.query_key_value(phrases).view(batch, time, 3, self.num_heads, width // self.num_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, width of a head)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return self.output(attended.transpose(1, 2).reshape(batch, time, width))


class Block(nn.Module):
    """phrases (batch, time, d_model), bias (batch, heads, time, time) -> (batch, time, d_model)"""

    def __init__(self, config: Config):
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(config.d_model), nn.LayerNorm(config.d_model)
        self.attention = SelfAttention(config)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.d_model, config.d_ff), nn.GELU(), nn.Linear(config.d_ff, config.d_model)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, phrases: Tensor, bias: Tensor) -> Tensor:
        phrases = phrases + self.dropout(self.attention(self.attention_norm(phrases), bias))
        return phrases + self.dropout(self.feed_forward(self.feed_forward_norm(phrases)))


class Transformer(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): initial values of the embedding, which is trained too."""
        super().__init__()
        self.num_heads = config.num_heads
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.convolution = nn.Conv1d(vectors.shape[1], config.d_model, config.phrase_size, padding="same")
        self.pool_size = config.pool_size
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.d_model, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        padding = ~mask_of(lengths, tokens.shape[1])
        words = self.word_dropout(self.embedding(tokens)).masked_fill(padding.unsqueeze(-1), 0)  # (batch, time, width)
        phrases = relu(self.convolution(words.transpose(1, 2))).masked_fill(padding.unsqueeze(1), 0)  # (batch, d_model, time)
        phrases = max_pool1d(phrases, self.pool_size, ceil_mode=True).transpose(1, 2)  # (batch, ceil(time / pool size), d_model)
        lengths = (lengths / self.pool_size).ceil().long()
        padding = ~mask_of(lengths, phrases.shape[1])
        bias = alibi_bias(phrases.shape[1], self.num_heads, tokens.device)
        bias = bias.masked_fill(padding[:, None, None], float("-inf"))
        for block in self.blocks:
            phrases = block(phrases, bias)
        review = torch.cat([masked_max(phrases, lengths), masked_mean(phrases, lengths)], dim=-1)  # (batch, 2 * d_model)
        return self.classifier(self.dropout(review)).squeeze(-1)


if __name__ == "__main__":
    run(WordModelTask(Transformer, parse(Config)), PyTorchTrainer(train))
