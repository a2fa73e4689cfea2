"""popcorn.utils.cache"""

import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from popcorn.errors import UserError, log
from popcorn.utils.files import atomic_write, write_error


def cached(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays stored in `path` (.npz), made by `make` and stored where they are missing or damaged.

    The name of `path` must hold a `fingerprint` of all that `make` depends on. Every array's checksum is verified by
    the zip layer while it is read, and nothing is ever unpickled. Raises `UserError` where the file cannot be written.
    """
    found = _stored(path)
    if found is not None:
        return found
    with alone(path):
        found = _stored(path)  # another run may have made it meanwhile
        if found is None:
            found = make()
            with atomic_write(path) as file:
                np.savez(file, **found)
    return found


def _stored(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        log(f"The cached file {path} is damaged and is made again.")
        return None


@contextmanager
def alone(path: Path, waits: bool = True, refusal: str | None = None):
    """One run at a time of all that ask for the same path: the others wait, and find it made.

    Raises `UserError` where the folder cannot be written, and where another run is at it and this one does not wait; `refusal`
    is what it says then. The lock is beside the path, so that the path itself may be renamed, and a kill frees it.
    """
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout as problem:
            if not waits:
                raise UserError(refusal or f"another run is making {path}: start this one when that has ended") from problem
            log(f"Another run is making {path}: waiting for it")
            lock.acquire()
    except OSError as problem:
        raise write_error(path, problem) from problem
    try:
        yield
    finally:
        lock.release()
