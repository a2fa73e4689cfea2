"""Stanford's GloVe text files (https://nlp.stanford.edu/projects/glove), read in blocks, and gensim's form of them.

A line is a word and its numbers, separated by single blanks. 840B has words that hold blanks themselves (". . ."), so a
line is cut from its right end; word2vec's own text readers fail there.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from popcorn.errors import UserError

BLOCK = 4_096  # lines parsed at once
AGAIN = "fetch the file again from https://nlp.stanford.edu/projects/glove"


@contextmanager
def _lines(path: Path):
    """The file's lines as bytes, of the plain text or of the archive's only member."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if not name.endswith("/")]
                if len(members) != 1:
                    raise UserError(
                        f"{path} holds {len(members)} files {members}: unpack it and pass the one of the width you want"
                    )
                with archive.open(members[0]) as file:
                    yield file
        else:
            with path.open("rb") as file:
                yield file
    except FileNotFoundError as problem:
        raise UserError(
            f"there is no file {path}: give a GloVe text file, its zip, or a file that glove-gensim.py made"
        ) from problem
    except (zipfile.BadZipFile, zlib.error, EOFError) as problem:
        raise UserError(f"{path} is a damaged or truncated zip archive ({problem}): {AGAIN}") from problem
    except OSError as problem:
        raise UserError(f"{path} cannot be read ({problem.strerror}): give a GloVe text file or its zip") from problem


def read_blocks(path: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yields words (n,) and their vectors, float32 (n, width), a few thousand lines at a time.

    Raises `UserError`, with the line's number, for a line whose count of numbers differs from the first line's.
    """
    width, read = None, 0
    with _lines(path) as lines:
        words, numbers = [], []
        for line in lines:
            line = line.rstrip(b"\r\n")
            width = line.count(b" ") if width is None else width
            word, *rest = line.rsplit(b" ", width) if width else [line]
            if len(rest) != width or not width or (b" " in word and _is_number(word.rsplit(b" ", 1)[1])):
                raise _wrong_count(path, read + len(words) + 1, line, width)
            words.append(word.decode("utf-8", errors="replace"))
            numbers.append(line[len(word) + 1 :])
            if len(words) == BLOCK:
                yield words, _parse(path, numbers, width, read)
                read, words, numbers = read + len(words), [], []
        if words:
            yield words, _parse(path, numbers, width, read)
        elif not read:
            raise UserError(f"{path} is empty: {AGAIN}")


def _parse(path: Path, lines: list[bytes], width: int, read: int) -> np.ndarray:
    try:
        block = np.loadtxt(lines, dtype=np.float32, delimiter=" ", comments=None, ndmin=2)
        if np.isfinite(block).all():
            return block
    except ValueError:
        pass
    for row, line in enumerate(lines):  # the slow way, to name the line
        if not all(_is_number(number) for number in line.split(b" ")):
            raise _wrong_count(path, read + row + 1, line, width)
    raise UserError(f"{path} holds a number that is not finite: {AGAIN}")


def _is_number(text: bytes) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _wrong_count(path: Path, row: int, line: bytes, width: int) -> UserError:
    count = sum(map(_is_number, line.split(b" ")))
    return UserError(f"{path}, row {row}: {count} numbers stand where {width or 'at least one'} are expected: {AGAIN}")
