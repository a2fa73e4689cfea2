"""BERT fine-tuned in a PyTorch loop (Devlin et al. 2019, section 4.1).

The encoder is the library's BertModel. The classifier is written out here: the pooler's output at [CLS], dropout, and one
linear layer to the logit of a positive review. Lower layers have lower learning rates (Sun et al. 2019). The training loop is
`train` below. A `Session` (popcorn/training/session.py) handles checkpoints, resume and memory.
"""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import BertModel

from popcorn.config import Count, FineTuneConfig, NonNegative, Positive, Probability, parse
from popcorn.models.layers import mask_of
from popcorn.models.pretrained import load_pretrained
from popcorn.runs.run import run
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.losses import duplicate_batch, pooled_features, supervised_contrastive, symmetric_kl
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.session import Session


@dataclass
class Config(FineTuneConfig):
    """This model's options, in addition to those of all pretrained models."""

    MODEL_TYPE = "bert"
    model: str = "bert-base-uncased"
    """a BERT on the Hugging Face hub, on Kaggle (owner/model/framework/variation), or in a local folder"""
    dropout: Probability = 0.1
    """dropout probability of the pooled output"""

    # the recipe: binary cross-entropy, AdamW, linear warm-up and decay of the learning rate; training stops after `patience`
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


class BERT(nn.Module):
    """tokens (batch, time), lengths (batch,) -> logit (batch,)"""

    def __init__(self, config: Config, checkpoint: Path):
        """Loads encoder and pooler from the checkpoint; initializes the classifier like BERT's layers."""
        super().__init__()
        self.bert = load_pretrained(BertModel, checkpoint, attention_probs_dropout_prob=config.attention_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(self.bert.config.hidden_size, 1)
        nn.init.normal_(self.classifier.weight, std=self.bert.config.initializer_range)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        # the mask excludes the padding from attention
        outputs = self.bert(input_ids=tokens, attention_mask=mask_of(lengths, tokens.shape[1]).long())
        return self.classifier(self.dropout(outputs.pooler_output)).squeeze(-1)  # of (batch, hidden)


def train(session: Session) -> None:
    """Mini-batch training with AdamW, linear warm-up and decay, and gradient clipping.

    Validates after every epoch.
    """
    config, model = session.config, session.model
    for epoch in session.epochs():  # at most config.epochs; fewer with early stopping or a time budget
        for batch in session.batches(epoch):  # a resumed run continues where it stopped
            for attempt in session.attempts(batch):  # again, with smaller micro-batches, if memory runs out
                with attempt:
                    for inputs, labels in session.micro_batches(batch):
                        if config.rdrop_alpha:  # two passes with different dropout
                            inputs, (labels,) = duplicate_batch(*inputs), duplicate_batch(labels)
                        with pooled_features(model) as features:
                            logits = model(*inputs)  # (micro-batch,)
                        loss = binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="sum")
                        if config.scl:  # features of reviews with the same label should be similar
                            contrast = supervised_contrastive(features[0], labels).sum()
                            loss = (1 - config.scl) * loss + config.scl * contrast
                        if config.rdrop_alpha:
                            loss = loss / 2 + config.rdrop_alpha / 2 * symmetric_kl(logits).sum()
                        session.backward(loss / len(batch), logits, labels)
            session.accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            session.optimizer.step()
            session.scheduler.step()
            session.optimizer.zero_grad()
            session.end_step()
        session.end_epoch(session.evaluate())


if __name__ == "__main__":
    run(FinetuningTask(BERT, parse(Config)), PyTorchTrainer(train))
