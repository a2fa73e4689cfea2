"""Time and memory that a run used, summed over all processes that resumed it.

The run's folder has an entry for each process in cost.json, updated with every checkpoint. So work that is lost in a kill and
repeated later counts once. Of parallel processes the main one counts. A language model that was trained before counts only if its
process reached a checkpoint of the classifier.
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
    """Writes the usage of this process into the run's folder.

    A full disk is ignored here: a failed checkpoint reports it.
    """
    with suppress(UserError):
        write_json(folder / COST, _processes(folder) | {THIS_PROCESS: _so_far()})


def total(folder: Path) -> dict[str, float]:
    """The run's total `seconds`, and its `peak_memory` in bytes."""
    processes = _processes(folder) or {THIS_PROCESS: _so_far()}
    return {
        "seconds": sum(each["seconds"] for each in processes.values()),
        "peak_memory": max(each["peak_memory"] for each in processes.values()),
    }


def _so_far() -> dict[str, float]:
    return {"seconds": time.monotonic() - STARTED, "peak_memory": hardware.peak_memory()}


def _processes(folder: Path) -> dict[str, dict[str, float]]:
    """Usage by start time; empty where the file is missing or damaged.

    Neither ends a run.
    """
    try:
        return json.loads((folder / COST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
