"""What a run has cost, in time and memory, over every process that went on with it: one taken up with `--resume` counts whole.

Its folder has an entry for each in cost.json, brought up to date with every checkpoint, so that what a kill throws away, and the
next process makes again, is counted once. Of the processes that work at the same time the first one stands for all. A language
model that is trained before the run begins is counted only if its process lived on to a checkpoint of the classifier.
"""

import json
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from popcorn.config import STARTED
from popcorn.errors import UserError
from popcorn.utils import hardware
from popcorn.utils.files import write_json

COST = "cost.json"
THIS_PROCESS = datetime.now().isoformat()


def update(folder: Path) -> None:
    """Writes what this process has cost so far into the run's folder; a full disk is left for what is worth stopping for."""
    with suppress(UserError):
        write_json(folder / COST, _processes(folder) | {THIS_PROCESS: _so_far()})


def total(folder: Path) -> dict[str, float]:
    """The run's `seconds`, of all processes together, and `peak_memory`, in bytes, of the one that held most."""
    processes = _processes(folder) or {THIS_PROCESS: _so_far()}
    return {
        "seconds": sum(each["seconds"] for each in processes.values()),
        "peak_memory": max(each["peak_memory"] for each in processes.values()),
    }


def _so_far() -> dict[str, float]:
    return {"seconds": time.monotonic() - STARTED, "peak_memory": hardware.peak_memory()}


def _processes(folder: Path) -> dict[str, dict[str, float]]:
    """By the times when they started; none where the file is missing or damaged, which no run should end for."""
    try:
        return json.loads((folder / COST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
