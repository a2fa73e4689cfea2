"""Files that appear whole or not at all, made by one run at a time, and arrays cached under a key of what they were made from."""

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from popcorn.errors import UserError, say


@contextmanager
def whole(path: Path, mode: str = "wb", option: str = "--output-dir"):
    """A file open for writing that takes the name `path` only when the block ends well; `option` chooses another place for it.

    Raises `UserError` where the folder cannot be written or the disk is full; nothing is left behind then.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        with tempfile.NamedTemporaryFile(mode, dir=path.parent, prefix=f".{path.name}.", delete=False, **text) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as problem:
        raise unwritable(path, problem, option) from problem
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict, option: str = "--output-dir") -> None:
    """Writes the content as readable JSON, whole or not at all."""
    with whole(path, "w", option) as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def unwritable(path: Path, problem: OSError, option: str = "--output-dir") -> UserError:
    """The sentence about a full disk, or a folder that is another's: `option` chooses another, of the cache a variable does."""
    if path.is_relative_to(user_cache_path("popcorn")):
        option = "the variable XDG_CACHE_HOME"
    return UserError(f"{path} cannot be written ({problem.strerror}): free some space, or choose another place with {option}")


def require_writable(folder: Path) -> None:
    """Finds out before hours of training, not after, that `folder` cannot be written. Raises `UserError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"can this folder be written?")
    except OSError as problem:
        raise unwritable(folder, problem) from problem


def fingerprint(*parts: object) -> str:
    """Hexadecimal SHA-256 of files (given as `Path`, read in blocks) and of any other values (by their `repr`)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


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
            with whole(path) as file:
                np.savez(file, **found)
    return found


def _stored(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        say(f"The cached file {path} is damaged and is made again.")
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
            say(f"Another run is making {path}: waiting for it")
            lock.acquire()
    except OSError as problem:
        raise unwritable(path, problem) from problem
    try:
        yield
    finally:
        lock.release()
