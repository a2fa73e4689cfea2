"""Kaggle's sessions: where attached data are mounted, and when the session ends."""

import os
import time
from pathlib import Path

import psutil

INPUT = Path(os.environ.get("KAGGLE_CACHE_MOUNT_FOLDER", "/kaggle/input"))
"""folder of all attached data; the variable is kagglehub's"""
RUN_TYPE = "KAGGLE_KERNEL_RUN_TYPE"
"""variable that Kaggle sets in every session"""
SESSION_END = "POPCORN_SESSION_END"
"""variable with the end of the session's training, in seconds since 1970; a kernel sets it for the scripts that it starts"""
SESSION = 12 * 3600
"""seconds of a session with a GPU"""
MARGIN = 20 * 60
"""seconds at the end for writing, and for Kaggle to keep the output"""


def session_end() -> float | None:
    """When training must end in this session, as a `time.time()`; None outside of Kaggle.

    A session starts with the container's first process.
    """
    if SESSION_END in os.environ:
        return float(os.environ[SESSION_END])
    if RUN_TYPE not in os.environ:
        return None
    now, start = time.time(), psutil.Process(1).create_time()
    if now - start > SESSION:  # a container that was made in advance
        start = now
    return start + SESSION - MARGIN


def notebook_output(owner: str, slug: str) -> Path | None:
    """The attached output of a notebook; None where it is not attached."""
    folders = INPUT / "notebooks" / owner / slug, INPUT / slug
    return next((folder for folder in folders if folder.is_dir()), None)
