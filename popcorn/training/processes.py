"""Several processes that train together, which torchrun has started; or one."""

import os
from pathlib import Path

import torch
from accelerate import PartialState

from popcorn.config import TrainingConfig
from popcorn.errors import UserError
from popcorn.training.model_task import ModelTask
from popcorn.utils import hardware, usage


def start_processes(config: TrainingConfig) -> None:
    """Joins the processes and prepares the hardware.

    Raises `UserError` for a precision that the hardware lacks, and for fewer reviews a step than processes.
    """
    hardware.tune_allocator()
    hardware.mixed_precision(config.precision)
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # of accelerate launch: --precision fp32 is fp32
    # without `cpu` Accelerate does not join torchrun's processes on a CPU
    processes = PartialState(cpu=not torch.accelerator.is_available())
    if 1 < processes.num_processes >= config.batch_size and not getattr(config, "adapter", None):
        raise UserError(f"--batch-size is {config.batch_size} for {processes.num_processes} processes: give more reviews a step")


def summary_of(task: ModelTask, run_dir: Path) -> dict:
    """For the record: the machine, parameters, precision, time and memory."""
    return {
        "machine": hardware.processor(),
        "precision": hardware.mixed_precision(task.config.precision),
        "processes": PartialState().num_processes,
        "parameters": task.parameters,
        "trainable_parameters": task.trainable_parameters,
        **usage.total(run_dir),
    }
