"""Where a fit stands, and the folder from which it goes on after a kill.

All that is needed is written together into a folder that appears whole: weights, optimizer, schedule and random states by
Accelerate, and the position beside them.
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
    """How far a fit has come."""

    epoch: int = 0
    """epochs ended"""
    step: int = 0
    """steps done in the epoch under way"""
    seconds: float = 0.0
    """spent in training steps"""
    loss: float = 0.0
    """sum over the reviews of the epoch under way"""
    correct: int = 0
    """of them, how many were judged rightly while training"""
    seen: int = 0
    """reviews of the epoch under way"""
    history: list[dict] = field(default_factory=list)
    """one entry an epoch: loss, accuracy, and the validation's figures"""

    @property
    def best(self) -> dict | None:
        """The epoch with the best `SELECTION_METRIC` in validation, of equals the first; without validation the last."""
        return max(self.history, key=lambda entry: entry.get(SELECTION_METRIC, entry["epoch"]), default=None)

    @property
    def progress(self) -> dict[str, float]:
        """Mean loss and accuracy in training, of the epoch under way."""
        return {"loss": self.loss / self.seen, "accuracy": self.correct / self.seen}

    def end_epoch(self, entry: dict) -> None:
        """Adds the epoch's figures and turns to the next."""
        self.history.append(entry)
        self.epoch, self.step = self.epoch + 1, 0
        self.loss, self.correct, self.seen = 0.0, 0, 0


@contextmanager
def disk_errors_as_user_error(
    folder: Path, what: str = "the checkpoint", fix: str = "free some space, and go on from the one before with --resume"
):
    """Turns the failure to write a checkpoint, or `what` is written there, into a `UserError`; `fix` is its advice."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as problem:
        # torch.save tells a full disk by a RuntimeError of its writer; any other is none of the disk's
        if isinstance(problem, RuntimeError) and "Writer" not in str(problem) and "inline_container" not in str(problem):
            raise
        raise UserError(f"{what} in {folder} cannot be written ({problem}): {fix}") from problem


class Checkpoints:
    """What one fit keeps in its folder: its newest checkpoint, which is there before the older one goes, and its best weights."""

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
            # not as safetensors: on a GPU an LSTM's weights lie in one block of memory, and of those Accelerate writes the first
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
        """Keeps the weights as they are now."""
        if self.accelerator.is_main_process:
            with disk_errors_as_user_error(self.folder):
                unfinished = self.best.with_suffix(".unfinished")
                save_file(self.accelerator.unwrap_model(model).state_dict(), unfinished)
                unfinished.replace(self.best)

    def load_best(self, model: nn.Module) -> None:
        """Gives the model the kept weights, where there are any."""
        self.accelerator.wait_for_everyone()
        if self.best.is_file():
            try:
                self.accelerator.unwrap_model(model).load_state_dict(load_file(self.best))
            except (OSError, RuntimeError, SafetensorError) as problem:
                raise UserError(f"{self.best} is damaged ({problem}): leave out --resume to begin anew") from problem

    def load(self) -> TrainState:
        """Restores the newest checkpoint; a new position where there is none."""
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
                f"the checkpoint {finished[-1]} is damaged ({problem}): leave out --resume to begin anew"
            ) from problem

    def _finished(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))
