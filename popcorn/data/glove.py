"""Stanford's GloVe text files (https://nlp.stanford.edu/projects/glove), read in blocks, and gensim's form of them.

A line is a word and its numbers, separated by single blanks. 840B has words that hold blanks themselves (". . ."), so a
line is cut from its right end; word2vec's own text readers fail there.
"""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from popcorn.data.text_files import opened
from popcorn.errors import UserError

BLOCK = 4_096  # lines parsed at once
AGAIN = "fetch the file again from https://nlp.stanford.edu/projects/glove"
GIVE = "give a GloVe text file, its zip, or a file that glove-gensim.py made"
HEADER = re.compile(rb"\d+ (\d+)\s*$")
"""first line of word2vec's text format, which GloVe's lacks: numbers of words and of their dimensions"""
UTF_16 = b"\xff\xfe", b"\xfe\xff"


def read_blocks(path: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yields words (n,) and their vectors, float32 (n, width), a few thousand lines at a time.

    Raises `UserError`, with the line's number, for a line whose count of numbers differs from the first line's.
    """
    width, read = None, 0
    with opened(path, GIVE) as file:
        words, numbers = [], []
        lines, skipped = _without_header(file, path)
        for line in lines:
            line = line.rstrip(b" \r\n")
            width = line.count(b" ") if width is None else width
            word, *rest = line.rsplit(b" ", width) if width else [line]
            if len(rest) != width or not width or (b" " in word and _is_number(word.rsplit(b" ", 1)[1])):
                raise _wrong_count(path, skipped + read + len(words) + 1, line, width)
            words.append(word.decode("utf-8", errors="replace"))
            numbers.append(line[len(word) + 1 :])
            if len(words) == BLOCK:
                yield words, _parse(path, numbers, width, skipped + read)
                read, words, numbers = read + len(words), [], []
        if words:
            yield words, _parse(path, numbers, width, skipped + read)
        elif not read:
            raise UserError(f"{path} is empty: {AGAIN}")


def _without_header(file: BinaryIO, path: Path) -> tuple[Iterator[bytes], int]:
    """The lines, without a byte-order mark and without the header of word2vec's text format; how many lines were left out."""
    first, second = next(file, b""), next(file, b"")
    if first.startswith(UTF_16):
        raise UserError(f"{path} is text in UTF-16: save it as text in UTF-8")
    first = first.removeprefix(b"\xef\xbb\xbf")
    header = HEADER.match(first)
    is_header = header is not None and second.rstrip(b" \r\n").count(b" ") >= int(header[1]) > 1
    return chain(filter(None, [second] if is_header else [first, second]), file), int(is_header)


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
