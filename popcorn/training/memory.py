"""Out-of-memory handling: smaller batches for prediction, recomputed activations for training.

Several processes share gradients only after all of them have computed theirs. So if memory runs out in one, all can try again.
"""

import sys
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from torch import nn

from popcorn.config import TrainingConfig
from popcorn.errors import UserError, is_out_of_memory, log

Found = TypeVar("Found")


class SharedOutOfMemoryError(MemoryError):
    """Memory ran out in one of several processes, and all of them raise this."""


def fails_in_any_process(fails: bool) -> bool:
    """Whether `fails` is true in at least one process; every process must call this."""
    processes = PartialState()
    if processes.num_processes == 1:
        return fails
    flag = torch.tensor(fails, dtype=torch.int, device=processes.device)
    torch.distributed.all_reduce(flag)
    return bool(flag)


def average_gradients(model: nn.Module) -> None:
    """Averages the gradients over all processes; every process must call this.

    A parameter that a process did not use counts as zero there, and stays without a gradient where no process used it.
    """
    processes = PartialState()
    if processes.num_processes == 1:
        return
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    is_used = torch.tensor([weights.grad is not None for weights in trained], dtype=torch.int, device=processes.device)
    torch.distributed.all_reduce(is_used)
    for weights, used in zip(trained, is_used.tolist(), strict=True):
        if used:
            if weights.grad is None:
                weights.grad = torch.zeros_like(weights)
            torch.distributed.all_reduce(weights.grad)
            weights.grad /= processes.num_processes


class Pieces:
    """Predicts a batch at once if memory allows, otherwise in halves.

    A size that did not fit is not tried again.
    """

    def __init__(self):
        self.largest = sys.maxsize

    def predict(self, predict: Callable[[np.ndarray], Found], rows: np.ndarray) -> list[tuple[np.ndarray, Found]]:
        """The results of `predict` for all rows, or piece by piece with its rows.

        Raises `UserError` where not even one review fits into memory.
        """
        if len(rows) <= self.largest:
            found = self._attempt(predict, rows)
            if found is not None:
                return [(rows, found)]
            clear_device_cache(garbage_collection=True)
        return [piece for half in np.array_split(rows, 2) for piece in self.predict(predict, half)]

    def _attempt(self, predict: Callable[[np.ndarray], Found], rows: np.ndarray) -> Found | None:
        """None where memory ran out."""
        try:
            return predict(rows)
        except Exception as problem:
            if not is_out_of_memory(problem):
                raise
            if len(rows) == 1:
                raise UserError(
                    "memory does not suffice to predict even one review at a time: end other programs that use it, and give "
                    "the same command again, a training's with --resume"
                ) from problem
        self.largest = -(-len(rows) // 2)
        log(f"Out of memory: predicting {self.largest} reviews at a time")
        return None


def recompute_activations(model: nn.Module) -> bool:
    """Turns on activation checkpointing in the pretrained model inside `model` (Chen et al. 2016).

    It costs a third more computation and saves most of the memory. False where there is no such model, or where it is on already.
    """
    supported = [each for each in model.modules() if getattr(each, "supports_gradient_checkpointing", False)]
    # gradient checkpointing of transformers 4 is called activation checkpointing in version 5
    method = "activation" if supported and hasattr(supported[0], "activation_checkpointing_enable") else "gradient"
    if not supported or getattr(supported[0], f"is_{method}_checkpointing"):
        return False
    getattr(supported[0], f"{method}_checkpointing_enable")({"use_reentrant": False})
    log("To save memory, activations are recomputed: a third more computation")
    return True


def out_of_memory_error(config: TrainingConfig) -> UserError:
    """The `UserError` where not even one review fits into memory."""
    option = "--micro-batch-size" if hasattr(config, "micro_batch_size") else "--batch-size"
    return UserError(f"memory does not suffice: give a smaller {option} or --max-length")
