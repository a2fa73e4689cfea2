"""Files that appear whole or not at all, made by one run at a time, and arrays cached under a key of what they were made from."""

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
        raise write_error(path, problem, option) from problem
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict, option: str = "--output-dir") -> None:
    """Writes the content as readable JSON, whole or not at all."""
    with atomic_write(path, "w", option) as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def write_error(path: Path, problem: OSError, option: str = "--output-dir") -> UserError:
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
        raise write_error(folder, problem) from problem


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
