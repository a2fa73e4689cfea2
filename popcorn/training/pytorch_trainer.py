"""Trains a model in a PyTorch loop on Accelerate; logs to metrics.jsonl and TensorBoard."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.tracking import GeneralTracker, on_main_process

from popcorn.data.splits import Split
from popcorn.training.fit_result import FitResult
from popcorn.training.model_task import ModelTask
from popcorn.training.processes import start_processes, summary_of
from popcorn.training.session import Session
from popcorn.utils import hardware, usage
from popcorn.utils.packages import tensorboard_if_usable


class JsonLines(GeneralTracker):
    """Tracker for Accelerate that appends metrics to a file, one JSON object per line."""

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    @property
    def tracker(self) -> Path:
        """The file."""
        return self.path

    @on_main_process
    def store_init_configuration(self, values: dict) -> None:
        """Does nothing, because settings.json has the settings."""

    @on_main_process
    def log(self, values: dict, step: int | None = None, **_) -> None:
        """Appends the metrics of a step."""
        line = pd.Series({"step": step} | values).to_json()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class PyTorchTrainer:
    """Trains on one split after another with the given training loop."""

    def __init__(self, train: Callable[[Session], None]):
        """`train`: the training loop, such as `popcorn.training.loop.train`."""
        self.train = train

    start = staticmethod(start_processes)

    def set_up(self, task: ModelTask, run_dir: Path, deadline: float) -> None:
        """Receives the task and the run's folder; `deadline` is a `time.monotonic()`."""
        self.task, self.run_dir, self.deadline, self.speed = task, run_dir, deadline, 0.0
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=hardware.mixed_precision(task.config.precision),
            # the session itself divides batches among processes, so each step is one step of the schedule
            dataloader_config=DataLoaderConfiguration(split_batches=True),
            log_with=[JsonLines(run_dir / "metrics.jsonl"), *tensorboard_if_usable()],
            project_dir=run_dir,
        )
        self.accelerator.init_trackers("tensorboard")

    def fit(self, split: Split) -> FitResult:
        """Trains a new model, or resumes a checkpoint; predicts with the best epoch's weights."""
        split, targets = self.task.with_pseudo_labels(split)
        fit_dir = self.run_dir / split.name
        session = Session(self.task, split, targets, self.accelerator, fit_dir, self.deadline, self.speed)
        self.train(session)
        result = session.finish()
        self.speed = result.reviews_per_second
        if self.accelerator.is_main_process:
            usage.update(self.run_dir)
        return result

    def summary(self) -> dict:
        """For the saved results: parameters, precision, time and memory."""
        return summary_of(self.task, self.run_dir)

    def finish(self) -> None:
        """Closes the logs, after the submissions are written."""
        self.accelerator.end_training()
