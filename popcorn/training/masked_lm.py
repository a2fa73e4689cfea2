"""Masked-language-model training on the competition's own reviews before fine-tuning.

Devlin et al. 2019, section 3.1, task 1, on the reviews of the task itself (Sun et al. 2019, section 5.4; Gururangan et al. 2020).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor
from transformers import (
    BertForMaskedLM,
    BertModel,
    DataCollatorForLanguageModeling,
    DistilBertForMaskedLM,
    DistilBertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaForMaskedLM,
    RobertaModel,
)  # fmt: skip

from popcorn.config import FineTuneConfig
from popcorn.data.batching import EncodedReviews
from popcorn.models.pretrained import load_pretrained
from popcorn.training.optim import layer_decay_groups, optimizer_and_schedule
from popcorn.training.pretraining import key_of, train_once
from popcorn.training.review_trainer import (
    IGNORE_INDEX,
    LengthGroupedBatchSampler,
    ReviewDataset,
    ReviewTrainer,
    TrainingControlCallback,
    keep_pretrained,
    last_checkpoint,
    training_arguments,
)
from popcorn.utils.files import fingerprint

MASKED = 0.15
"""share of the subwords that the model has to guess"""


@dataclass(frozen=True)
class Kind:
    """A family's classes."""

    model: type[PreTrainedModel]
    encoder: type[PreTrainedModel]
    head: tuple[str, ...]
    """parts of the language model that a checkpoint may lack"""


KINDS = {
    "bert": Kind(BertForMaskedLM, BertModel, ("cls",)),
    "distilbert": Kind(DistilBertForMaskedLM, DistilBertModel, ("vocab_transform", "vocab_layer_norm", "vocab_projector")),
    "roberta": Kind(RobertaForMaskedLM, RobertaModel, ("lm_head",)),
}


class MaskedTrainer(ReviewTrainer):
    """A Trainer of language models whose head reads the masked subwords alone, a seventh of its work and memory."""

    def mean_loss(self, model, inputs: dict[str, Tensor]):
        """As without that; the outputs' logits are (1, masked, vocabulary)."""
        masked = inputs["labels"] != IGNORE_INDEX

        def narrow(encoder, arguments, output):
            output.last_hidden_state = output.last_hidden_state[masked].unsqueeze(0)
            return output

        with self.accelerator.unwrap_model(model).base_model.register_forward_hook(narrow):
            return super().mean_loss(model, inputs | {"labels": inputs["labels"][masked].unsqueeze(0)})


class FurtherPretraining:
    """A checkpoint made from another by reading the reviews, kept under a name that holds all it depends on."""

    def __init__(self, config: FineTuneConfig, reviews: EncodedReviews, tokenizer: PreTrainedTokenizerBase, content: str):
        """`content`: checksum of the checkpoint and of the reviews, of which `--max-train-samples` takes the first."""
        self.config = replace(config, epochs=config.pretrain_epochs, learning_rate=config.pretrain_learning_rate, layer_decay=1.0)
        self.checkpoint, self.tokenizer, self.kind = config.checkpoint, tokenizer, KINDS[config.MODEL_TYPE]
        self.dataset = ReviewDataset(reviews, np.arange(len(reviews))[: config.max_train_samples])
        key = key_of(config, content, config.attention_dropout)
        self.folder = config.output_dir / "runs" / "further-pretrained" / f"{Path(config.model).name}-{key}"
        """where the new checkpoint is, once `train` has made it"""

    def train(self, deadline: float) -> None:
        """Makes the checkpoint, or finds it made; see `train_once`."""
        train_once(self.folder, len(self.dataset), lambda *where: self._train(*where, deadline), self.config, self._write)

    def _write(self, trainer: ReviewTrainer, folder: Path) -> None:
        whole = load_pretrained(self.kind.encoder, self.checkpoint, new=["pooler"])
        if whole.random_weights:
            whole.pooler = None  # a random one would be taken for the checkpoint's later
        # a language model has no pooler: the checkpoint's own stays
        missing, unexpected = whole.load_state_dict(trainer.model.base_model.state_dict(), strict=False)
        strange = [*unexpected, *(name for name in missing if not name.startswith("pooler."))]
        if strange:
            raise ValueError(f"the language model's encoder is not the checkpoint's: {strange}")
        keep_pretrained(whole, folder)
        self.tokenizer.save_pretrained(folder)

    def _train(self, micro_batch_size: int, own: Path, deadline: float) -> ReviewTrainer:
        config = self.config
        set_seed(config.seed)  # a checkpoint without a language model's head is given a new one
        dropout = "attention_dropout" if config.MODEL_TYPE == "distilbert" else "attention_probs_dropout_prob"
        model = load_pretrained(
            self.kind.model, self.checkpoint, new=self.kind.head, **{dropout: config.attention_dropout}
        )  # fmt: skip
        batches = LengthGroupedBatchSampler(self.dataset, config.batch_size, micro_batch_size, config.seed)
        groups = layer_decay_groups(model, model.config.num_hidden_layers, config)
        mask = DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=MASKED)

        def masked(items: list[dict]) -> dict[str, torch.Tensor]:
            # by the epoch and the review alone: a run that goes on asks for the same, and leaves dropout's numbers as they were
            with torch.random.fork_rng(devices=[]):
                # and not torch's own function, which begins a GPU's numbers anew too
                torch.default_generator.manual_seed(int(fingerprint(config.seed, batches.epoch, items[0]["input_ids"])[:8], 16))
                return mask(items)

        trainer = MaskedTrainer(
            model, batches, TrainingControlCallback(batches, config.checkpoint_every, deadline),
            args=training_arguments(config, own, batches, micro_batch_size, config.epochs),
            data_collator=masked, train_dataset=self.dataset, optimizers=optimizer_and_schedule(groups, config, batches.batches),
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=last_checkpoint(own))
        return trainer
