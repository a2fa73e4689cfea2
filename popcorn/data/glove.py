"""Reads Stanford's GloVe text files (https://nlp.stanford.edu/projects/glove) in blocks.

A line is a word and its values, separated by single spaces. Some words of 840B contain spaces themselves (". . ."), so a line is
split from its right end. Readers of word2vec's text format fail on them.
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
"""first line of word2vec's text format, which GloVe does not have: number of words and dimension"""
UTF_16 = b"\xff\xfe", b"\xfe\xff"


def read_blocks(path: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yields words (n,) and their vectors, float32 (n, width), some thousand lines at a time.

    Raises `UserError`, with the line number, where a line has another number of values than the first one.
    """
    width, read = None, 0
    with opened(path, GIVE) as file:
        words, values = [], []
        lines, skipped = _without_header(file, path)
        for line in lines:
            line = line.rstrip(b" \r\n")
            width = line.count(b" ") if width is None else width
            word, *rest = line.rsplit(b" ", width) if width else [line]
            if len(rest) != width or not width or (b" " in word and _is_number(word.rsplit(b" ", 1)[1])):
                raise _wrong_count(path, skipped + read + len(words) + 1, line, width)
            words.append(word.decode("utf-8", errors="replace"))
            values.append(line[len(word) + 1 :])
            if len(words) == BLOCK:
                yield words, _parse(path, values, width, skipped + read)
                read, words, values = read + len(words), [], []
        if words:
            yield words, _parse(path, values, width, skipped + read)
        elif not read:
            raise UserError(f"{path} is empty: {AGAIN}")


def _without_header(file: BinaryIO, path: Path) -> tuple[Iterator[bytes], int]:
    """The lines without byte-order mark and header, and the number of skipped lines."""
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
    return UserError(f"{path}, row {row}: {count} numbers where {width or 'at least one'} are expected: {AGAIN}")
