"""Unsupervised pretraining: done once, saved, and reused by every later run of the same recipe."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache

from popcorn.config import TrainingConfig
from popcorn.errors import UserError, log
from popcorn.training.checkpoint import disk_errors_as_user_error
from popcorn.training.review_trainer import ReviewTrainer, retry_on_oom
from popcorn.utils import hardware
from popcorn.utils.cache import file_lock
from popcorn.utils.files import fingerprint

RECIPE = (
    "max_train_samples",
    "max_length",
    "batch_size",
    "pretrain_epochs",
    "pretrain_learning_rate",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "seed",
)
"""options that change the result of any pretraining"""


def key_of(config: TrainingConfig, *content: object) -> str:
    """A key for the result of pretraining, from the options and the `content` (checksums, model)."""
    recipe = [getattr(config, option) for option in RECIPE]
    return fingerprint(*content, hardware.mixed_precision(config.precision), *recipe)[:12]


def train_once(
    folder: Path, reviews: int, train: Callable[[int, Path], ReviewTrainer], config: TrainingConfig,
    write: Callable[[ReviewTrainer, Path], None],
) -> None:  # fmt: skip
    """Trains, and lets `write` fill the folder; does nothing where the folder exists.

    `train` takes a micro-batch size (smaller than the config's if memory requires it) and a folder for checkpoints. An unfinished
    training is resumed. Every process must call this; the main one writes. Raises `UserError` where the time budget ends during
    the training, or the folder cannot be written.
    """
    processes = PartialState()
    # several processes do not wait, since their connection has a timeout
    with file_lock(folder, waits=processes.num_processes == 1) if processes.is_main_process else nullcontext():
        processes.wait_for_everyone()
        if folder.is_dir():
            log(f"Reusing the language model in {folder}")
        else:
            _train(folder, reviews, train, config, write)


def _train(folder: Path, reviews: int, train: Callable, config: TrainingConfig, write: Callable) -> None:
    fit_dir = folder.with_name(folder.name + ".training")
    log(f"Training a language model on {reviews:,} reviews")
    of_process = -(-config.batch_size // PartialState().num_processes)
    given = getattr(config, "micro_batch_size", None) or of_process
    option = "--micro-batch-size" if hasattr(config, "micro_batch_size") else "--batch-size"
    trainer = retry_on_oom(lambda micro_batch_size: train(micro_batch_size, fit_dir), min(given, of_process), option)
    if trainer.control_callback.is_out_of_time:
        raise UserError(
            f"the time budget ended in the training of the language model, after {trainer.state.global_step:,} of "
            f"{trainer.state.max_steps:,} steps, and there is no submission yet: the same command resumes it"
        )
    if PartialState().is_main_process:
        with disk_errors_as_user_error(fit_dir):
            (fit_dir / "model").mkdir(exist_ok=True)  # an earlier run may have been killed while writing
            write(trainer, fit_dir / "model")
            (fit_dir / "model").rename(folder)
        shutil.rmtree(fit_dir)
    accelerator = trainer.accelerator
    del trainer
    accelerator.free_memory()
    clear_device_cache(garbage_collection=True)  # mixed precision creates reference cycles
    PartialState().wait_for_everyone()
