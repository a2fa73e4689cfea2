"""Rank and number of the processes that torchrun started; torch is imported only for several."""

import os
from contextlib import contextmanager


def is_main_process() -> bool:
    """Whether this is the process that writes files and prints."""
    return os.environ.get("RANK", "0") == "0"


def num_processes() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def main_process_first():
    """The main process runs the block first; the others wait, and use its caches."""
    if num_processes() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState().main_process_first():
        yield
