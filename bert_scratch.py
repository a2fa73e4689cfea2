"""A custom classifier on BERT's encoder, trained with Hugging Face's Trainer (Devlin et al. 2019).

The library can load, save and train this module like its own classes. Pooling, dropout, head and loss are written out. In a long
review the opinion may be anywhere. So the head uses [CLS] and the mean over all words, both averaged over the last layers (Sun et
al. 2019, 5.3.2).
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
from popcorn.training.hf_trainer import HFTrainer, TrainingArguments


@dataclass
class Config(FineTuneConfig):
    """This model's options, in addition to those of all pretrained models."""

    MODEL_TYPE = "bert"
    model: str = "bert-base-uncased"
    """a BERT on the Hugging Face hub, on Kaggle (owner/model/framework/variation), or in a local folder"""
    last_layers: Count = 4
    """number of top layers to average; all, if the model has fewer"""
    dropout: Probability = 0.1
    """dropout probability of the pooled states"""

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


class BertClassifier(BertPreTrainedModel):
    """tokens and attention mask (batch, time) -> logits (batch, 2), and optionally the loss"""

    def __init__(self, config: BertConfig):
        """The library's config includes this recipe's settings, so that a saved model can be rebuilt."""
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.dense = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()  # new layers like BERT's: normal with standard deviation 0.02, biases 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> SequenceClassifierOutput:
        layers = self.bert(input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        # hidden_states[0] is the input of the first layer
        states = torch.stack(layers[1:][-self.config.last_layers :]).mean(0)  # (batch, time, hidden)
        words = attention_mask.unsqueeze(-1).to(states)
        mean = (states * words).sum(1) / words.sum(1)  # (batch, hidden), without the padding
        review = self.dropout(torch.cat([states[:, 0], mean], dim=-1))  # [CLS] and mean
        logits = self.classifier(self.dropout(torch.tanh(self.dense(review))))
        loss = None if labels is None else cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def build(config: Config, checkpoint: Path) -> BertClassifier:
    """The module, with its encoder from the checkpoint."""
    return load_pretrained(
        BertClassifier, checkpoint, new=["dense", "classifier"], num_labels=2, last_layers=config.last_layers,
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
