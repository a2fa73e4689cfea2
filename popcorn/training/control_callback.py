"""What a run does between the Trainer's steps: checkpoints, the time budget and early stopping."""

import time
from collections.abc import Callable
from pathlib import Path

from popcorn.utils.packages import hide_unusable_quantizers

hide_unusable_quantizers()  # the Trainer's modules import PEFT

# isort: split
import torch
from accelerate import PartialState
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from popcorn.training.micro_batches import LengthGroupedBatchSampler
from popcorn.training.session import STEADY


class TrainingControlCallback(TrainerCallback):
    """Reshuffles batches every epoch, saves checkpoints, and stops early or out of time."""

    def __init__(
        self, batches: LengthGroupedBatchSampler, checkpoint_every: int, deadline: float, predictions: int = 0,
        earlier_speed: float = 0.0, should_stop: Callable[[list[dict]], bool] = lambda log: False,
    ):  # fmt: skip
        """`predictions`: number of reviews to predict after training, for which time is reserved.

        `earlier_speed`: training speed of an earlier split. `should_stop`: whether training stops early, given the Trainer's log.
        """
        self.batches, self.checkpoint_every, self.deadline, self.predictions = batches, checkpoint_every, deadline, predictions
        self.earlier_speed, self.should_stop = earlier_speed, should_stop
        self.steps, self.seconds, self.is_out_of_time = 0, 0.0, False

    @property
    def speed(self) -> float:
        """Training reviews per second of all processes; 0 before the first step."""
        return self.steps * len(self.batches.lengths) / self.batches.batches / self.seconds if self.steps else 0.0

    def on_train_begin(self, args, state, control, **_) -> None:
        """Corrects the path of the best checkpoint, since a run's folder may have been moved."""
        if state.best_global_step:
            state.best_model_checkpoint = str(Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")

    def on_epoch_begin(self, args, state, control, **_) -> None:
        """Sets the sampler's epoch, for a resumed epoch too, and starts the clock."""
        self.batches.epoch = state.global_step // self.batches.batches
        self.start = time.monotonic()

    def on_save(self, *_, **__) -> None:
        """Restarts the clock."""
        self.start = time.monotonic()

    def on_step_end(self, args, state, control, **_) -> None:
        """Saves a checkpoint regularly, and at the end of the time budget."""
        now = time.monotonic()
        self.seconds, self.start = self.seconds + now - self.start, now
        self.steps += 1
        last = state.global_step % self.batches.batches == 0  # the Trainer itself saves there, after the evaluation
        # prediction takes a third of the training time per review; half of it also covers loading and writing
        speed = self.speed if self.steps >= STEADY else self.earlier_speed
        needed = self.predictions / 2 / speed if speed else 0
        is_late = torch.tensor(time.monotonic() + needed >= self.deadline, dtype=torch.int, device=args.device)
        if PartialState().num_processes > 1:  # all stop after the same step
            torch.distributed.all_reduce(is_late)
        if is_late and state.global_step < state.max_steps:
            self.is_out_of_time = control.should_training_stop = True
        control.should_save = not last and (self.is_out_of_time or state.global_step % self.checkpoint_every == 0)
        control.should_log = control.should_save  # a checkpoint keeps the losses so far only in its log

    def on_epoch_end(self, args, state, control, **_) -> None:
        """Skips the evaluation of an unfinished epoch, so that a resumed run continues exactly."""
        if self.is_out_of_time and state.global_step % self.batches.batches:
            control.should_evaluate = control.should_save = False

    def on_evaluate(self, args, state, control, **_) -> None:
        """Stops training early."""
        control.should_training_stop |= self.should_stop(state.log_history)
