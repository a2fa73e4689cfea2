"""RoBERTa fine-tuned with Hugging Face's Trainer and the library's own classifier (Liu et al. 2019, section 5).

BERT's architecture, pretrained longer on more text, on words as they stand, capitals included, and without next-sentence
prediction: nothing has trained a summary at <s>, so that the whole head (dense, tanh, projection) is new.
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import RobertaForSequenceClassification

from popcorn.config import Count, FineTuneConfig, NonNegative, Positive, Probability, parse
from popcorn.models.pretrained import load_pretrained
from popcorn.runs.run import run
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.hf_trainer import HFTrainer


@dataclass
class Config(FineTuneConfig):
    """What this model adds to the options of all pretrained models."""

    MODEL_TYPE = "roberta"
    model: str = "roberta-base"
    """a RoBERTa of the Hugging Face hub, or the folder of one (on Kaggle: Add Input, Models)"""

    # the recipe: AdamW, cross-entropy, linear warm-up and decay, early stopping; --help explains each
    max_length: Count = 512
    epochs: Count = 4
    patience: Count = 2
    batch_size: Count = 32
    learning_rate: Positive = 2e-5
    layer_decay: Positive = 0.95
    warmup_ratio: Probability = 0.06
    weight_decay: NonNegative = 0.1
    max_grad_norm: Positive = 1.0
    attention_dropout: Probability = 0.1


def build(config: Config, checkpoint: Path) -> RobertaForSequenceClassification:
    """tokens and attention mask (batch, time) -> logits (batch, 2); with labels (batch,) their mean cross-entropy too"""
    return load_pretrained(
        RobertaForSequenceClassification, checkpoint, new=["classifier"], num_labels=2,
        attention_probs_dropout_prob=config.attention_dropout,
    )  # fmt: skip


if __name__ == "__main__":
    run(FinetuningTask(build, parse(Config)), HFTrainer())
