"""Further masked-language-model pretraining on the competition's reviews.

Devlin et al. 2019, section 3.1, task 1, on in-domain text (Sun et al. 2019, section 5.4; Gururangan et al. 2020).
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
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaForMaskedLM,
    RobertaModel,
)  # fmt: skip

from popcorn.config import FineTuneConfig
from popcorn.data.batching import EncodedReviews
from popcorn.errors import UserError
from popcorn.models.pretrained import load_pretrained
from popcorn.training.control_callback import TrainingControlCallback
from popcorn.training.disk import require_disk_space
from popcorn.training.micro_batches import LengthGroupedBatchSampler, ReviewDataset
from popcorn.training.model_task import count_parameters
from popcorn.training.optim import layer_decay_groups
from popcorn.training.pretraining import key_of, train_once
from popcorn.training.review_trainer import (
    IGNORE_INDEX,
    ReviewTrainer,
    TrainingArguments,
    complete_arguments,
    keep_pretrained,
    last_checkpoint,
)
from popcorn.utils.files import fingerprint

MASKED = 0.15
"""fraction of the subwords that are masked"""


@dataclass(frozen=True)
class ModelClasses:
    """The classes of one model type."""

    model: type[PreTrainedModel]
    encoder: type[PreTrainedModel] | None
    """the part that is kept; None for the whole language model, if the classifier starts from its head"""
    head: tuple[str, ...]
    """modules of the language model that a checkpoint may lack"""
    attention_dropout: str = "attention_probs_dropout_prob"
    """the config's name of that option"""


MODEL_CLASSES = {
    "bert": ModelClasses(BertForMaskedLM, BertModel, ("cls",)),
    "distilbert": ModelClasses(
        DistilBertForMaskedLM, DistilBertModel, ("vocab_transform", "vocab_layer_norm", "vocab_projector"), "attention_dropout"
    ),
    "roberta": ModelClasses(RobertaForMaskedLM, RobertaModel, ("lm_head",)),
    "modernbert": ModelClasses(ModernBertForMaskedLM, None, ("head", "decoder"), "attention_dropout"),
}


def require_masked_lm(model_type: str) -> None:
    """Raises `UserError` for a model type whose checkpoints are not masked language models."""
    if model_type not in MODEL_CLASSES:
        raise UserError(
            f"--further-pretrain trains a masked language model, and {model_type!r} models are pretrained in another way: leave "
            "it out"
        )


class MaskedTrainer(ReviewTrainer):
    """Trains a masked language model; its head computes only the masked subwords.

    This takes a seventh of the head's time and memory.
    """

    def mean_loss(self, model, inputs: dict[str, Tensor]):
        """The same loss as with all tokens; the logits are (1, masked, vocabulary)."""
        masked = inputs["labels"] != IGNORE_INDEX

        def narrow(encoder, arguments, output):
            output.last_hidden_state = output.last_hidden_state[masked].unsqueeze(0)
            return output

        with self.accelerator.unwrap_model(model).base_model.register_forward_hook(narrow):
            return super().mean_loss(model, inputs | {"labels": inputs["labels"][masked].unsqueeze(0)})


class FurtherPretraining:
    """A further pretrained checkpoint, in a folder named by its inputs' checksum."""

    def __init__(self, config: FineTuneConfig, reviews: EncodedReviews, tokenizer: PreTrainedTokenizerBase, content: str):
        """`content`: checksum of the checkpoint and of the reviews.

        The first `--max-train-samples` reviews are used.
        """
        self.config = replace(config, epochs=config.pretrain_epochs, learning_rate=config.pretrain_learning_rate, layer_decay=1.0)
        self.checkpoint, self.tokenizer, self.classes = config.checkpoint, tokenizer, MODEL_CLASSES[config.MODEL_TYPE]
        self.dataset = ReviewDataset(reviews, np.arange(len(reviews))[: config.max_train_samples])
        key = key_of(config, content, config.attention_dropout)
        self.folder = config.output_dir / "runs" / "further-pretrained" / f"{Path(config.model).name}-{key}"
        """where the new checkpoint is, once `train` has made it"""

    def train(self, deadline: float) -> None:
        """Trains the checkpoint, or reuses an earlier one; see `train_once`."""
        train_once(self.folder, len(self.dataset), lambda *where: self._train(*where, deadline), self.config, self._write)

    def _write(self, trainer: ReviewTrainer, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        if self.classes.encoder is None:
            keep_pretrained(trainer.model, folder)
            return
        encoder = load_pretrained(self.classes.encoder, self.checkpoint, new=["pooler"])
        if encoder.random_weights:
            encoder.pooler = None  # a random pooler must not be saved like a pretrained one
        # the language model has no pooler, so the checkpoint's pooler stays
        missing, unexpected = encoder.load_state_dict(trainer.model.base_model.state_dict(), strict=False)
        mismatched = [*unexpected, *(name for name in missing if not name.startswith("pooler."))]
        if mismatched:
            raise ValueError(f"the language model's encoder is not the checkpoint's: {mismatched}")
        keep_pretrained(encoder, folder)

    def _train(self, micro_batch_size: int, fit_dir: Path, deadline: float) -> ReviewTrainer:
        config = self.config
        set_seed(config.seed)  # for a new head, where the checkpoint has no language model's head
        dropout = {self.classes.attention_dropout: config.attention_dropout}
        model = load_pretrained(self.classes.model, self.checkpoint, new=self.classes.head, **dropout)
        require_disk_space(fit_dir, count_parameters(model)[0], models=1)
        batches = LengthGroupedBatchSampler(self.dataset, config.batch_size, micro_batch_size, config.seed)
        groups = layer_decay_groups(model, model.config.num_hidden_layers, config)
        mask = DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=MASKED)

        def masked(items: list[dict]) -> dict[str, torch.Tensor]:
            # the mask depends on epoch and review alone, so a resumed run has the same; dropout's random state is unchanged
            with torch.random.fork_rng(devices=[]):
                # not torch.manual_seed, which would reset the GPU's random state too
                torch.default_generator.manual_seed(int(fingerprint(config.seed, batches.epoch, items[0]["input_ids"])[:8], 16))
                return mask(items)

        recipe = TrainingArguments(
            learning_rate=config.learning_rate, lr_scheduler_type="linear", warmup_steps=config.warmup_ratio,
            weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm,
        )  # fmt: skip
        trainer = MaskedTrainer(
            model, groups, batches, TrainingControlCallback(batches, config.checkpoint_every, deadline), config.epochs,
            args=complete_arguments(recipe, config, fit_dir, batches, micro_batch_size, config.epochs),
            data_collator=masked, train_dataset=self.dataset,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=last_checkpoint(fit_dir))
        return trainer
