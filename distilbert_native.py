"""DistilBERT fine-tuned in a plain PyTorch loop (Sanh et al. 2019).

DistilBERT has no pooler and was never taught to sum a text up at [CLS]. The review is therefore the mean of its words' last
states, which after distillation all carry meaning (Reimers & Gurevych 2019 found the mean better than [CLS] for sentences),
and a small network judges it. The loop that trains it is `TrainingLoop` in popcorn/training/loop.py.
"""

from dataclasses import dataclass
from pathlib import Path

from popcorn.config import FineTuneConfig, parse


@dataclass
class Config(FineTuneConfig):
    """What this model adds to the options of all pretrained models."""

    MODEL_TYPE = "distilbert"
    model: str = "distilbert-base-uncased"
    """a DistilBERT of the Hugging Face hub, or the folder of one (on Kaggle: Add Input, Models)"""
    learning_rate: float = 5e-5
    """AdamW's peak for the head, reached after the warm-up and followed by a linear decay to zero"""
    layer_decay: float = 0.9
    """each layer learns at so many times the rate of the one above it: six layers, so that the lowest has BERT's share"""
    dropout: float = 0.2
    """share of the head's numbers that are zeroed in training"""


if __name__ == "__main__":
    config = parse(Config)

from torch import Tensor, nn
from transformers import DistilBertModel

from popcorn.models.layers import mask_of, masked_mean
from popcorn.models.pretrained import load_pretrained
from popcorn.runs import engine
from popcorn.training.finetuning_task import finetuning_task
from popcorn.training.native import native


class DistilBERT(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, checkpoint: Path):
        """Takes the encoder from the checkpoint's folder; the head is new."""
        super().__init__()
        self.encoder = load_pretrained(DistilBertModel, checkpoint, attention_dropout=config.attention_dropout)
        width = self.encoder.config.dim
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(width, 1))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        # no word attends to the padding
        states = self.encoder(tokens, attention_mask=mask_of(lengths, tokens.shape[1]).long()).last_hidden_state
        return self.head(masked_mean(states, lengths)).squeeze(-1)  # mean of (batch, time, hidden)


if __name__ == "__main__":
    engine.run(native, lambda: finetuning_task(DistilBERT, config), config)
