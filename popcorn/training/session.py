"""Everything that makes a PyTorch training loop robust, so that the loop itself stays short.

Gradient accumulation with micro-batches that get smaller when memory runs out, checkpoints, resume, the time budget, early
stopping, parallel training and progress bars. The loops over a `Session` are in popcorn/training/loop.py, bert_native.py,
distilbert_native.py and lm_lstm.py. A model is an `nn.Module`: from a batch's tensors it computes a logit (batch,), the log-odds
of a positive review.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from accelerate.utils.memory import clear_device_cache
from torch import Tensor
from tqdm import tqdm

from popcorn.data.batching import EncodedReviews, length_grouped_batches, sorted_batches
from popcorn.data.splits import Split
from popcorn.errors import TrainingDivergedError, is_out_of_memory, log
from popcorn.metrics import compute_metrics
from popcorn.training.checkpoint import Checkpoints
from popcorn.training.fit_result import FitResult
from popcorn.training.losses import log_contrastive_limit
from popcorn.training.memory import Pieces, average_gradients, fails_in_any_process, out_of_memory_error, recompute_activations
from popcorn.training.model_task import ModelTask
from popcorn.training.optim import optimizer_and_schedule

STEADY = 10  # steps until the speed is steady: the first ones load kernels


class Session:
    """The training of one model on one split.

    A loop iterates over `epochs`, `batches`, `attempts` and `micro_batches`. It calls `backward`, `end_step`, `evaluate` and
    `end_epoch`. Model, optimizer and scheduler are attributes.
    """

    def __init__(
        self, task: ModelTask, split: Split, targets: np.ndarray, accelerator: Accelerator, fit_dir: Path, deadline: float,
        speed: float = 0.0,
    ):  # fmt: skip
        """targets (len(task.train),): 0, 1, a probability, or NaN for an unlabeled review; `deadline` is a `time.monotonic()`.

        `speed`: reviews per second of an earlier split, for the time budget until this one's speed is known.
        """
        self.config, self.train, self.test, self.labels, self.split = task.config, task.train, task.test, targets, split
        self.accelerator, self.fit_dir, self.deadline = accelerator, fit_dir, deadline
        model = task.new_model()
        self.num_epochs = split.epochs or self.config.epochs
        self.steps_per_epoch = -(-len(split.train) // self.config.batch_size)
        of_process = -(-self.config.batch_size // accelerator.num_processes)
        self.micro_batch_size = min(getattr(self.config, "micro_batch_size", None) or of_process, of_process)
        batch_size = self.config.batch_size
        log_contrastive_limit(self.config, min(self.micro_batch_size, -(-batch_size // accelerator.num_processes)), batch_size)
        self.pieces = Pieces()
        self.steps_taken = 0  # of this process
        self.earlier_speed = speed
        self.is_out_of_time = False
        groups = task.parameter_groups(model, self.config)
        optimizer, scheduler = optimizer_and_schedule(groups, self.config, self.steps_per_epoch)
        # not wrapped in DistributedDataParallel, which would share gradients before all processes have computed theirs
        self.model = accelerator.prepare_model(model, evaluation_mode=True)
        self.optimizer, self.scheduler = accelerator.prepare(optimizer, scheduler)
        self.checkpoints = Checkpoints(fit_dir, accelerator)
        set_seed(self.config.seed)
        self.state = self.checkpoints.load()

    def epochs(self) -> Iterator[int]:
        """Yields the epochs, from 0 or the resumed one.

        Ends with early stopping or the time budget.
        """
        with tqdm(
            total=self.num_epochs * self.steps_per_epoch, initial=self._steps_done(), unit="batch", desc=self.split.name,
            disable=not self.accelerator.is_main_process,
        ) as self.bar:  # fmt: skip
            while self.state.epoch < self.num_epochs and not self._is_patience_over() and not self.is_out_of_time:
                yield self.state.epoch

    def batches(self, epoch: int) -> Iterator[np.ndarray]:
        """Rows of the reviews, (batch,), in random batches of similar lengths; skips resumed steps."""
        seed = self.config.seed * 1_000 + epoch
        batches = length_grouped_batches(self.split.train, self.train.lengths, self.config.batch_size, seed)
        for batch in batches[self.state.step :]:
            if self._is_time_over():
                self.checkpoints.save(self.state, self._steps_done())
                self.is_out_of_time = True
                return
            yield batch

    def attempts(self, batch: np.ndarray) -> Iterator["Attempt"]:
        """One attempt at the batch's gradient; more with smaller micro-batches if memory runs out."""
        self.step_start, self.batch_size = time.monotonic(), len(batch)
        self.unlabeled = int(np.isnan(self.labels[batch]).sum())
        self.model.train()
        while True:
            attempt = Attempt(self)
            yield attempt
            if attempt.has_succeeded:
                break
        average_gradients(self.model)
        self.loss, self.correct = self.accelerator.reduce(
            torch.stack([torch.stack(self.losses).sum(), torch.stack(self.corrects).sum()]), "sum"
        ).tolist()
        if not np.isfinite(self.loss):
            raise TrainingDivergedError(
                f"the loss of {self.config.name} is {self.loss} at epoch {self.state.epoch + 1}, step {self.state.step + 1}: "
                f"try a lower --learning-rate or --precision fp32; the last checkpoint before it, if there was one, is in "
                f"{self.fit_dir}"
            )

    def micro_batches(self, batch: np.ndarray) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """This process's part of the batch, on its device: model inputs, and labels (micro-batch,)."""
        rows = batch[self.accelerator.process_index :: self.accelerator.num_processes]
        micro_batches = np.array_split(rows, -(-len(rows) // self.micro_batch_size))
        for micro_batch in micro_batches:
            self.reviews = len(micro_batch)
            labels = torch.from_numpy(self.labels[micro_batch]).to(self.accelerator.device)
            yield self._inputs(self.train, micro_batch), labels

    def backward(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Accumulates the gradient; `loss` is the micro-batch's part of the batch's mean loss.

        logits and labels are (micro-batch,). Accuracy counts the reviews with a label.
        """
        # gradients are averaged over processes, so each process multiplies its own by their number
        self.accelerator.backward(loss * self.accelerator.num_processes)
        self.losses.append(loss.detach() * self.batch_size)
        correct = ((logits.detach() > 0) == (labels > 0.5)) & ~labels.isnan()
        self.corrects.append(correct[: self.reviews].sum())  # with R-Drop every review is there twice

    def end_step(self) -> None:
        """Counts the step, shows progress, and saves a checkpoint regularly."""
        state = self.state
        state.step, state.seen, state.unlabeled = state.step + 1, state.seen + self.batch_size, state.unlabeled + self.unlabeled
        state.loss, state.correct = state.loss + self.loss, state.correct + int(self.correct)
        state.seconds += time.monotonic() - self.step_start
        self.steps_taken += 1
        self.bar.update()
        self.bar.set_description(f"{self.split.name} epoch {state.epoch + 1}/{self.num_epochs}", refresh=False)
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in state.progress.items()}, refresh=False)
        if state.step % self.config.checkpoint_every == 0 and state.step < self.steps_per_epoch:
            self._log(state.progress)
            self.checkpoints.save(state, self._steps_done())

    def evaluate(self) -> dict[str, float]:
        """Validation metrics; empty without a validation set, or if the time budget ended the epoch."""
        if self.is_out_of_time or not len(self.split.validation):
            return {}
        return compute_metrics(self.labels[self.split.validation], self.predict(self.train, self.split.validation))

    def end_epoch(self, metrics: dict[str, float]) -> None:
        """Logs the metrics, saves the best weights, and saves a checkpoint.

        An epoch that the time budget ended does not count; `--resume` continues it.
        """
        if self.is_out_of_time:
            return
        state = self.state
        entry = {"epoch": state.epoch + 1, **state.progress, "reviews_per_second": self.reviews_per_second, **metrics}
        state.end_epoch(entry)
        self._log(entry)
        if self.accelerator.is_main_process:
            tqdm.write(f"{self.split.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in entry.items()))
        if state.best is entry:
            self.checkpoints.save_best(self.model)
        self.checkpoints.save(state, self._steps_done())

    def finish(self) -> FitResult:
        """Predicts with the best epoch's weights."""
        self.checkpoints.load_best(self.model)
        result = FitResult(
            validation=self.predict(self.train, self.split.validation),
            test=self.predict(self.test, np.arange(len(self.test))),
            epoch=self.state.best["epoch"] if self.state.best else 0,
            history=self.state.history,
            reviews_per_second=self.reviews_per_second,
            complete=not self.is_out_of_time,
        )
        self.accelerator.free_memory()
        return result

    @torch.no_grad()
    def predict(self, reviews: EncodedReviews, rows: np.ndarray) -> np.ndarray:
        """The probability that each of the rows is positive, float64 (len(rows),)."""
        self.model.eval()
        probability = torch.zeros(len(reviews), dtype=torch.float64)
        if len(rows):
            batches = sorted_batches(rows, reviews.lengths, 2 * self.micro_batch_size)
            for batch in batches[self.accelerator.process_index :: self.accelerator.num_processes]:
                for piece, logit in self.pieces.predict(
                    lambda piece: self.model(*self._inputs(reviews, piece)).float().cpu(), batch
                ):
                    probability[piece] = torch.sigmoid(logit.double())
        if self.accelerator.num_processes > 1:  # each row has a value on one process, and 0 on the others
            probability = self.accelerator.reduce(probability.to(self.accelerator.device), "sum").cpu()
        return probability.numpy()[rows]

    @property
    def reviews_per_second(self) -> float:
        """Training speed; 0 before the first step."""
        state = self.state
        return (state.epoch * len(self.split.train) + state.seen) / state.seconds if state.seconds else 0.0

    def reduce_memory_use(self) -> bool:
        """Halves the micro-batch; at one review, recomputes activations instead.

        False where nothing more can be done.
        """
        if self.micro_batch_size > 1:
            self.micro_batch_size = -(-self.micro_batch_size // 2)
            log(f"Out of memory: continuing with micro-batches of {self.micro_batch_size} reviews; the batch stays the same")
            log_contrastive_limit(self.config, self.micro_batch_size, self.config.batch_size)
            return True
        return recompute_activations(self.model)

    def _inputs(self, reviews: EncodedReviews, rows: np.ndarray) -> tuple[Tensor, ...]:
        return tuple(tensor.to(self.accelerator.device, non_blocking=True) for tensor in reviews.batch(rows))

    def _log(self, values: dict) -> None:
        self.accelerator.log({f"{self.split.name}/{name}": value for name, value in values.items()}, step=self._steps_done())

    def _steps_done(self) -> int:
        return self.state.epoch * self.steps_per_epoch + self.state.step

    def _is_patience_over(self) -> bool:
        best = self.state.best
        return bool(best and len(self.split.validation) and self.state.epoch - best["epoch"] >= self.config.patience)

    def _is_time_over(self) -> bool:
        """Whether the remaining time is needed for prediction.

        Prediction takes a third of the training time per review.
        """
        speed = self.reviews_per_second if self.steps_taken >= STEADY else self.earlier_speed
        needed = (len(self.test) + len(self.split.validation)) / speed if speed else 0
        if time.monotonic() + needed >= self.deadline:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()


class Attempt:
    """One attempt at the gradient of a batch: `with attempt:` catches out-of-memory errors.

    The next attempt uses smaller micro-batches, in all processes.
    """

    def __init__(self, session: Session):
        self.session, self.has_succeeded = session, False

    def __enter__(self) -> None:
        self.session.losses, self.session.corrects = [], []

    def __exit__(self, kind, problem: BaseException | None, traceback) -> bool:
        """Raises `UserError` where not even one review fits into memory."""
        if problem is not None and not is_out_of_memory(problem):
            return False
        self.has_succeeded = not fails_in_any_process(problem is not None)
        if self.has_succeeded:
            return False
        session = self.session
        if not session.reduce_memory_use():
            raise out_of_memory_error(session.config) from problem
        session.optimizer.zero_grad()
        clear_device_cache(garbage_collection=True)
        return True
