"""Transformer encoder over word vectors, from scratch (Vaswani et al. 2017), norms before the sublayers (Xiong et al. 2020).

Words go through blocks of multi-head self-attention and feed-forward networks; the largest and the mean value of each number
over the review's words are judged by a linear layer. Where a word stands is told by its distance to the others, which each head
counts against them in its own measure (ALiBi, Press et al. 2022), so that some heads look at a word's neighbors from the start.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from popcorn.config import WordVectorConfig, parse
from popcorn.errors import UserError
from popcorn.models.layers import mask_of, masked_max, masked_mean, word_embedding
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask


@dataclass
class Config(WordVectorConfig):
    """What this model adds to the options of all models over word vectors."""

    layers: int = 2
    """blocks (the paper's N)"""
    model: int = 128
    """width of the blocks (d_model)"""
    heads: int = 4
    """attention heads (h)"""
    inner: int = 256
    """units of the feed-forward networks (d_ff)"""
    learning_rate: float = 2e-3
    """AdamW's peak, reached after the warm-up and followed by a linear decay to zero"""
    embedding_lr_scale: float = 0.15
    """the word vectors' learning rate as a share of the others'"""
    word_dropout: float = 0.2
    """share of the words that are zeroed in training, whole vectors at once (Iyyer et al. 2015)"""
    dropout: float = 0.1
    """share of each sublayer's numbers that are zeroed in training (P_drop)"""

    def __post_init__(self):
        super().__post_init__()
        if self.model % self.heads:
            raise UserError(f"--model is {self.model}, which {self.heads} --heads do not divide: give a multiple")


def alibi_bias(time: int, heads: int, device: torch.device) -> Tensor:
    """What is added to the scores (heads, time, time): minus the distance of two words, times 1, 1/4, 1/16, ... by head.

    Press et al. 2022, section 3, to both sides, and one step steeper than their slopes for four heads, which begin at 1/4: one
    head sees little but a word's neighbors.
    """
    place = torch.arange(time, device=device)
    slopes = 0.25 ** torch.arange(heads, device=device)
    return -slopes[:, None, None] * (place[:, None] - place).abs()


class SelfAttention(nn.Module):
    """Multi-head attention (section 3.2.2) of words (batch, time, model) to each other, by a bias (batch, heads, time, time)."""

    def __init__(self, config: Config):
        super().__init__()
        self.heads = config.heads
        self.query_key_value = nn.Linear(config.model, 3 * config.model)
        self.output = nn.Linear(config.model, config.model)

    def forward(self, words: Tensor, bias: Tensor) -> Tensor:
        batch, time, width = words.shape
        split = self.query_key_value(words).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, width of a head)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return self.output(attended.transpose(1, 2).reshape(batch, time, width))


class Block(nn.Module):
    """words (batch, time, model), bias (batch, heads, time, time) -> (batch, time, model)"""

    def __init__(self, config: Config):
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(config.model), nn.LayerNorm(config.model)
        self.attention = SelfAttention(config)
        self.feed_forward = nn.Sequential(nn.Linear(config.model, config.inner), nn.GELU(), nn.Linear(config.inner, config.model))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, words: Tensor, bias: Tensor) -> Tensor:
        words = words + self.dropout(self.attention(self.attention_norm(words), bias))
        return words + self.dropout(self.feed_forward(self.feed_forward_norm(words)))


class Transformer(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): the embedding's first values; it is trained with the rest."""
        super().__init__()
        self.heads = config.heads
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.projection = nn.Linear(vectors.shape[1], config.model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.model)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.model, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.projection(self.word_dropout(self.embedding(tokens)))  # (batch, time, model)
        padding = ~mask_of(lengths, tokens.shape[1])
        bias = alibi_bias(tokens.shape[1], self.heads, tokens.device).masked_fill(padding[:, None, None], float("-inf"))
        for block in self.blocks:
            words = block(words, bias)
        words = self.norm(words)
        review = torch.cat([masked_max(words, lengths), masked_mean(words, lengths)], dim=-1)  # (batch, 2 * model)
        return self.classifier(self.dropout(review)).squeeze(-1)


if __name__ == "__main__":
    run(WordModelTask(Transformer, parse(Config)), PyTorchTrainer(train))
