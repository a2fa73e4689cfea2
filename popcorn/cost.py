"""What a run has cost: the time and memory of all processes that worked on it, so that one taken up with `--resume` counts whole.

Its folder has an entry for each process in cost.json, brought up to date with every checkpoint: what a kill throws away, and is
made again, is counted once.
"""

import json
import time
from datetime import datetime
from pathlib import Path

from popcorn import device
from popcorn.config import STARTED
from popcorn.files import write_json

COST = "cost.json"
THIS_PROCESS = datetime.now().isoformat()


def brought_up_to_date(folder: Path) -> dict[str, float]:
    """Writes what this process has cost so far into the run's folder.

    Returns the run's: `seconds` of all its processes together, and `peak_memory`, in bytes, of the one that held most.
    """
    path = folder / COST
    processes = json.loads(path.read_text()) if path.is_file() else {}
    processes[THIS_PROCESS] = {"seconds": time.monotonic() - STARTED, "peak_memory": device.peak_memory()}
    write_json(path, processes)
    return {
        "seconds": sum(each["seconds"] for each in processes.values()),
        "peak_memory": max(each["peak_memory"] for each in processes.values()),
    }
