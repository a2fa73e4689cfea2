"""Arrays cached in files, and locks that let one process at a time make them."""

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
    """The arrays stored in `path` (.npz); `make` computes them where they are missing.

    The name of `path` must include a `fingerprint` of everything that `make` depends on. A damaged file is made again: the zip
    format verifies the checksum of every array. Nothing is unpickled. Raises `UserError` where the file cannot be written.
    """
    found = _stored(path)
    if found is not None:
        return found
    with file_lock(path):
        found = _stored(path)  # another process may have made it in the meantime
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
def file_lock(path: Path, waits: bool = True, refusal: str | None = None):
    """Lets only one process at a time into the block, for each path.

    The others wait, and then find the file made. With `waits=False` they raise `UserError` instead, with the text `refusal`. A
    folder that cannot be written is a `UserError` too. The lock file is next to the path, so the path itself can be renamed. The
    system frees the lock of a killed process.
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
