"""Atomic writes, clear errors where a file cannot be written, and checksums."""

import hashlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from popcorn.errors import UserError


@contextmanager
def atomic_write(path: Path, mode: str = "wb", option: str = "--output-dir"):
    """Opens a file for writing that gets its name only once it is complete.

    Raises `UserError` where the folder cannot be written or the disk is full, and leaves nothing behind. `option` is the option
    that chooses another place.
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
        raise write_error(path, problem, option) from problem
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict, option: str = "--output-dir") -> None:
    """Writes the content as indented JSON, atomically."""
    with atomic_write(path, "w", option) as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def write_error(path: Path, problem: OSError, option: str = "--output-dir") -> UserError:
    """The `UserError` for a full disk or a folder without write permission.

    `option` chooses another folder; for the cache, an environment variable does.
    """
    if path.is_relative_to(user_cache_path("popcorn")):
        option = "the variable XDG_CACHE_HOME"
    return UserError(f"{path} cannot be written ({problem.strerror}): free some space, or choose another place with {option}")


def require_writable(folder: Path) -> None:
    """Raises `UserError` where `folder` cannot be written, before the hours of training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"can this folder be written?")
    except OSError as problem:
        raise write_error(folder, problem) from problem


def fingerprint(*parts: object) -> str:
    """Hexadecimal SHA-256 of files (each a `Path`) and of any other values (by `repr`)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()
