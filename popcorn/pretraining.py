"""Training that comes before a model's own, without labels: made once, kept, and used by every later run of the same recipe."""

import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import PartialState

from popcorn.errors import UserError, say
from popcorn.trainer import ReviewTrainer, within_memory

RECIPE = (
    "limit", "max_tokens", "batch_size", "pretrain_epochs", "pretrain_rate", "warmup", "weight_decay", "clip", "precision",
    "seed",
)  # fmt: skip
"""options that a checkpoint depends on, whatever is trained"""


def train_once(
    folder: Path, reviews: int, train: Callable[[int, Path], ReviewTrainer], largest: int,
    write: Callable[[ReviewTrainer, Path], None],
) -> None:  # fmt: skip
    """Has `write` fill the folder with what was trained, unless it is there; an unfinished training goes on where it was.

    `train` takes a micro-batch, `largest` or less where memory asks for it, and a folder for checkpoints. Every process must call
    this, the first one writes. Raises `UserError` where the time budget ends before.
    """
    if folder.is_dir():
        say(f"The language model in {folder} is used again")
        return
    own = folder.with_name(folder.name + ".training")
    say(f"A language model is trained on {reviews:,} reviews")
    trainer = within_memory(lambda micro_batch: train(micro_batch, own), largest)
    if trainer.watch.is_out_of_time:
        raise UserError(
            f"the time budget ended in the training of the language model, after {trainer.state.global_step:,} of "
            f"{trainer.state.max_steps:,} steps, and there is nothing to submit yet: the same command goes on from there"
        )
    if PartialState().is_main_process:
        write(trainer, own / "model")
        (own / "model").rename(folder)
        shutil.rmtree(own)
    trainer.accelerator.free_memory()
    PartialState().wait_for_everyone()
