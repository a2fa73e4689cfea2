"""DistilBERT fine-tuned with Hugging Face's Trainer and the library's own classifier (Sanh et al. 2019).

Half of BERT's layers, taught to say what BERT says. It has no pooler: a new dense layer with a ReLU reads [CLS] before the
classifier, and both begin at random, which is why they take a higher rate than BERT's ready head.
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import DistilBertForSequenceClassification

from popcorn.config import FineTuneConfig, parse
from popcorn.models.pretrained import load_pretrained
from popcorn.runs.run import run
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.hf_trainer import HFTrainer


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
    """share of the head's numbers that are zeroed in training (seq_classif_dropout)"""


def build(config: Config, checkpoint: Path) -> DistilBertForSequenceClassification:
    """tokens and attention mask (batch, time) -> logits (batch, 2); with labels (batch,) their mean cross-entropy too"""
    return load_pretrained(
        DistilBertForSequenceClassification, checkpoint, new=["pre_classifier", "classifier"], num_labels=2,
        seq_classif_dropout=config.dropout, attention_dropout=config.attention_dropout,
    )  # fmt: skip


if __name__ == "__main__":
    run(FinetuningTask(build, parse(Config)), HFTrainer())
