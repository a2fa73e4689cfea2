"""Parallel training: the processes that torchrun started, or a single one."""

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

    Raises `UserError` for a GPU without kernels, a precision without hardware support, and a batch with fewer reviews than
    processes.
    """
    hardware.tune_allocator()
    hardware.mixed_precision(config.precision)
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # set by accelerate launch; here --precision decides
    if not torch.accelerator.is_available():  # else neither Accelerate nor a TrainingArguments joins torchrun's processes
        os.environ["ACCELERATE_USE_CPU"] = "true"
    processes = PartialState(cpu=not torch.accelerator.is_available())
    hardware.require_gpu_kernels()  # of this process's GPU
    if 1 < processes.num_processes >= config.batch_size and not getattr(config, "adapter", None):
        raise UserError(f"--batch-size is {config.batch_size} for {processes.num_processes} processes: give more reviews a step")


def summary_of(task: ModelTask, run_dir: Path) -> dict:
    """For the saved results: machine, parameters, precision, time and memory."""
    return {
        "machine": hardware.processor(),
        "precision": hardware.mixed_precision(task.config.precision),
        "processes": PartialState().num_processes,
        "parameters": task.parameters,
        "trainable_parameters": task.trainable_parameters,
        **usage.total(run_dir),
    }
