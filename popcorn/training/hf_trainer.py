"""Fine-tunes a pretrained model with Hugging Face's Trainer."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate import PartialState
from scipy.special import expit
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import DataCollatorWithPadding, EvalPrediction

from popcorn.config import PretrainedConfig
from popcorn.data.batching import EncodedReviews
from popcorn.data.splits import Split
from popcorn.errors import UserError
from popcorn.metrics import SELECTION_METRIC, compute_metrics
from popcorn.training.checkpoint import disk_errors_as_user_error
from popcorn.training.control_callback import TrainingControlCallback
from popcorn.training.finetuning_task import PretrainedTask
from popcorn.training.fit_result import FitResult
from popcorn.training.losses import (
    duplicate_batch,
    log_contrastive_limit,
    pooled_features,
    supervised_contrastive,
    symmetric_kl,
)
from popcorn.training.micro_batches import LengthGroupedBatchSampler, ReviewDataset
from popcorn.training.processes import start_processes, summary_of
from popcorn.training.review_trainer import (
    PredictingTrainer,
    ReviewTrainer,
    TrainingArguments,
    complete_arguments,
    keep_pretrained,
    last_checkpoint,
    log_of,
    retry_on_oom,
)
from popcorn.utils import usage

RECIPE = (
    "num_train_epochs", "per_device_train_batch_size", "optim", "learning_rate", "lr_scheduler_type", "warmup_steps",
    "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon", "label_smoothing_factor",
)  # fmt: skip
"""arguments that change the trained model"""
MakeArguments = Callable[[PretrainedConfig], TrainingArguments]
"""a script's config to the Trainer's arguments of its recipe"""


class FineTuner(ReviewTrainer):
    """Trains a classifier of two classes by its loss, optionally with R-Drop and a contrastive loss."""

    rdrop_alpha = 0.0
    scl = 0.0

    def mean_loss(self, model, inputs: dict[str, Tensor]):
        """The model's loss, or the cross-entropy with a teacher's probabilities.

        In training also R-Drop's divergence of two passes, and the contrastive loss.
        """
        if self.rdrop_alpha and model.training:
            inputs = dict(zip(inputs, duplicate_batch(*inputs.values()), strict=True))
        labels = inputs["labels"]  # label smoothing removes them
        with pooled_features(model) if self.scl and model.training else nullcontext() as features:
            if labels.is_floating_point():  # the library's loss takes classes only
                smoothing = self.args.label_smoothing_factor if model.training else 0.0
                labels = labels * (1 - smoothing) + smoothing / 2
                outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
                loss = binary_cross_entropy_with_logits(log_odds(outputs.logits.float()), labels.float())
            else:
                loss, outputs = super().mean_loss(model, inputs)
        if self.scl and model.training:
            loss = (1 - self.scl) * loss + self.scl * supervised_contrastive(features[0], labels).mean()
        if self.rdrop_alpha and model.training:
            loss = loss + self.rdrop_alpha / 2 * symmetric_kl(log_odds(outputs.logits.float())).mean()
        return loss, outputs

    def _save_checkpoint(self, *arguments, **options) -> None:
        super()._save_checkpoint(*arguments, **options)
        if self.is_world_process_zero():
            usage.update(Path(self.args.output_dir).parent)

    def save_artifacts(self, folder: Path) -> None:
        """Saves the best weights and the tokenizer in the library's format, atomically.

        Raises `UserError` where they cannot be written.
        """
        if not self.is_world_process_zero():
            return
        unfinished = folder.with_name(folder.name + ".unfinished")
        try:
            fix = "what it predicts is safe; to use it with predict, free some space and run the script again without --resume"
            with disk_errors_as_user_error(folder, "the trained model", fix):
                for earlier in (folder, unfinished):
                    shutil.rmtree(earlier, ignore_errors=True)
                self.write_model(unfinished)
                unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def write_model(self, folder: Path) -> None:
        """Writes the files of a model into the folder."""
        keep_pretrained(self.model, folder)
        self.data_collator.tokenizer.save_pretrained(folder)


def log_odds(logits: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """logits (batch, 2) -> log-odds of a positive review (batch,)"""
    return logits[:, 1] - logits[:, 0]


def require_whole_numbers(recipe: TrainingArguments) -> None:
    """Raises `UserError` for arguments that the micro-batches here would silently change."""
    if recipe.gradient_accumulation_steps != 1:
        raise UserError(
            f"gradient_accumulation_steps is {recipe.gradient_accumulation_steps}: give the whole batch as "
            "per_device_train_batch_size, and its parts with --micro-batch-size"
        )
    if recipe.num_train_epochs != int(recipe.num_train_epochs):
        raise UserError(f"num_train_epochs is {recipe.num_train_epochs}: give a whole number")


def metrics_of(prediction: EvalPrediction) -> dict[str, float]:
    """Validation metrics from the Trainer's logits and labels."""
    return compute_metrics(prediction.label_ids, expit(log_odds(prediction.predictions.astype(np.float64))))


class HFTrainer:
    """Trains on one split after another with Hugging Face's Trainer.

    Each model is saved after the submissions, because a full disk may prevent it.
    """

    trainer_class: type[FineTuner] = FineTuner

    def __init__(self, training_arguments: MakeArguments):
        self.training_arguments = training_arguments

    def start(self, config: PretrainedConfig) -> dict[str, str]:
        """Joins the processes; returns the arguments that must be the same on resume.

        Raises `UserError` as `start_processes` does.
        """
        start_processes(config)
        recipe = self.training_arguments(config)
        return {"training_arguments": ", ".join(f"{name} {getattr(recipe, name)}" for name in RECIPE)}

    def set_up(self, task: PretrainedTask, run_dir: Path, deadline: float) -> None:
        """Takes what all splits have in common; `deadline` is a `time.monotonic()`."""
        self.task, self.config, self.run_dir, self.deadline = task, task.config, run_dir, deadline
        self.recipe = self.training_arguments(task.config)
        require_whole_numbers(self.recipe)
        self.batch_size = self.recipe.per_device_train_batch_size
        of_process = -(-self.batch_size // PartialState().num_processes)
        self.micro_batch_size = min(task.config.micro_batch_size or of_process, of_process)
        self.speed = 0.0
        """reviews per second of the last fit, for the time budget of the next"""
        self.unsaved: tuple[FineTuner, Path] | None = None
        self.failure: UserError | None = None

    def fit(self, split: Split) -> FitResult:
        """Trains a new model, or resumes a checkpoint; predicts with the best epoch's weights."""
        self._save_last_model()
        split, targets = self.task.with_pseudo_labels(split)
        trainer = retry_on_oom(lambda size: self._train(split, targets, size), self.micro_batch_size)
        control = trainer.control_callback
        self.speed = control.speed
        history = epochs_of(trainer.state.log_history, control.batches.batches)
        best = max(history, key=lambda entry: entry.get(SELECTION_METRIC, entry["epoch"]), default={"epoch": 0})
        result = FitResult(
            validation=predict_probability(trainer, self.task.train, split.validation),
            test=predict_probability(trainer, self.task.test, np.arange(len(self.task.test))),
            epoch=best["epoch"], history=history, reviews_per_second=control.speed, complete=not control.is_out_of_time,
        )  # fmt: skip
        if trainer.is_world_process_zero():
            usage.update(self.run_dir)
        self.unsaved = trainer, self.run_dir / split.name / "model" if result.complete else None
        return result

    def _train(self, split: Split, targets: np.ndarray, micro_batch_size: int) -> FineTuner:
        """Trains with micro-batches of the given size, which may not fit into memory."""
        self.micro_batch_size = micro_batch_size  # a size that did not fit into memory is not tried again in the next split
        config, task, fit_dir = self.config, self.task, self.run_dir / split.name
        dataset = ReviewDataset(task.train, split.train, targets)
        batches = LengthGroupedBatchSampler(dataset, self.batch_size, micro_batch_size, config.seed)
        log_contrastive_limit(config, -(-self.batch_size // (batches.accumulation * batches.processes)), self.batch_size)
        checkpoint = last_checkpoint(fit_dir)
        finished = epochs_of(log_of(checkpoint), batches.batches)
        schedule_epochs = int(self.recipe.num_train_epochs)
        # a training that early stopping ended is not resumed
        epochs = len(finished) if is_patience_over(finished, config.patience) else split.epochs or schedule_epochs
        validation = sort_by_length(task.train, split.validation)
        model = task.new_model()
        rates = replace(config, learning_rate=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay)
        arguments = complete_arguments(
            self.recipe, config, fit_dir, batches, micro_batch_size, epochs, is_validated=len(validation) > 0
        )
        trainer = self.trainer_class(
            model, task.parameter_groups(model, rates), batches,
            TrainingControlCallback(
                batches, config.checkpoint_every, self.deadline, len(task.test) + len(validation), self.speed,
                lambda log: is_patience_over(epochs_of(log, batches.batches), config.patience),
            ),
            schedule_epochs,
            args=arguments, data_collator=DataCollatorWithPadding(task.tokenizer), train_dataset=dataset,
            eval_dataset=ReviewDataset(task.train, validation, targets) if len(validation) else None,
            compute_metrics=metrics_of,
        )  # fmt: skip
        trainer.rdrop_alpha, trainer.scl = getattr(config, "rdrop_alpha", 0.0), getattr(config, "scl", 0.0)
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    def _save_last_model(self) -> None:
        """Saves the last split's model and frees its memory.

        A failure is raised later, since it must not end the run before its submission.
        """
        if self.unsaved is None:
            return
        trainer, folder = self.unsaved
        try:
            if folder:
                trainer.save_artifacts(folder)
        except UserError as failure:
            self.failure = self.failure or failure
        trainer.accelerator.free_memory()
        self.unsaved = None

    def summary(self) -> dict:
        """For the saved results: parameters, precision, time and memory."""
        return summary_of(self.task, self.run_dir)

    def finish(self) -> None:
        """Saves the last model; raises `UserError` where a model could not be saved."""
        self._save_last_model()
        if self.failure:
            raise self.failure


def is_patience_over(history: list[dict], patience: int) -> bool:
    """Whether `patience` epochs passed without a better one; False without validation."""
    best = max(history, key=lambda entry: entry.get(SELECTION_METRIC, 0.0), default={})
    return SELECTION_METRIC in best and len(history) - best["epoch"] >= patience


def sort_by_length(reviews: EncodedReviews, rows: np.ndarray) -> np.ndarray:
    """`rows` from the shortest to the longest, for batches with little padding."""
    return rows[np.argsort(reviews.lengths[rows], kind="stable")]


def predict_probability(trainer: PredictingTrainer, reviews: EncodedReviews, rows: np.ndarray) -> np.ndarray:
    """The probability that each of the rows is positive, float64 (len(rows),)."""
    if len(rows) == 0:
        return np.zeros(0)
    ordered = sort_by_length(reviews, rows)
    logits = trainer.predict(ReviewDataset(reviews, ordered)).predictions.astype(np.float64)
    probability = np.zeros(len(reviews))
    probability[ordered] = expit(log_odds(logits))
    return probability[rows]


def epochs_of(log: list[dict], steps: int) -> list[dict]:
    """The Trainer's log as one entry per finished epoch.

    A loss in the log is the mean since the previous entry.
    """
    epochs: dict[int, dict] = {}
    logged = 0
    for entry in log:
        epoch, step = -(-entry["step"] // steps), entry["step"]
        metrics = epochs.setdefault(epoch, {"epoch": epoch, "loss": 0.0})
        if "loss" in entry:
            metrics["loss"] += entry["loss"] * (step - logged) / steps
            logged = step
        metrics |= {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_validation")}
    return [epochs[epoch] for epoch in sorted(epochs) if epoch * steps <= logged]
