"""The engine of the *_trainer scripts and of bert_scratch: Hugging Face's Trainer. The scripts' one call is `run`."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from accelerate.utils import find_executable_batch_size
from scipy.special import expit
from torch import Tensor
from transformers import DataCollatorWithPadding, EarlyStoppingCallback, PreTrainedModel

from popcorn import engine
from popcorn.batches import Reviews
from popcorn.config import FineTuneConfig
from popcorn.engine import Fitting, Task
from popcorn.errors import say
from popcorn.experiment import Outcome, Part
from popcorn.figures import BEST, validation_figures
from popcorn.optimiser import optimiser_and_schedule
from popcorn.pretrained import recompute_activations
from popcorn.rdrop import divergence, twice
from popcorn.subwords import Build, fine_tuning, load_tokeniser
from popcorn.trainer import RECOMPUTE, MicroBatches, ReviewTrainer, Rows, Watch, arguments, halvings, last_checkpoint


def run(build: Build, config: FineTuneConfig) -> None:
    """Reads the reviews as subwords, fine-tunes the model with the Trainer, and writes its submissions."""
    engine.run(hugging_face, lambda: fine_tuning(build, config), config)


class FineTuner(ReviewTrainer):
    """A classifier of two classes, trained by its own loss, with R-Drop where `rdrop` is not zero."""

    rdrop = 0.0

    def compute_loss(self, model, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch=None):
        """The Trainer's, or that of two passes."""
        if not (self.rdrop and model.training):
            return super().compute_loss(model, inputs, return_outputs)
        outputs = model(**dict(zip(inputs, twice(*inputs.values()), strict=True)))
        loss = outputs.loss + self.rdrop / 2 * divergence(log_odds(outputs.logits.float())).mean()
        return (loss, outputs) if return_outputs else loss


def log_odds(logits: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """logits (batch, 2) -> (batch,), of a positive review"""
    return logits[:, 1] - logits[:, 0]


def figures(prediction) -> dict[str, float]:
    """The validation's figures from the Trainer's logits and labels."""
    return validation_figures(prediction.label_ids, expit(log_odds(prediction.predictions.astype(np.float64))))


@contextmanager
def hugging_face(task: Task, config: FineTuneConfig, folder: Path, deadline: float) -> Iterator[Fitting]:
    """A `popcorn.engine.Engine`."""
    collate = DataCollatorWithPadding(load_tokeniser(config))

    def fit(build: Callable[[], PreTrainedModel], targets: np.ndarray, part: Part, own: Path) -> Outcome:
        rows = part.train
        held = by_length(task.train, part.validation)
        predictions = len(task.test) + len(held)

        @find_executable_batch_size(starting_batch_size=config.batch_size, reduce_batch_size_fn=halvings(config.batch_size))
        def train(micro_batch: int) -> tuple[ReviewTrainer, Watch]:
            model = build()
            if micro_batch < config.batch_size:
                say(f"Out of memory: going on with micro-batches of {micro_batch} reviews, the same batch and the same gradient")
                if micro_batch <= RECOMPUTE:
                    recompute_activations(model)
            dataset = Rows(task.train, rows, targets)
            batches = MicroBatches(dataset, config.batch_size, micro_batch, config.seed)
            watch = Watch(batches, config.checkpoint_every, deadline, predictions)
            validated = {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": BEST}
            trainer = FineTuner(
                model, batches,
                args=arguments(
                    config, own, batches, micro_batch, num_train_epochs=part.epochs or config.epochs,
                    greater_is_better=True, **(validated if len(held) else {}),
                ),
                data_collator=collate, train_dataset=dataset, eval_dataset=Rows(task.train, held, targets) if len(held) else None,
                compute_metrics=figures, optimizers=optimiser_and_schedule(task.groups(model), config, batches.batches),
                callbacks=[watch, *([EarlyStoppingCallback(config.patience)] if len(held) else [])],
            )  # fmt: skip
            trainer.rdrop = config.rdrop
            trainer.train(resume_from_checkpoint=last_checkpoint(own))
            return trainer, watch

        trainer, watch = train()
        history = epochs_of(trainer.state.log_history, watch.batches.batches)
        best = max(history, key=lambda entry: entry.get(BEST, entry["epoch"]), default={"epoch": 0})
        outcome = Outcome(
            validation=probability(trainer, task.train, part.validation),
            test=probability(trainer, task.test, np.arange(len(task.test))),
            epoch=best["epoch"], history=history, reviews_per_second=watch.speed, complete=not watch.is_out_of_time,
        )  # fmt: skip
        if outcome.complete:
            keep_model(trainer, own)
        trainer.accelerator.free_memory()
        return outcome

    yield fit


def by_length(reviews: Reviews, rows: np.ndarray) -> np.ndarray:
    """`rows` from the shortest to the longest, so that batches taken in this order waste little."""
    return rows[np.argsort(reviews.lengths[rows], kind="stable")]


def probability(trainer: ReviewTrainer, reviews: Reviews, rows: np.ndarray) -> np.ndarray:
    """The probability that each of the rows is positive, float64 (len(rows),)."""
    if len(rows) == 0:
        return np.zeros(0)
    ordered = by_length(reviews, rows)
    logits = trainer.predict(Rows(reviews, ordered)).predictions.astype(np.float64)
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


def keep_model(trainer: ReviewTrainer, own: Path) -> None:
    """Leaves the weights that predicted, as the library loads them, in place of the checkpoints."""
    trainer.save_model(str(own / "model"))
    if trainer.is_world_process_zero():
        trainer.data_collator.tokenizer.save_pretrained(own / "model")
        for folder in own.glob("*checkpoint-*"):
            shutil.rmtree(folder)
