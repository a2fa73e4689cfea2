"""A word-level language model, trained on the competition's reviews: a classifier starts from its encoder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import CausalLMOutput

from popcorn.config import WordVectorConfig
from popcorn.data.splits import Split
from popcorn.data.word_tokenizer import PAD
from popcorn.errors import UserError
from popcorn.models.layers import mask_of
from popcorn.training.control_callback import TrainingControlCallback
from popcorn.training.disk import require_disk_space
from popcorn.training.micro_batches import LengthGroupedBatchSampler, ReviewDataset
from popcorn.training.model_task import count_parameters
from popcorn.training.pretraining import key_of, train_once
from popcorn.training.pseudo_labels import add_unlabeled
from popcorn.training.review_trainer import (
    IGNORE_INDEX,
    ReviewTrainer,
    TrainingArguments,
    complete_arguments,
    last_checkpoint,
)
from popcorn.training.word_model import ModelClass, WordModelTask
from popcorn.utils.files import write_json

LanguageModelClass = Callable[[WordVectorConfig, Tensor, Tensor], nn.Module]
"""config, vectors (vocabulary, width) and counts (vocabulary,) to a module with an `encoder`: tokens (batch, time) and lengths
(batch,) -> log-probability (targets,); targets are all words of a review but one in each direction"""
WEIGHTS = "encoder.safetensors"
INITIALIZATION_REVIEWS = 128
"""reviews that initialize the classifier: their statistics differ little from those of all"""


class LanguageModelTask(WordModelTask):
    """A model whose `encoder` starts from a language model, trained on all training reviews.

    Its `initialize_classifier` then takes some of the reviews.
    """

    def __init__(
        self, model_class: ModelClass, language_model: LanguageModelClass, config: WordVectorConfig, with_unlabeled: bool = False
    ):
        """`with_unlabeled`: the model is trained on the unlabeled reviews too; their label is NaN without a teacher."""
        super().__init__(model_class, config)
        self.language_model_class, self.with_unlabeled = language_model, with_unlabeled

    def load(self) -> None:
        super().load()
        self.language_model = WordLanguageModel(self.language_model_class, self)
        self.provenance["language_model"] = self.language_model.folder.name

    def pretrain(self, deadline: float) -> None:
        """Trains the language model, or reuses an earlier one."""
        self.language_model.train(deadline)

    def build_model(self) -> nn.Module:
        model = super().build_model()
        self.language_model.load_encoder(model.encoder)
        some = np.random.RandomState(0).permutation(self.language_model.dataset.rows)[:INITIALIZATION_REVIEWS]
        model.initialize_classifier(*self.train.batch(some))
        return model

    def with_pseudo_labels(self, split: Split) -> tuple[Split, np.ndarray]:
        """The split and the targets; adds at most `max_train_samples` unlabeled reviews."""
        if self.pseudo_labels or not self.with_unlabeled:
            return super().with_pseudo_labels(split)
        unlabeled = self.train.reviews[len(self.labels) :][: self.config.max_train_samples]
        return add_unlabeled(split, self.labels, np.full(len(unlabeled), np.nan))


class WordLanguageModel:
    """The encoder of a language model, in a folder named by its inputs' checksum."""

    def __init__(self, model_class: LanguageModelClass, task: WordModelTask):
        """Takes the task's training reviews, labeled or not; the first `--max-train-samples` of them."""
        config = task.config
        self.config = replace(
            config, epochs=config.pretrain_epochs, learning_rate=config.pretrain_learning_rate,
            batch_size=config.pretrain_batch_size,
        )  # fmt: skip
        self.dataset = ReviewDataset(task.train, np.arange(len(task.train))[: config.max_train_samples])
        words = np.concatenate([task.train.reviews[row] for row in self.dataset.rows])
        self.model_class, self.vectors = model_class, task.vectors
        self.counts = torch.from_numpy(np.bincount(words, minlength=len(task.vectors)))
        key = key_of(self.config, task.competition.checksum, task.provenance, str(self.build()))
        self.folder = config.output_dir / "runs" / "language-model" / key
        """folder of the encoder, once `train` has created it"""

    def build(self) -> nn.Module:
        """A new language model for the Trainer."""
        return MeanLoss(self.model_class(self.config, self.vectors, self.counts))

    def train(self, deadline: float) -> None:
        """Trains the language model, or reuses an earlier one; see `train_once`."""
        train_once(self.folder, len(self.dataset), lambda *where: self._train(*where, deadline), self.config, self._write)

    def load_encoder(self, encoder: nn.Module) -> None:
        """Loads the trained weights; raises `UserError` where they are damaged."""
        try:
            encoder.load_state_dict(load_file(self.folder / WEIGHTS))
        except (OSError, RuntimeError, SafetensorError) as problem:
            raise UserError(
                f"the language model in {self.folder} is damaged ({problem}): remove the folder, and it is trained again"
            ) from problem

    def _train(self, micro_batch_size: int, fit_dir: Path, deadline: float) -> ReviewTrainer:
        config = self.config
        set_seed(config.seed)
        model = self.build()
        require_disk_space(fit_dir, count_parameters(model)[0], models=1)
        batches = LengthGroupedBatchSampler(self.dataset, config.batch_size, micro_batch_size, config.seed)
        groups = [{"params": list(model.parameters()), "lr": config.learning_rate}]
        recipe = TrainingArguments(
            learning_rate=config.learning_rate, lr_scheduler_type="linear", warmup_steps=config.warmup_ratio,
            weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm,
        )  # fmt: skip
        trainer = ReviewTrainer(
            model, groups, batches, TrainingControlCallback(batches, config.checkpoint_every, deadline), config.epochs,
            args=complete_arguments(recipe, config, fit_dir, batches, micro_batch_size, config.epochs),
            data_collator=collate, train_dataset=self.dataset,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=last_checkpoint(fit_dir))
        return trainer

    def _write(self, trainer: ReviewTrainer, folder: Path) -> None:
        write_json(folder / "log.json", {"log": trainer.state.log_history})
        save_file(trainer.model.model.encoder.state_dict(), folder / WEIGHTS)


class MeanLoss(nn.Module):
    """Wraps a language model for the library's Trainer.

    labels (batch, time) only give the number of targets.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, lengths: Tensor, labels: Tensor) -> CausalLMOutput:
        log_probability = self.model(tokens, lengths)
        return CausalLMOutput(loss=-log_probability.mean(), logits=log_probability)


def collate(items: list[dict]) -> dict[str, Tensor]:
    """Reviews as a batch; its labels are the targets of the forward direction.

    The backward direction has as many targets.
    """
    reviews = [torch.tensor(item["input_ids"]) for item in items]
    lengths = torch.tensor([len(review) for review in reviews])
    tokens = pad_sequence(reviews, batch_first=True, padding_value=PAD)
    labels = tokens.masked_fill(~mask_of(lengths, tokens.shape[1]), IGNORE_INDEX)
    labels[:, 0] = IGNORE_INDEX
    return {"tokens": tokens, "lengths": lengths, "labels": labels}
