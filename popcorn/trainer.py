"""Hugging Face's Trainer as both of our uses of it need it: fine-tuning, and training the language model further.

It is given the batches, the optimiser and the schedule of the native loop. Micro-batches, checkpoints, evaluation, several
processes and mixed precision are its own.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from popcorn import device
from popcorn.batches import Reviews, shuffled
from popcorn.config import FineTuneConfig
from popcorn.errors import Diverged, say

RECOMPUTE = 4  # reviews: a micro-batch as small as this leaves the hardware idle, and more memory for a third more work pays


class Rows(Dataset):
    """Some rows of the reviews as the library's collators take them."""

    def __init__(self, reviews: Reviews, rows: np.ndarray, labels: np.ndarray | None = None):
        """rows (n,) of `reviews`; labels, of all of them, or None where there is nothing to answer."""
        self.reviews, self.rows, self.labels = reviews, rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict:
        row = self.rows[place]
        label = {} if self.labels is None else {"labels": int(self.labels[row])}
        return {"input_ids": self.reviews.reviews[row].tolist()} | label


class MicroBatches(Sampler):
    """The native loop's batches, each in `pieces`, of which this process takes its own; places in the dataset's rows."""

    def __init__(self, dataset: Rows, batch_size: int, micro_batch: int, seed: int):
        self.lengths = dataset.reviews.lengths[dataset.rows]
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.batches = -(-len(dataset) // batch_size)
        self.process, self.processes = PartialState().process_index, PartialState().num_processes
        # as many of each batch for every process, and none of them empty
        smallest = len(dataset) // self.batches
        self.accumulation = max(1, min(-(-batch_size // (micro_batch * self.processes)), smallest // self.processes))

    def __len__(self) -> int:
        return self.batches * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        places = np.arange(len(self.lengths))
        for batch in shuffled(places, self.lengths, self.batch_size, self.seed * 1_000 + self.epoch):
            pieces = np.array_split(batch, self.accumulation * self.processes)
            yield from (piece.tolist() for piece in pieces[self.process :: self.processes])


class Watch(TrainerCallback):
    """Turns the batches over with the epochs, asks for checkpoints, and stops in time."""

    def __init__(self, batches: MicroBatches, checkpoint_every: int, deadline: float, predictions: int):
        """`predictions`: reviews to predict after the training, for which time is kept."""
        self.batches, self.checkpoint_every, self.deadline, self.predictions = batches, checkpoint_every, deadline, predictions
        self.seconds, self.seen, self.is_out_of_time = 0.0, 0, False

    @property
    def speed(self) -> float:
        """Training reviews per second of all processes; zero before the first step."""
        return self.seen / self.seconds if self.seconds else 0.0

    def on_epoch_begin(self, args, state, control, **_) -> None:
        """A resumed epoch has its own batches too."""
        self.batches.epoch = state.global_step // self.batches.batches

    def on_step_begin(self, *_, **__) -> None:
        """Starts the clock."""
        self.start = time.monotonic()

    def on_step_end(self, args, state, control, **_) -> None:
        """Saves now and then, and at the end of the time."""
        self.seconds += time.monotonic() - self.start
        self.seen += len(self.batches.lengths) // self.batches.batches
        last = state.global_step % self.batches.batches == 0  # the Trainer saves there anyway, after the evaluation
        # to predict takes a third of the time of training on as many reviews; the rest is for loading and writing
        needed = self.predictions / 2 / self.speed
        late = torch.tensor(time.monotonic() + needed >= self.deadline, dtype=torch.int, device=args.device)
        if PartialState().num_processes > 1:  # all stop after the same step
            torch.distributed.all_reduce(late)
        if late and state.global_step < state.max_steps:
            self.is_out_of_time = control.should_training_stop = True
        control.should_save = not last and (self.is_out_of_time or state.global_step % self.checkpoint_every == 0)
        control.should_log = control.should_save  # the losses so far are in no checkpoint but as its log

    def on_epoch_end(self, args, state, control, **_) -> None:
        """Part of an epoch is not measured, so that a run goes on as if it had never been stopped."""
        if self.is_out_of_time and state.global_step % self.batches.batches:
            control.should_evaluate = control.should_save = False


class ReviewTrainer(Trainer):
    """A Trainer over `MicroBatches`, that never goes on from a loss that is not a number."""

    def __init__(self, model, batches: MicroBatches, **options):
        self.batches = batches
        model.accepts_loss_kwargs = False  # else the Trainer takes a mean for a sum, and multiplies it by the micro-batches
        super().__init__(model, **options)

    def get_train_dataloader(self) -> DataLoader:
        """Not prepared by Accelerate: each process has its own pieces already."""
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)

    def training_step(self, model, *arguments, **options) -> Tensor:
        """Raises `Diverged` in place of a step that would spoil the weights."""
        loss = super().training_step(model, *arguments, **options)
        if not torch.isfinite(loss):
            raise Diverged(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: the checkpoints before it are kept in "
                f"{self.args.output_dir}; try a lower --learning-rate or --precision fp32"
            )
        return loss


def arguments(config: FineTuneConfig, folder: Path, batches: MicroBatches, micro_batch: int, **options) -> TrainingArguments:
    """What both uses have in common."""
    precision = device.mixed_precision(config.precision)
    made = TrainingArguments(
        output_dir=str(folder), seed=config.seed, max_grad_norm=config.clip,
        per_device_train_batch_size=micro_batch, gradient_accumulation_steps=batches.accumulation,
        per_device_eval_batch_size=2 * micro_batch,
        use_cpu=not torch.accelerator.is_available(), bf16=precision == "bf16", fp16=precision == "fp16",
        save_strategy="epoch", save_total_limit=2, logging_strategy="epoch", logging_nan_inf_filter=False,
        remove_unused_columns=False, dataloader_pin_memory=torch.accelerator.is_available(), report_to=["tensorboard"], **options,
    )  # fmt: skip
    if made.n_gpu > 1:
        say(f"{made.n_gpu} GPUs are here, and one is used: torchrun --nproc_per_node {made.n_gpu} uses them all")
        made._n_gpu = 1  # else the Trainer would take nn.DataParallel, which is slower than one GPU on short batches
    return made


def halvings(size: int) -> Callable[[], int]:
    """Half of `size`, half of that, and so on to 1 and 0, for Accelerate's search for a micro-batch that memory holds."""
    sizes = iter([size >> times for times in range(1, size.bit_length() + 1)])
    return lambda: next(sizes, 0)


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole: the Trainer writes its state last. A kill may leave one that is not."""
    for path in folder.glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            path.rename(path.with_name(f"unfinished-{path.name}"))
    return get_last_checkpoint(str(folder))
