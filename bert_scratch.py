"""Our own classifier over BERT's encoder, trained with Hugging Face's Trainer (Devlin et al. 2019; Sun et al. 2019, 5.3.2).

A module that the library can load, save and train like its own: pooling, dropout, head and loss are written out. Long reviews
hold their verdict anywhere, so that it reads [CLS] and the mean over all words, each averaged over the last layers.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertModel, BertPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

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
    last_layers: Count = 4
    """how many of the uppermost layers are averaged; all where there are fewer"""
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


class BertClassifier(BertPreTrainedModel):
    """tokens and attention mask (batch, time) -> logits (batch, 2); with labels (batch,) their mean cross-entropy too"""

    def __init__(self, config: BertConfig):
        """The recipe's own numbers travel in the library's config, so that a saved model knows how it was made."""
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.dense = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()  # new layers as BERT's own began: normal with a deviation of 0.02, biases zero

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        layers = self.bert(input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        # the first is what goes into the layers
        states = torch.stack(layers[1:][-self.config.last_layers :]).mean(0)  # (batch, time, hidden)
        words = attention_mask.unsqueeze(-1).to(states)
        mean = (states * words).sum(1) / words.sum(1)  # (batch, hidden), without the padding
        review = self.dropout(torch.cat([states[:, 0], mean], dim=-1))  # [CLS] beside it
        logits = self.classifier(self.dropout(torch.tanh(self.dense(review))))
        loss = None if labels is None else cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def build(config: Config, checkpoint: Path) -> BertClassifier:
    """The module over the checkpoint's encoder."""
    return load_pretrained(
        BertClassifier, checkpoint, new=["dense", "classifier"], num_labels=2, last_layers=config.last_layers,
        classifier_dropout=config.dropout, attention_probs_dropout_prob=config.attention_dropout,
    )  # fmt: skip


if __name__ == "__main__":
    run(FinetuningTask(build, parse(Config)), HFTrainer())
