"""RoBERTa fine-tuned with Hugging Face's Trainer and the library's own classifier (Liu et al. 2019, section 5).

BERT's architecture, pretrained longer on more text, on words as they stand, capitals included, and without next-sentence
prediction: nothing has trained a summary at <s>, so that the whole head (dense, tanh, projection) is new.
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import RobertaForSequenceClassification

from popcorn.config import FineTuneConfig, parse
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
    epochs: int = 4
    """at most so many passes over the training reviews (the paper takes ten, and the best of them)"""
    learning_rate: float = 2e-5
    """AdamW's peak for the head, of the three rates in the paper's table 10"""
    warmup_ratio: float = 0.06
    """share of the steps that the learning rate takes to rise (table 10)"""
    weight_decay: float = 0.1
    """AdamW's decoupled decay (table 10)"""


def build(config: Config, checkpoint: Path) -> RobertaForSequenceClassification:
    """tokens and attention mask (batch, time) -> logits (batch, 2); with labels (batch,) their mean cross-entropy too"""
    return load_pretrained(
        RobertaForSequenceClassification, checkpoint, new=["classifier"], num_labels=2,
        attention_probs_dropout_prob=config.attention_dropout,
    )  # fmt: skip


if __name__ == "__main__":
    run(FinetuningTask(build, parse(Config)), HFTrainer())
