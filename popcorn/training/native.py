"""The native engine: the loop of `popcorn.loop` on Accelerate, with its figures in metrics.jsonl and for TensorBoard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.tracking import GeneralTracker, on_main_process
from torch import nn

from popcorn.config import TrainingConfig
from popcorn.data.splits import Split
from popcorn.runs.engine import Fitting, Task
from popcorn.training.fit_result import FitResult
from popcorn.training.loop import TrainingLoop
from popcorn.utils import hardware
from popcorn.utils.packages import tensorboard_if_usable


class JsonLines(GeneralTracker):
    """Accelerate's tracker that appends every figure to a file, one JSON object a line."""

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
        """The settings are in a file of their own."""

    @on_main_process
    def log(self, values: dict, step: int | None = None, **_) -> None:
        """Appends the figures of a step."""
        line = pd.Series({"step": step} | values).to_json()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@contextmanager
def native(task: Task, config: TrainingConfig, folder: Path, deadline: float) -> Iterator[Fitting]:
    """A `popcorn.engine.Engine`."""
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=hardware.mixed_precision(config.precision),
        # the loop divides every batch between the processes itself, so a step is a step of the schedule
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=[JsonLines(folder / "metrics.jsonl"), *tensorboard_if_usable()],
        project_dir=folder,
    )
    accelerator.init_trackers("tensorboard")

    speed = 0.0

    def fit(build: Callable[[], nn.Module], targets: np.ndarray, part: Split, own: Path) -> FitResult:
        nonlocal speed
        model = build()
        fit = TrainingLoop(
            model, task.groups(model), task.train, task.test, targets, part, config, accelerator, own, deadline, speed
        )
        outcome = fit.run()
        speed = outcome.reviews_per_second
        return outcome

    yield fit
    accelerator.end_training()
