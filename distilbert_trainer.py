"""DistilBERT fine-tuned with Hugging Face's Trainer and the library's own classifier (Sanh et al. 2019).

Half of BERT's layers, taught to say what BERT says. It has no pooler: a new dense layer with a ReLU reads [CLS] before the
classifier, and both begin at random, which is why they take a higher rate than BERT's ready head.
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import DistilBertForSequenceClassification

from popcorn.config import Count, FineTuneConfig, NonNegative, Positive, Probability, parse
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
    dropout: Probability = 0.2
    """share of the head's numbers that are zeroed in training (seq_classif_dropout)"""

    # the recipe: AdamW, cross-entropy, linear warm-up and decay, early stopping; --help explains each
    max_length: Count = 512
    epochs: Count = 3
    patience: Count = 2
    batch_size: Count = 32
    learning_rate: Positive = 5e-5
    layer_decay: Positive = 0.9
    warmup_ratio: Probability = 0.1
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0
    attention_dropout: Probability = 0.1


def build(config: Config, checkpoint: Path) -> DistilBertForSequenceClassification:
    """tokens and attention mask (batch, time) -> logits (batch, 2); with labels (batch,) their mean cross-entropy too"""
    return load_pretrained(
        DistilBertForSequenceClassification, checkpoint, new=["pre_classifier", "classifier"], num_labels=2,
        seq_classif_dropout=config.dropout, attention_dropout=config.attention_dropout,
    )  # fmt: skip


if __name__ == "__main__":
    run(FinetuningTask(build, parse(Config)), HFTrainer())
