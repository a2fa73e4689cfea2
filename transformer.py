"""Transformer encoder over word vectors, from scratch (Vaswani et al. 2017), norms before the sublayers (Xiong et al. 2020).

Vectors of the words and sinusoids of their places go through blocks of multi-head self-attention and feed-forward networks;
the largest and the mean value of each number over the review's words are judged by a linear layer.
"""

from dataclasses import dataclass

from popcorn.config import WordVectorConfig, parse


@dataclass
class Config(WordVectorConfig):
    """What this model adds to the options of all models over word vectors."""

    layers: int = 1
    """blocks (the paper's N)"""
    model: int = 128
    """width of the blocks (d_model)"""
    heads: int = 2
    """attention heads (h)"""
    inner: int = 256
    """units of the feed-forward networks (d_ff)"""
    word_dropout: float = 0.2
    """share of the words that are zeroed in training, whole vectors at once (Iyyer et al. 2015)"""
    dropout: float = 0.1
    """share of each sublayer's numbers that are zeroed in training (P_drop)"""


if __name__ == "__main__":
    config = parse(Config)

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from popcorn.layers import mask_of, masked_max, masked_mean, word_embedding
from popcorn.word_model import run


def sinusoids(time: int, width: int, device: torch.device) -> Tensor:
    """Positional encoding (time, width), section 3.5: sines at the even places, cosines at the odd ones."""
    place = torch.arange(time, device=device).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000) / width))
    return torch.stack([torch.sin(place * rate), torch.cos(place * rate)], dim=-1).flatten(1)


class SelfAttention(nn.Module):
    """Multi-head attention (section 3.2.2) of words (batch, time, model) to each other, never to the padding."""

    def __init__(self, config: Config):
        super().__init__()
        self.heads = config.heads
        self.query_key_value = nn.Linear(config.model, 3 * config.model)
        self.output = nn.Linear(config.model, config.model)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        batch, time, width = words.shape
        split = self.query_key_value(words).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (batch, heads, time, width of a head)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        return self.output(attended.transpose(1, 2).reshape(batch, time, width))


class Block(nn.Module):
    """words (batch, time, model), mask (batch, time) -> (batch, time, model)"""

    def __init__(self, config: Config):
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(config.model), nn.LayerNorm(config.model)
        self.attention = SelfAttention(config)
        self.feed_forward = nn.Sequential(nn.Linear(config.model, config.inner), nn.GELU(), nn.Linear(config.inner, config.model))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        words = words + self.dropout(self.attention(self.attention_norm(words), mask))
        return words + self.dropout(self.feed_forward(self.feed_forward_norm(words)))


class Transformer(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, vectors: Tensor):
        """vectors (vocabulary, width): the embedding's first values; it is trained with the rest."""
        super().__init__()
        self.embedding = word_embedding(vectors)
        self.word_dropout = nn.Dropout1d(config.word_dropout)
        self.projection = nn.Linear(vectors.shape[1], config.model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.model)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.model, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        mask = mask_of(lengths, tokens.shape[1])
        words = self.projection(self.word_dropout(self.embedding(tokens)))  # (batch, time, model)
        words = words * math.sqrt(words.shape[-1])  # section 3.4: else their places would drown the words
        words = self.dropout(words + sinusoids(words.shape[1], words.shape[2], words.device))
        for block in self.blocks:
            words = block(words, mask)
        words = self.norm(words)
        review = torch.cat([masked_max(words, lengths), masked_mean(words, lengths)], dim=-1)  # (batch, 2 * model)
        return self.classifier(self.dropout(review)).squeeze(-1)


if __name__ == "__main__":
    run(Transformer, config)
