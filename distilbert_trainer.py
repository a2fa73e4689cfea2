"""DistilBERT fine-tuned with Hugging Face's Trainer and classifier (Sanh et al. 2019).

DistilBERT has half of BERT's layers, trained to reproduce BERT's outputs. It has no pooler: a new dense layer with ReLU processes
[CLS] before the classifier. Both start at random, so they need a higher learning rate than BERT's pretrained pooler.
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import DistilBertForSequenceClassification

from popcorn.config import Count, FineTuneConfig, NonNegative, Positive, Probability, parse
from popcorn.models.pretrained import load_pretrained
from popcorn.runs.run import run
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.hf_trainer import HFTrainer, TrainingArguments


@dataclass
class Config(FineTuneConfig):
    """This model's options, in addition to those of all pretrained models."""

    MODEL_TYPE = "distilbert"
    model: str = "distilbert-base-uncased"
    """a DistilBERT on the Hugging Face hub, on Kaggle (owner/model/framework/variation), or in a local folder"""
    dropout: Probability = 0.2
    """dropout probability before the classifier (seq_classif_dropout)"""

    # the recipe: cross-entropy, and the arguments of the Trainer below; training stops after `patience`
    # epochs without a better validation AUC, and the best epoch predicts; popcorn/config.py explains each option
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
    """tokens and attention mask (batch, time) -> logits (batch, 2), and optionally the loss"""
    return load_pretrained(
        DistilBertForSequenceClassification, checkpoint, new=["pre_classifier", "classifier"], num_labels=2,
        seq_classif_dropout=config.dropout, attention_dropout=config.attention_dropout,
    )  # fmt: skip


def training_arguments(config: Config) -> TrainingArguments:
    """The recipe as the Trainer receives it; popcorn/training/hf_trainer.py adds what does not change the model.

    That is precision, evaluation, checkpoints and micro-batches. A `warmup_steps` below 1 is a fraction of all steps.
    """
    return TrainingArguments(
        num_train_epochs=config.epochs, per_device_train_batch_size=config.batch_size, optim="adamw_torch_fused",
        learning_rate=config.learning_rate, lr_scheduler_type="linear", warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm,
    )  # fmt: skip


if __name__ == "__main__":
    run(FinetuningTask(build, parse(Config)), HFTrainer(training_arguments))
