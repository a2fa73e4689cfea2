"""Training that comes before a model's own, without labels: made once, kept, and used by every later run of the same recipe."""

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
"""options that what is trained depends on, whatever it is"""


def key_of(config: TrainingConfig, *content: object) -> str:
    """Names what the options and the `content` (checksums, a model's description) are trained to."""
    recipe = [getattr(config, option) for option in RECIPE]
    return fingerprint(*content, hardware.mixed_precision(config.precision), *recipe)[:12]


def train_once(
    folder: Path, reviews: int, train: Callable[[int, Path], ReviewTrainer], config: TrainingConfig,
    write: Callable[[ReviewTrainer, Path], None],
) -> None:  # fmt: skip
    """Has `write` fill the folder with what was trained, unless it is there; an unfinished training goes on where it was.

    `train` takes a micro-batch, less than the config's where memory asks for it, and a folder for checkpoints. Every process must
    call this, the first one writes. Raises `UserError` where the time budget ends before, and where the folder cannot be written.
    """
    processes = PartialState()
    # several do not wait: what joins them has a limit to its patience
    with file_lock(folder, waits=processes.num_processes == 1) if processes.is_main_process else nullcontext():
        processes.wait_for_everyone()
        if folder.is_dir():
            log(f"The language model in {folder} is used again")
        else:
            _train(folder, reviews, train, config, write)


def _train(folder: Path, reviews: int, train: Callable, config: TrainingConfig, write: Callable) -> None:
    own = folder.with_name(folder.name + ".training")
    log(f"A language model is trained on {reviews:,} reviews")
    given = getattr(config, "micro_batch_size", None)
    option = "--micro-batch-size" if hasattr(config, "micro_batch_size") else "--batch-size"
    trainer = retry_on_oom(lambda micro_batch_size: train(micro_batch_size, own), given or config.batch_size, option)
    if trainer.control_callback.is_out_of_time:
        raise UserError(
            f"the time budget ended in the training of the language model, after {trainer.state.global_step:,} of "
            f"{trainer.state.max_steps:,} steps, and there is nothing to submit yet: the same command goes on from there"
        )
    if PartialState().is_main_process:
        with disk_errors_as_user_error(own):
            (own / "model").mkdir(exist_ok=True)  # an earlier run may have been killed as it wrote
            write(trainer, own / "model")
            (own / "model").rename(folder)
        shutil.rmtree(own)
    accelerator = trainer.accelerator
    del trainer
    accelerator.free_memory()
    clear_device_cache(garbage_collection=True)  # mixed precision ties a model to itself, and only the collector undoes that
    PartialState().wait_for_everyone()
