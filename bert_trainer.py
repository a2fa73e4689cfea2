"""BERT fine-tuned with Hugging Face's Trainer and the library's own classifier (Devlin et al. 2019, section 4; Sun et al. 2019).

The encoder reads [CLS] review [SEP]; the pooler, which next-sentence prediction has trained, sums the review up at [CLS], and a
new linear layer judges it. Everything learns, the lower layers more slowly than the upper ones.
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import BertForSequenceClassification

from popcorn.config import Count, FineTuneConfig, NonNegative, Positive, Probability, parse
from popcorn.models.pretrained import load_pretrained
from popcorn.runs.run import run
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.hf_trainer import HFTrainer


@dataclass
class Config(FineTuneConfig):
    """What this model adds to the options of all pretrained models."""

    MODEL_TYPE = "bert"
    model: str = "bert-base-uncased"
    """a BERT of the Hugging Face hub, or the folder of one (on Kaggle: Add Input, Models)"""
    dropout: Probability = 0.1
    """share of the pooled numbers that are zeroed in training"""

    # the recipe: AdamW, cross-entropy, linear warm-up and decay, early stopping; --help explains each
    max_length: Count = 512
    epochs: Count = 3
    patience: Count = 2
    batch_size: Count = 32
    learning_rate: Positive = 3e-5
    layer_decay: Positive = 0.95
    warmup_ratio: Probability = 0.1
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0
    attention_dropout: Probability = 0.1


def build(config: Config, checkpoint: Path) -> BertForSequenceClassification:
    """tokens and attention mask (batch, time) -> logits (batch, 2); with labels (batch,) their mean cross-entropy too"""
    return load_pretrained(
        BertForSequenceClassification, checkpoint, new=["classifier"], num_labels=2,
        classifier_dropout=config.dropout, attention_probs_dropout_prob=config.attention_dropout,
    )  # fmt: skip


if __name__ == "__main__":
    run(FinetuningTask(build, parse(Config)), HFTrainer())
