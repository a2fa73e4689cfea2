"""Hugging Face's Trainer for fine-tuning and for pretraining on the reviews.

It uses the batches and the parameter groups of the PyTorch loop. Optimizer, schedule, gradient accumulation, checkpoints,
evaluation and mixed precision come from the Trainer.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from popcorn.utils.packages import hide_unusable_quantizers, tensorboard_if_usable

hide_unusable_quantizers()  # the Trainer's module imports PEFT

# isort: split
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from safetensors import SafetensorError
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_pt_utils import nested_concat
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_NAME

from popcorn.config import TrainingConfig
from popcorn.errors import TrainingDivergedError, UserError, is_out_of_memory, log
from popcorn.metrics import SELECTION_METRIC
from popcorn.training.checkpoint import disk_errors_as_user_error
from popcorn.training.control_callback import TrainingControlCallback
from popcorn.training.memory import (
    Pieces,
    SharedOutOfMemoryError,
    average_gradients,
    fails_in_any_process,
    recompute_activations,
)
from popcorn.training.micro_batches import LengthGroupedBatchSampler
from popcorn.utils import hardware

IGNORE_INDEX = -100  # label of tokens without a target, in all losses of the library
RECOMPUTE = 4  # reviews: so small a micro-batch leaves the hardware idle, and recomputing activations pays off
Trained = TypeVar("Trained")


class PredictingTrainer(Trainer):
    """A Trainer that predicts and evaluates in smaller pieces if memory requires it.

    Each process does so on its own, and returns the whole batch.
    """

    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        self.pieces = Pieces()

    def prediction_step(self, model, inputs: dict[str, Tensor], *given, **options) -> tuple[Any, ...]:
        """Loss, logits and labels of the batch."""
        step = super().prediction_step
        rows = np.arange(len(next(iter(inputs.values()))))

        def predict(piece: np.ndarray) -> tuple[Any, ...]:
            part = inputs if len(piece) == len(rows) else {name: value[piece] for name, value in inputs.items()}
            return step(model, part, *given, **options)

        results = self.pieces.predict(predict, rows)
        loss, logits, labels = results[0][1]
        for piece, (piece_loss, piece_logits, piece_labels) in results[1:]:
            before = piece[0]  # the loss is a mean
            loss = None if loss is None else (before * loss + len(piece) * piece_loss) / (before + len(piece))
            logits = None if logits is None else nested_concat(logits, piece_logits)
            labels = None if labels is None else nested_concat(labels, piece_labels)
        return loss, logits, labels


class ReviewTrainer(PredictingTrainer):
    """A Trainer with `LengthGroupedBatchSampler`, whose loss is the mean over the whole batch."""

    def __init__(
        self, model, groups: list[dict], batches: LengthGroupedBatchSampler, control_callback: TrainingControlCallback,
        schedule_epochs: int, **options,
    ):  # fmt: skip
        """`groups`: parameter groups, each with its peak `lr`; `schedule_epochs`: epochs until the learning rate is 0.

        Recomputes activations if micro-batches have only a few reviews.
        """
        self.groups, self.batches, self.control_callback = groups, batches, control_callback
        self.schedule_steps = schedule_epochs * batches.batches
        self.memory_error: Exception | None = None
        pieces = batches.accumulation * batches.processes
        if batches.accumulation > 1 and -(-batches.batch_size // pieces) <= RECOMPUTE:
            recompute_activations(model)
        super().__init__(model, callbacks=[control_callback], **options)
        # then the Trainer counts the targets of a batch over all micro-batches and processes, and `compute_loss` divides by it;
        # else it would average the micro-batches' means, or add them for a model that accepts **kwargs
        self.model_accepts_loss_kwargs = True

    def create_optimizer(self, *_) -> torch.optim.Optimizer:
        """The arguments' optimizer, with the given parameter groups."""
        optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = optimizer(self.groups, weight_decay=self.args.weight_decay, **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The arguments' schedule; a refit that ends earlier has the same learning rates as in validation."""
        return super().create_scheduler(self.schedule_steps, optimizer)

    def mean_loss(self, model, inputs: dict[str, Tensor]):
        """The mean loss of a micro-batch, and the model's outputs."""
        return super().compute_loss(model, inputs, return_outputs=True)

    def compute_loss(self, model, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch=None):
        """In training, the micro-batch's part of the batch's mean loss; otherwise its own mean."""
        labels = inputs["labels"]  # label smoothing removes them
        loss, outputs = self.mean_loss(model, inputs)
        if model.training and num_items_in_batch is not None:
            # gradients are averaged over processes, so each process multiplies its own by their number
            num_targets = (labels != IGNORE_INDEX).sum()
            # without any target, the library's mean is NaN
            loss = (
                loss * num_targets / num_items_in_batch * self.accelerator.num_processes
                if num_targets
                else outputs.logits.sum() * 0
            )
        return (loss, outputs) if return_outputs else loss

    def get_train_dataloader(self) -> DataLoader:
        """The sampler has this process's micro-batches already, so Accelerate must not divide them."""
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)

    def get_batch_samples(self, epoch_iterator: Iterator[dict], num_batches: int, device: torch.device):
        """Moves batches to the device first.

        transformers 4 counts the targets of all processes before it would move them.
        """
        return super().get_batch_samples(map(self._prepare_inputs, epoch_iterator), num_batches, device)

    def training_step(self, model, *arguments, **options) -> Tensor:
        """Accumulates the gradient of a micro-batch; after the last one, shares it with the other processes.

        Raises `SharedOutOfMemoryError` in all processes if memory ran out in one of them. Raises `TrainingDivergedError` where
        the loss is not finite.
        """
        loss = torch.zeros((), device=self.args.device)
        try:
            if self.memory_error is None:
                with self.accelerator.no_sync(model):
                    loss = super().training_step(model, *arguments, **options)
        except Exception as problem:
            if self.batches.processes == 1 or not is_out_of_memory(problem):
                raise
            self.memory_error = problem
        if self.accelerator.sync_gradients:
            if fails_in_any_process(self.memory_error is not None):
                raise SharedOutOfMemoryError("memory ran out in one of the processes") from self.memory_error
            average_gradients(model)
        if not torch.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: try a lower --learning-rate or --precision "
                f"fp32; the last checkpoint before it, if there was one, is in {self.args.output_dir}"
            )
        return loss

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Saves only the weights of a checkpoint.

        The Trainer would add its arguments as a pickle.
        """
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.write_weights(folder / SAFE_WEIGHTS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        """Loads all weights; the Trainer itself would ignore missing ones.

        Raises `UserError` where a weight is missing or unexpected, or the checkpoint is incomplete.
        """
        folder = Path(resume_from_checkpoint)
        try:
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME):  # without them the Trainer would start from new ones
                if not (folder / name).is_file():
                    raise FileNotFoundError(f"it lacks {name}")
            self.read_weights(folder / SAFE_WEIGHTS_NAME)
        except (OSError, RuntimeError, SafetensorError) as problem:
            if is_out_of_memory(problem):
                raise
            reason = " ".join(str(problem).split())
            raise UserError(f"the checkpoint {folder} is damaged ({reason}): leave out --resume to start again") from problem

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def write_weights(self, path: Path) -> None:
        """Saves the trained weights, with the module's own names."""
        save_model(self.model, str(path))

    def read_weights(self, path: Path) -> None:
        """Loads the saved weights; raises `RuntimeError` for a missing or unexpected name."""
        load_model(self.model, path)

    def _save_checkpoint(self, *arguments, **options) -> None:
        with disk_errors_as_user_error(Path(self.args.output_dir)):
            super()._save_checkpoint(*arguments, **options)


def keep_pretrained(model: PreTrainedModel, folder: Path) -> None:
    """Saves the model in the library's format."""
    model.save_pretrained(folder)
    # the library renames weights to the first checkpoint's names, such as gamma and beta of a layer norm;
    # only its own loading functions know these names
    tied = model.all_tied_weights_keys  # names of weights that others share
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name not in tied}
    save_file(weights, folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})


def complete_arguments(
    recipe: TrainingArguments, config: TrainingConfig, folder: Path, batches: LengthGroupedBatchSampler, micro_batch_size: int,
    epochs: int, is_validated: bool = False,
) -> TrainingArguments:  # fmt: skip
    """The recipe, with all that has no influence on what the model learns."""
    precision = hardware.mixed_precision(config.precision)
    arguments = replace(
        recipe, output_dir=str(folder), seed=config.seed, num_train_epochs=epochs,
        per_device_train_batch_size=micro_batch_size, gradient_accumulation_steps=batches.accumulation,
        per_device_eval_batch_size=2 * micro_batch_size,
        use_cpu=not torch.accelerator.is_available(), bf16=precision == "bf16", fp16=precision == "fp16",
        save_strategy="epoch", save_total_limit=2, logging_strategy="epoch", logging_nan_inf_filter=False,
        remove_unused_columns=False, dataloader_pin_memory=torch.accelerator.is_available(), report_to=tensorboard_if_usable(),
        disable_tqdm=False,  # its default depends on the library's log level, which is set to errors
        eval_strategy="epoch" if is_validated else "no", load_best_model_at_end=is_validated,
        metric_for_best_model=SELECTION_METRIC, greater_is_better=True,
    )  # fmt: skip
    use_one_gpu(arguments)
    return arguments


def use_one_gpu(arguments: TrainingArguments) -> None:
    """Turns off nn.DataParallel, which is slower than one GPU on short batches."""
    if arguments.n_gpu > 1:
        log(f"{arguments.n_gpu} GPUs are here, and one is used: torchrun --nproc_per_node {arguments.n_gpu} uses all of them")
        arguments._n_gpu = 1


def retry_on_oom(train: Callable[[int], Trained], largest: int, option: str = "--micro-batch-size") -> Trained:
    """Trains with the largest micro-batches that fit into memory, halving their size.

    Raises `UserError`, which names the `option`, where not even one review fits. The same where one of several processes runs out
    of memory outside of a training step, since the others do not know.
    """
    size = largest
    while True:
        clear_device_cache(garbage_collection=True)
        try:
            return train(size)
        except Exception as problem:
            if not is_out_of_memory(problem):
                raise
            is_shared = PartialState().num_processes == 1 or isinstance(problem, SharedOutOfMemoryError)
            if size == 1 or not is_shared:
                raise UserError(f"memory does not suffice: give a smaller {option} or --max-length") from problem
        size //= 2
        log(f"Out of memory: continuing with micro-batches of {size} reviews; the batch stays the same")


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint; removes incomplete ones, which a kill may leave.

    The Trainer writes its state last.
    """
    if PartialState().is_main_process:
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            if not log_of(path):
                shutil.rmtree(path)
    PartialState().wait_for_everyone()
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def log_of(checkpoint: str | Path | None) -> list[dict]:
    """The Trainer's log in a checkpoint; empty where it is missing or incomplete."""
    try:
        return json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    except (OSError, ValueError, TypeError):
        return []
