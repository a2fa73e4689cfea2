"""The training state of one split, and the checkpoints to resume it from.

A checkpoint is a folder that appears only once it is complete. It has weights, optimizer, scheduler and random states from
Accelerate, and the training state in position.json.
"""

import json
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from popcorn.errors import UserError
from popcorn.metrics import SELECTION_METRIC
from popcorn.utils import usage


@dataclass
class TrainState:
    """Progress of the training on one split."""

    epoch: int = 0
    """number of finished epochs"""
    step: int = 0
    """number of finished steps in the current epoch"""
    seconds: float = 0.0
    """time spent in training steps"""
    loss: float = 0.0
    """sum of the loss over the reviews of the current epoch"""
    correct: int = 0
    """number of correct predictions in training in the current epoch"""
    seen: int = 0
    """number of reviews in the current epoch so far"""
    unlabeled: int = 0
    """number of these without a label"""
    history: list[dict] = field(default_factory=list)
    """one entry per epoch: loss, accuracy and validation metrics"""

    @property
    def best(self) -> dict | None:
        """The first epoch with the best `SELECTION_METRIC`; without validation, the last epoch."""
        return max(self.history, key=lambda entry: entry.get(SELECTION_METRIC, entry["epoch"]), default=None)

    @property
    def progress(self) -> dict[str, float]:
        """Mean training loss of the current epoch, and accuracy on its labeled reviews."""
        return {"loss": self.loss / self.seen, "accuracy": self.correct / max(1, self.seen - self.unlabeled)}

    def end_epoch(self, entry: dict) -> None:
        """Adds the epoch's metrics and starts the next epoch."""
        self.history.append(entry)
        self.epoch, self.step = self.epoch + 1, 0
        self.loss, self.correct, self.seen, self.unlabeled = 0.0, 0, 0, 0


@contextmanager
def disk_errors_as_user_error(
    folder: Path, what: str = "the checkpoint", fix: str = "free some space, and continue from the previous one with --resume"
):
    """Turns a failure to write a checkpoint (or `what`) into a `UserError`.

    `fix` is its advice.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as problem:
        # for a full disk, torch.save raises a RuntimeError of its writer; any other RuntimeError has another cause
        if isinstance(problem, RuntimeError) and "Writer" not in str(problem) and "inline_container" not in str(problem):
            raise
        raise UserError(f"{what} in {folder} cannot be written ({problem}): {fix}") from problem


class Checkpoints:
    """The newest checkpoint and the best weights of the training on one split.

    An older checkpoint is removed only after the newer one is complete.
    """

    def __init__(self, folder: Path, accelerator: Accelerator):
        self.folder, self.accelerator = folder, accelerator
        self.best = folder / "best.safetensors"

    def save(self, position: TrainState, step: int) -> None:
        """Writes `step-<step>`; every process must call this."""
        target = self.folder / f"step-{step:08d}"
        if target.is_dir():
            return
        unfinished = self.folder / "unfinished"
        with disk_errors_as_user_error(self.folder):
            # not as safetensors: on a GPU an LSTM's weights share one block of memory, and Accelerate would write only the first
            self.accelerator.save_state(str(unfinished), safe_serialization=False)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                (unfinished / "position.json").write_text(json.dumps(asdict(position)), encoding="utf-8")
                earlier = self._finished()
                unfinished.rename(target)
                for folder in earlier:
                    shutil.rmtree(folder)
                usage.update(self.folder.parent)
        self.accelerator.wait_for_everyone()

    def save_best(self, model: nn.Module) -> None:
        """Saves the current weights as the best ones."""
        if self.accelerator.is_main_process:
            with disk_errors_as_user_error(self.folder):
                unfinished = self.best.with_suffix(".unfinished")
                save_file(self.accelerator.unwrap_model(model).state_dict(), unfinished)
                unfinished.replace(self.best)

    def load_best(self, model: nn.Module) -> None:
        """Loads the best weights into the model, if there are any."""
        self.accelerator.wait_for_everyone()
        if self.best.is_file():
            try:
                self.accelerator.unwrap_model(model).load_state_dict(load_file(self.best))
            except (OSError, RuntimeError, SafetensorError) as problem:
                raise UserError(f"{self.best} is damaged ({problem}): leave out --resume to start again") from problem

    def load(self) -> TrainState:
        """Restores the newest checkpoint; a new state where there is none."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.folder / "unfinished", ignore_errors=True)
        self.accelerator.wait_for_everyone()
        finished = self._finished()
        if not finished:
            return TrainState()
        try:
            self.accelerator.load_state(str(finished[-1]))
            return TrainState(**json.loads((finished[-1] / "position.json").read_text(encoding="utf-8")))
        except (OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as problem:
            raise UserError(
                f"the checkpoint {finished[-1]} is damaged ({problem}): leave out --resume to start again"
            ) from problem

    def _finished(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))
