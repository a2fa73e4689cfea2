"""Which of the processes that torchrun has started this one is; torch is loaded only where there are several."""

import os
from contextlib import contextmanager


def is_main_process() -> bool:
    """Whether this is the process that writes files and prints."""
    return os.environ.get("RANK", "0") == "0"


def num_processes() -> int:
    """Processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def main_process_first():
    """The main process goes through the block before the others, which wait for it and find its caches filled."""
    if num_processes() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState().main_process_first():
        yield
