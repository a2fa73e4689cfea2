"""Disk space of a run's checkpoints, estimated before the training."""

import shutil
from pathlib import Path

from popcorn.errors import UserError, log
from popcorn.utils.processes import is_main_process

CHECKPOINTS = 3
"""maximum number of checkpoints of a split: the best one, the last one, and the one that is being written"""
CHECKPOINT_BYTES = 12
"""bytes per trained parameter in a checkpoint: the parameter and the two moments of AdamW, all in float32"""
MODEL_BYTES = 4
"""bytes per trained parameter of a finished split's model"""


def disk_space(parameters: int, models: int) -> int:
    """The maximum number of bytes of a run, from its numbers of trained parameters and splits.

    Frozen parameters are in no checkpoint. A finished split keeps its model and loses its checkpoints.
    """
    return parameters * (CHECKPOINTS * CHECKPOINT_BYTES + models * MODEL_BYTES)


def require_disk_space(folder: Path, parameters: int, models: int, resumes: bool = True) -> None:
    """Prints the `disk_space` of the run in `folder`; raises `UserError` where the disk has less.

    `resumes`: whether files in the folder are replaced, and so count as available.
    """
    if not parameters or not is_main_process():
        return
    needed = disk_space(parameters, models)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    available = shutil.disk_usage(existing).free
    if resumes:
        available += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    text = f"{folder} takes at most {size(needed)} of disk space for checkpoints and models, and {size(available)} are available"
    if available < needed:
        raise UserError(f"{text}: free some space, or choose another place with --output-dir")
    log(f"Disk: {text}")


def size(number: int) -> str:
    """A number of bytes in GB, or in MB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"
