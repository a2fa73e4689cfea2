"""The engine of the *_trainer scripts and of bert_scratch: Hugging Face's Trainer. The scripts' one call is `run`."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy.special import expit
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedModel

from popcorn.config import FineTuneConfig, PretrainedConfig
from popcorn.data.batching import Reviews
from popcorn.data.splits import Split
from popcorn.data.subword_tokenizer import load_tokenizer
from popcorn.errors import UserError
from popcorn.metrics import SELECTION_METRIC, compute_metrics
from popcorn.runs import engine
from popcorn.runs.engine import Fitting, Task
from popcorn.training.checkpoint import disk_errors_as_user_error
from popcorn.training.finetuning_task import Build, finetuning_task
from popcorn.training.fit_result import FitResult
from popcorn.training.hf_trainer import (
    LengthGroupedBatchSampler,
    PredictingTrainer,
    ReviewDataset,
    ReviewTrainer,
    TrainingControlCallback,
    arguments,
    keep_pretrained,
    last_checkpoint,
    log_of,
    retry_on_oom,
)
from popcorn.training.losses import duplicate_batch, symmetric_kl
from popcorn.training.optim import optimizer_and_schedule
from popcorn.utils import usage


def run(build: Build, config: FineTuneConfig) -> None:
    """Reads the reviews as subwords, fine-tunes the model with the Trainer, and writes its submissions."""
    engine.run(hugging_face, lambda: finetuning_task(build, config), config)


class FineTuner(ReviewTrainer):
    """A classifier of two classes, trained by its own loss, with R-Drop where `rdrop_alpha` is not zero."""

    rdrop_alpha = 0.0

    def mean_loss(self, model, inputs: dict[str, Tensor]):
        """The model's loss, or that of two passes."""
        if not (self.rdrop_alpha and model.training):
            return super().mean_loss(model, inputs)
        outputs = model(**dict(zip(inputs, duplicate_batch(*inputs.values()), strict=True)))
        return outputs.loss + self.rdrop_alpha / 2 * symmetric_kl(log_odds(outputs.logits.float())).mean(), outputs

    def _save_checkpoint(self, *arguments, **options) -> None:
        super()._save_checkpoint(*arguments, **options)
        if self.is_world_process_zero():
            usage.update_usage(Path(self.args.output_dir).parent)

    def keep(self, folder: Path) -> None:
        """Leaves the weights that predicted, with the tokenizer, as the library loads them, whole or not at all.

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


class LastFit:
    """The trainer whose predictions come first: its model is kept once they are written."""

    def __init__(self):
        self.trainer: FineTuner | None = None
        self.failure: UserError | None = None

    def replace(self, trainer: FineTuner, folder: Path | None) -> None:
        """Takes a trainer whose model belongs into the folder, or nowhere."""
        self.trainer, self.folder = trainer, folder

    def keep(self) -> None:
        """Keeps the model and frees its memory. A failure waits: it must not end the run before its submission."""
        if self.trainer is None:
            return
        try:
            if self.folder:
                self.trainer.keep(self.folder)
        except UserError as failure:
            self.failure = self.failure or failure
        self.trainer.accelerator.free_memory()
        self.trainer = None

    def finish(self) -> None:
        """Keeps the last model, and raises the first failure."""
        self.keep()
        if self.failure:
            raise self.failure


def log_odds(logits: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """logits (batch, 2) -> (batch,), of a positive review"""
    return logits[:, 1] - logits[:, 0]


def figures(prediction) -> dict[str, float]:
    """The validation's figures from the Trainer's logits and labels."""
    return compute_metrics(prediction.label_ids, expit(log_odds(prediction.predictions.astype(np.float64))))


@contextmanager
def hugging_face(
    task: Task, config: PretrainedConfig, folder: Path, deadline: float, tuner: type[FineTuner] = FineTuner
) -> Iterator[Fitting]:
    """A `popcorn.engine.Engine`; `tuner` is the Trainer that it fits with."""
    collate = DataCollatorWithPadding(load_tokenizer(config))
    largest, speed = config.micro_batch_size or config.batch_size, 0.0
    last = LastFit()

    def fit(build: Callable[[], PreTrainedModel], targets: np.ndarray, part: Split, own: Path) -> FitResult:
        last.keep()
        rows = part.train
        held = by_length(task.train, part.validation)
        predictions = len(task.test) + len(held)

        def train(micro_batch_size: int) -> tuple[FineTuner, TrainingControlCallback]:
            nonlocal largest
            largest = micro_batch_size  # what memory did not hold once is not tried again in the next part
            dataset = ReviewDataset(task.train, rows, targets)
            batches = LengthGroupedBatchSampler(dataset, config.batch_size, micro_batch_size, config.seed)
            checkpoint = last_checkpoint(own)
            before = epochs_of(log_of(checkpoint), batches.batches)
            # a fit that patience had ended is not taken up again
            epochs = len(before) if is_patience_over(before, config.patience) else part.epochs or config.epochs
            model = build()
            validated = {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": SELECTION_METRIC}
            trainer = tuner(
                model, batches, TrainingControlCallback(batches, config.checkpoint_every, deadline, predictions, speed),
                args=arguments(
                    config, own, batches, micro_batch_size, num_train_epochs=epochs, greater_is_better=True,
                    **(validated if len(held) else {}),
                ),
                data_collator=collate, train_dataset=dataset,
                eval_dataset=ReviewDataset(task.train, held, targets) if len(held) else None,
                compute_metrics=figures, optimizers=optimizer_and_schedule(task.groups(model), config, batches.batches),
            )  # fmt: skip
            trainer.watch.should_stop = lambda log: is_patience_over(epochs_of(log, batches.batches), config.patience)
            trainer.rdrop_alpha = getattr(config, "rdrop_alpha", 0.0)
            trainer.train(resume_from_checkpoint=checkpoint)
            return trainer, trainer.watch

        nonlocal speed
        trainer, watch = retry_on_oom(train, largest)
        speed = watch.speed
        history = epochs_of(trainer.state.log_history, watch.batches.batches)
        best = max(history, key=lambda entry: entry.get(SELECTION_METRIC, entry["epoch"]), default={"epoch": 0})
        outcome = FitResult(
            validation=probability(trainer, task.train, part.validation),
            test=probability(trainer, task.test, np.arange(len(task.test))),
            epoch=best["epoch"], history=history, reviews_per_second=watch.speed, complete=not watch.is_out_of_time,
        )  # fmt: skip
        last.replace(trainer, own / "model" if outcome.complete else None)
        return outcome

    yield fit
    last.finish()


def is_patience_over(history: list[dict], patience: int) -> bool:
    """Whether so many epochs have passed without a better one; never where nothing was validated."""
    best = max(history, key=lambda entry: entry.get(SELECTION_METRIC, 0.0), default={})
    return SELECTION_METRIC in best and len(history) - best["epoch"] >= patience


def by_length(reviews: Reviews, rows: np.ndarray) -> np.ndarray:
    """`rows` from the shortest to the longest, so that batches taken in this order waste little."""
    return rows[np.argsort(reviews.lengths[rows], kind="stable")]


def probability(trainer: PredictingTrainer, reviews: Reviews, rows: np.ndarray) -> np.ndarray:
    """The probability that each of the rows is positive, float64 (len(rows),)."""
    if len(rows) == 0:
        return np.zeros(0)
    ordered = by_length(reviews, rows)
    logits = trainer.predict(ReviewDataset(reviews, ordered)).predictions.astype(np.float64)
    found = np.zeros(len(reviews))
    found[ordered] = expit(log_odds(logits))
    return found[rows]


def epochs_of(log: list[dict], steps: int) -> list[dict]:
    """The Trainer's log as one entry for each epoch that was ended; a loss there is the mean since the entry before."""
    epochs: dict[int, dict] = {}
    logged = 0
    for entry in log:
        epoch, step = -(-entry["step"] // steps), entry["step"]
        figures = epochs.setdefault(epoch, {"epoch": epoch, "loss": 0.0})
        if "loss" in entry:
            figures["loss"] += entry["loss"] * (step - logged) / steps
            logged = step
        figures |= {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_validation")}
    return [epochs[epoch] for epoch in sorted(epochs) if epoch * steps <= logged]
