"""BERT fine-tuned in a plain PyTorch loop (Devlin et al. 2019, section 4.1; Sun et al. 2019).

The encoder is the library's; the judgement is written here: the pooler's view of [CLS], dropout, one linear layer to the log-odds
of a positive review. The loop that trains it, step by step, is `TrainingLoop` in popcorn/training/loop.py, the same for every
model here that is not trained by the Trainer.
"""

from dataclasses import dataclass
from pathlib import Path

from popcorn.config import FineTuneConfig, parse


@dataclass
class Config(FineTuneConfig):
    """What this model adds to the options of all pretrained models."""

    MODEL_TYPE = "bert"
    model: str = "bert-base-uncased"
    """a BERT of the Hugging Face hub, or the folder of one (on Kaggle: Add Input, Models)"""
    dropout: float = 0.1
    """share of the pooled numbers that are zeroed in training"""


if __name__ == "__main__":
    config = parse(Config)  # the hub, or the folder, has answered before anything large is loaded

from torch import Tensor, nn
from transformers import BertModel

from popcorn.models.layers import mask_of
from popcorn.models.pretrained import load_pretrained
from popcorn.runs import engine
from popcorn.training.finetuning_task import finetuning_task
from popcorn.training.native import native


class BERT(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, checkpoint: Path):
        """Takes the encoder and the pooler from the checkpoint's folder; the classifier begins as BERT's own layers did."""
        super().__init__()
        self.bert = load_pretrained(BertModel, checkpoint, attention_probs_dropout_prob=config.attention_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(self.bert.config.hidden_size, 1)
        nn.init.normal_(self.classifier.weight, std=self.bert.config.initializer_range)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        # no word attends to the padding
        read = self.bert(input_ids=tokens, attention_mask=mask_of(lengths, tokens.shape[1]).long())
        return self.classifier(self.dropout(read.pooler_output)).squeeze(-1)  # of (batch, hidden)


if __name__ == "__main__":
    engine.run(native, lambda: finetuning_task(BERT, config), config)
