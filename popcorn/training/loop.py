"""The native training loop, on Accelerate: one model, fitted on some reviews, validated after every epoch on others.

A model is an `nn.Module` that takes a batch's tensors and returns a logit (batch,), the log-odds of a positive review.
"""

import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from popcorn.config import TrainingConfig
from popcorn.data.batching import Reviews, by_length, length_grouped_batches
from popcorn.data.splits import Split
from popcorn.errors import TrainingDivergedError, UserError, is_out_of_memory, log
from popcorn.metrics import compute_metrics
from popcorn.training.checkpoint import Checkpoints
from popcorn.training.fit_result import FitResult
from popcorn.training.losses import duplicate_batch, symmetric_kl
from popcorn.training.memory import Pieces, recompute_activations
from popcorn.training.optim import optimizer_and_schedule

STEADY = 10  # steps: the first ones load kernels, and tell nothing of the speed


class TrainingLoop:
    """One model on its way from random weights to probabilities for the validation part and for the test."""

    def __init__(
        self, model: nn.Module, groups: list[dict], train: Reviews, test: Reviews, labels: np.ndarray, part: Split,
        config: TrainingConfig, accelerator: Accelerator, folder: Path, deadline: float, speed: float = 0.0,
    ):  # fmt: skip
        """Takes the model and the groups of its parameters, as torch's optimizers do, each with its `lr`.

        labels (len(train),): 0, 1, or a probability; `folder` is this fit's own; `deadline` is a `time.monotonic()`;
        `speed`: an earlier fit's reviews per second, to reckon with until this one's is known.
        """
        self.train, self.test, self.labels, self.part = train, test, labels, part
        self.config, self.accelerator, self.folder, self.deadline = config, accelerator, folder, deadline
        self.epochs = part.epochs or config.epochs
        self.steps = -(-len(part.train) // config.batch_size)
        self.micro_batch_size = getattr(config, "micro_batch_size", None) or config.batch_size
        self.pieces = Pieces()
        self.taken = 0  # steps of this process
        self.before = speed
        self.rdrop_alpha = getattr(config, "rdrop_alpha", 0.0)
        optimizer, schedule = optimizer_and_schedule(groups, config, self.steps)
        self.model, self.optimizer, self.schedule = accelerator.prepare(model, optimizer, schedule)
        self.checkpoints = Checkpoints(folder, accelerator)

    def run(self) -> FitResult:
        """Trains, from a checkpoint where the folder has one, and predicts with the best epoch's weights."""
        set_seed(self.config.seed)
        self.position = self.checkpoints.load()
        complete = self._train()
        self.checkpoints.load_best(self.model)
        outcome = FitResult(
            validation=self.predict(self.train, self.part.validation),
            test=self.predict(self.test, np.arange(len(self.test))),
            epoch=self.position.best["epoch"] if self.position.best else 0,
            history=self.position.history,
            reviews_per_second=self._speed(),
            complete=complete,
        )
        self.accelerator.free_memory()
        return outcome

    def _train(self) -> bool:
        """Trains to the end, or until validation stops improving; False where the time ran out before."""
        position, config = self.position, self.config
        with tqdm(
            total=self.epochs * self.steps, initial=self._steps_done(), unit="batch", desc=self.part.name,
            disable=not self.accelerator.is_main_process,
        ) as bar:  # fmt: skip
            while position.epoch < self.epochs and not self._is_patience_over():
                batches = length_grouped_batches(
                    self.part.train, self.train.lengths, config.batch_size, config.seed * 1_000 + position.epoch
                )
                for rows in batches[position.step :]:
                    if self._is_time_over():
                        self.checkpoints.save(position, self._steps_done())
                        return False
                    self._step(rows)
                    bar.update()
                    bar.set_description(f"{self.part.name} epoch {position.epoch + 1}/{self.epochs}", refresh=False)
                    bar.set_postfix({name: f"{value:.3f}" for name, value in position.progress.items()}, refresh=False)
                    if position.step % config.checkpoint_every == 0 and position.step < self.steps:
                        self._log(position.progress)
                        self.checkpoints.save(position, self._steps_done())
                self._end_epoch()
        return True

    def _step(self, rows: np.ndarray) -> None:
        """One update of the weights; in halves of the micro-batch where memory does not suffice."""
        start, position = time.monotonic(), self.position
        while True:
            try:
                loss, correct = self._accumulate_gradients(
                    rows[self.accelerator.process_index :: self.accelerator.num_processes], len(rows)
                )
                break
            except Exception as problem:
                if not is_out_of_memory(problem):
                    raise
                if self.accelerator.num_processes > 1 or not self._reduce_memory_use():  # one process cannot tell the others
                    smaller = "--micro-batch-size" if hasattr(self.config, "micro_batch_size") else "--batch-size"
                    raise UserError(f"memory does not suffice: give a smaller {smaller} or fewer --max-length") from problem
            self.optimizer.zero_grad()
            clear_device_cache(garbage_collection=True)
        loss, correct = self.accelerator.reduce(torch.stack([loss, correct]), "sum").tolist()
        if not np.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss of {self.config.name} is {loss} at epoch {position.epoch + 1}, step {position.step + 1}: "
                f"try a lower --learning-rate or --precision fp32; the last checkpoint before it, if there was one, is in "
                f"{self.folder}"
            )
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        position.step, position.seen = position.step + 1, position.seen + len(rows)
        position.loss, position.correct = position.loss + loss, position.correct + int(correct)
        position.seconds += time.monotonic() - start
        self.taken += 1

    def _reduce_memory_use(self) -> bool:
        """Halves the micro-batch, and recomputes activations where even one review is too much; False where nothing is left."""
        if self.micro_batch_size > 1:
            self.micro_batch_size = -(-self.micro_batch_size // 2)
            log(
                f"Out of memory: going on with micro-batches of {self.micro_batch_size} reviews, the same batch and the same "
                "gradient"
            )
            return True
        return recompute_activations(self.model)

    def _accumulate_gradients(self, rows: np.ndarray, batch_size: int) -> tuple[Tensor, Tensor]:
        """Adds up the gradient of the batch's mean loss; returns the sums of loss and correct answers over `rows`."""
        self.model.train()
        losses, correct = [], []
        parts = np.array_split(rows, -(-len(rows) // self.micro_batch_size))
        for number, part in enumerate(parts, start=1):
            inputs = self._inputs(self.train, part)
            label = torch.from_numpy(self.labels[part]).to(self.accelerator.device)
            if self.rdrop_alpha:
                inputs, (label,) = duplicate_batch(*inputs), duplicate_batch(label)
            # the processes' gradients meet once a step, in its last pass
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(self.model):
                logit = self.model(*inputs)
                loss = binary_cross_entropy_with_logits(logit, label.to(logit), reduction="sum") * len(part) / len(logit)
                if self.rdrop_alpha:
                    loss = loss + self.rdrop_alpha / 2 * symmetric_kl(logit).sum()
                # they are averaged there, so that each process scales its sum by their number
                self.accelerator.backward(loss * self.accelerator.num_processes / batch_size)
            losses.append(loss.detach())
            correct.append(((logit.detach() > 0) == (label > 0.5))[: len(part)].sum())
        return torch.stack(losses).sum(), torch.stack(correct).sum()

    def _inputs(self, reviews: Reviews, rows: np.ndarray) -> tuple[Tensor, ...]:
        return tuple(tensor.to(self.accelerator.device, non_blocking=True) for tensor in reviews.batch(rows))

    @torch.no_grad()
    def predict(self, reviews: Reviews, rows: np.ndarray) -> np.ndarray:
        """The probability that each of the rows is positive, float64 (len(rows),)."""
        self.model.eval()
        # several processes may have one batch more or less, and DistributedDataParallel would wait for all at each
        model = self.accelerator.unwrap_model(self.model)
        probability = torch.zeros(len(reviews), dtype=torch.float64)
        if len(rows):
            batches = by_length(rows, reviews.lengths, 2 * self.micro_batch_size)
            for batch in batches[self.accelerator.process_index :: self.accelerator.num_processes]:
                for piece, logit in self.pieces.predict(lambda piece: model(*self._inputs(reviews, piece)).float().cpu(), batch):
                    probability[piece] = torch.sigmoid(logit.double())
        if self.accelerator.num_processes > 1:  # each row was filled by one process and is zero on the others
            probability = self.accelerator.reduce(probability.to(self.accelerator.device), "sum").cpu()
        return probability.numpy()[rows]

    def _end_epoch(self) -> None:
        """Validates, keeps the weights where they are the best so far, and writes the checkpoint."""
        position = self.position
        entry = {"epoch": position.epoch + 1, **position.progress, "reviews_per_second": self._speed()}
        if len(self.part.validation):
            entry |= compute_metrics(self.labels[self.part.validation], self.predict(self.train, self.part.validation))
        position.end_epoch(entry)
        self._log(entry)
        if self.accelerator.is_main_process:
            tqdm.write(f"{self.part.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in entry.items()))
        if position.best is entry:
            self.checkpoints.save_best(self.model)
        self.checkpoints.save(position, self._steps_done())

    def _log(self, values: dict) -> None:
        self.accelerator.log({f"{self.part.name}/{name}": value for name, value in values.items()}, step=self._steps_done())

    def _steps_done(self) -> int:
        return self.position.epoch * self.steps + self.position.step

    def _is_patience_over(self) -> bool:
        best = self.position.best
        return bool(best and len(self.part.validation) and self.position.epoch - best["epoch"] >= self.config.patience)

    def _is_time_over(self) -> bool:
        """Whether the rest of the time is needed to predict, which takes a third of the time of training as many reviews."""
        speed = self._speed() if self.taken >= STEADY else self.before
        needed = (len(self.test) + len(self.part.validation)) / speed if speed else 0
        if time.monotonic() + needed >= self.deadline:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def _speed(self) -> float:
        """Training reviews per second."""
        position = self.position
        return (position.epoch * len(self.part.train) + position.seen) / position.seconds if position.seconds else 0.0
