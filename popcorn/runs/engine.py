"""From a script to its submissions: what every engine shares around the training itself."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from torch import nn

from popcorn.config import STARTED, TrainingConfig
from popcorn.data.batching import Reviews
from popcorn.data.competition import Competition
from popcorn.data.splits import Split
from popcorn.data.submission import require_same_ids, write_submissions
from popcorn.errors import UserError, exit_on_user_error, first_line, is_out_of_memory
from popcorn.runs.cross_validation import cross_validate, finish_run, require_learnable, split_of
from popcorn.runs.run_dir import load_or_fit, run_folder, sole_owner, start_or_resume
from popcorn.training.fit_result import FitResult
from popcorn.utils import hardware, usage
from popcorn.utils.files import require_writable


@dataclass
class Task:
    """What a script's model learns from, and the model."""

    competition: Competition
    train_ids: list[str]
    test_ids: list[str]
    labels: np.ndarray
    """int64 (training file,)"""
    train: Reviews
    """the training file's reviews, and behind them any that `with_pseudo_labels` adds"""
    test: Reviews
    build: Callable[[], nn.Module]
    """a new model, on the CPU"""
    groups: Callable[[nn.Module], list[dict]]
    """its parameters in groups for the optimizer, each with its learning rate"""
    provenance: dict[str, str]
    """for the record: where the model's first weights come from, and checksums"""
    with_pseudo_labels: Callable[[Split], tuple[Split, np.ndarray]] | None = None
    """a part with more to learn from, and the targets of `train`; where it is None, the part as it is and the labels"""
    keep: Callable[[Path], None] = lambda folder: None
    """writes into the run's folder what the model needs beside its weights, to be of use later"""
    pretrain: Callable[[float], None] | None = None
    """what all processes train together before the model is built, until a deadline in `time.monotonic()`"""


Fitting = Callable[[Callable[[], nn.Module], np.ndarray, Split, Path], FitResult]
"""a way to build the model, the same every time, the targets, the part, and a folder of its own, to the outcome"""
Engine = Callable[[Task, TrainingConfig, Path, float], AbstractContextManager[Fitting]]
"""task, config, the run's folder, and a deadline in `time.monotonic()`, to a way of fitting; it is left once the submissions are
written, which is when an engine may keep what the predictions do not need"""


def run(engine: Engine, prepare: Callable[[], Task], config: TrainingConfig) -> None:
    """Everything between the command line and the submissions; leaves with one sentence where the user can mend it.

    `prepare` is called by one process before the others, which find its caches filled.
    """
    with exit_on_user_error():
        deadline = STARTED + _seconds(config.time_budget)
        hardware.tune_allocator()
        require_writable(config.output_dir / "submissions")
        os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # of accelerate launch: --precision fp32 is fp32
        # without this word Accelerate does not join torchrun's processes on a CPU
        processes = PartialState(cpu=not torch.accelerator.is_available())
        if 1 < processes.num_processes >= config.batch_size and not getattr(config, "adapter", None):
            raise UserError(
                f"--batch-size is {config.batch_size} for {processes.num_processes} processes: give more reviews a step"
            )
        # of several processes that were started together the first one holds the folder for all
        with sole_owner(config) if processes.is_main_process else nullcontext():
            try:
                _run(engine, prepare, config, processes, deadline)
            except Exception as problem:
                if not is_out_of_memory(problem):
                    raise
                smaller = "--micro-batch-size" if hasattr(config, "micro_batch_size") else "--batch-size"
                raise UserError(
                    f"memory does not suffice ({first_line(problem)}): give a smaller {smaller} or fewer --max-length"
                ) from problem


def _run(
    engine: Engine, prepare: Callable[[], Task], config: TrainingConfig, processes: PartialState, deadline: float
) -> None:  # fmt: skip
    """All of it that other runs of the same folder must not meet."""
    folder = run_folder(config)
    precision = hardware.mixed_precision(config.precision)
    with processes.main_process_first():
        task = prepare()
        require_same_ids(task.competition.sample_ids(), task.test_ids)  # now, not after the training
        require_learnable(config, task.train_ids, task.labels)
    if task.pretrain:
        task.pretrain(deadline)

    def build() -> nn.Module:
        set_seed(config.seed)
        return task.build()

    split = split_of(config, task.train_ids, task.labels)
    model = build()
    learning, parameters = count(model)
    description = str(model)
    del model  # a large one would take its place twice
    with processes.main_process_first():
        if processes.is_main_process:
            start_or_resume(config, data=task.competition.checksum, split=split, model=description, **task.provenance)
            task.keep(folder)
    with engine(task, config, folder, deadline) as fitting:

        def fit(part: Split) -> FitResult:
            own = folder / part.name
            own.mkdir(exist_ok=True)
            part, targets = task.with_pseudo_labels(part) if task.with_pseudo_labels else (part, task.labels)
            outcome = fitting(build, targets, part, own)
            if processes.is_main_process:
                usage.update_usage(folder)
            if processes.is_main_process and part.name == "validated" and outcome.complete:
                # the refit, whose turn it is, may be killed: until it ends there is this one's submission
                write_submissions(
                    config.output_dir / "submissions", config.name, task.competition.sample_ids(), task.test_ids, outcome.test
                )
            return outcome

        done = cross_validate(
            config, task.train_ids, task.labels, lambda part: load_or_fit(folder, part, fit, processes.is_main_process)
        )
        if processes.is_main_process:
            finish_run(
                config, task.competition, task.train_ids, task.test_ids, done, split=split, **task.provenance,
                machine=hardware.processor(), precision=precision, processes=processes.num_processes,
                parameters=parameters, trainable_parameters=learning, **usage.of(folder),
            )  # fmt: skip


def count(model: nn.Module) -> tuple[int, int]:
    """Numbers that learn, and all numbers of the model; PEFT knows how many a quantized weight stands for."""
    if hasattr(model, "get_nb_trainable_parameters"):
        return model.get_nb_trainable_parameters()
    sizes = [(weights.numel(), weights.requires_grad) for weights in model.parameters()]
    return sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)


def _seconds(budget: str | None) -> float:
    """`--time-budget` in seconds, endless where there is none."""
    if budget is None:
        return float("inf")
    try:
        seconds = pd.Timedelta(budget).total_seconds()
    except ValueError:
        seconds = 0
    if not seconds >= 1:  # a number without a unit would be nanoseconds
        raise UserError(f"--time-budget is {budget!r}: give a length of time such as 8h30m, 45m or 90s")
    return seconds
