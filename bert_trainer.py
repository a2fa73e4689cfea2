"""BERT fine-tuned with Hugging Face's Trainer and classifier (Devlin et al. 2019, section 4).

The input is [CLS] review [SEP]. The pooler, trained by next-sentence prediction, computes a vector at [CLS], and a new linear
layer classifies it. All parameters are trained, lower layers at lower learning rates (Sun et al. 2019).
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import BertForSequenceClassification

from popcorn.config import Count, FineTuneConfig, NonNegative, Positive, Probability, parse
from popcorn.models.pretrained import load_pretrained
from popcorn.runs.run import run
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.hf_trainer import HFTrainer, TrainingArguments


@dataclass
class Config(FineTuneConfig):
    """This model's options, in addition to those of all pretrained models."""

    MODEL_TYPE = "bert"
    model: str = "bert-base-uncased"
    """a BERT on the Hugging Face hub, on Kaggle (owner/model/framework/variation), or in a local folder"""
    dropout: Probability = 0.1
    """dropout probability of the pooled output"""

    # the recipe: cross-entropy, and the arguments of the Trainer below; training stops after `patience`
    # epochs without a better validation AUC, and the best epoch predicts; popcorn/config.py explains each option
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
    """tokens and attention mask (batch, time) -> logits (batch, 2), and optionally the loss"""
    return load_pretrained(
        BertForSequenceClassification, checkpoint, new=["classifier"], num_labels=2,
        classifier_dropout=config.dropout, attention_probs_dropout_prob=config.attention_dropout,
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
