"""Predicting in batches as large as memory holds."""

import sys
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from accelerate.utils.memory import clear_device_cache
from torch import nn

from popcorn.config import TrainingConfig
from popcorn.errors import UserError, is_out_of_memory, log

Found = TypeVar("Found")


class Pieces:
    """Predicts a batch whole where memory holds it, else in halves; a size that did not fit once is not tried again."""

    def __init__(self):
        self.largest = sys.maxsize

    def predict(self, predict: Callable[[np.ndarray], Found], rows: np.ndarray) -> list[tuple[np.ndarray, Found]]:
        """What `predict` finds for the rows, or for each piece of them, with the piece's rows.

        Raises `UserError` where memory does not hold one review.
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
    """Has the pretrained model inside `model` recompute its activations in the backward pass (Chen et al. 2016).

    A third more work for a fraction of the memory. False where there is no such model, or where it does so already.
    """
    able = [each for each in model.modules() if getattr(each, "supports_gradient_checkpointing", False)]
    # transformers 5 calls activation checkpointing what was gradient checkpointing in version 4
    kind = "activation" if able and hasattr(able[0], "activation_checkpointing_enable") else "gradient"
    if not able or getattr(able[0], f"is_{kind}_checkpointing"):
        return False
    getattr(able[0], f"{kind}_checkpointing_enable")({"use_reentrant": False})
    log("To save memory, activations are recomputed: a third more work for a fraction of it")
    return True


def out_of_memory_error(config: TrainingConfig) -> UserError:
    """The sentence where memory does not hold one review."""
    option = "--micro-batch-size" if hasattr(config, "micro_batch_size") else "--batch-size"
    return UserError(f"memory does not suffice: give a smaller {option} or fewer --max-length")
