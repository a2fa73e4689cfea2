"""Converts a Stanford GloVe text file (plain or zipped) into gensim's memory-mapped KeyedVectors.

Works for 6B, 42B, 840B and Twitter (Pennington, Socher & Manning 2014, https://nlp.stanford.edu/projects/glove). The vectors are
streamed to the disk, so the 840B file needs less than 1 GiB of memory. Load the result with `KeyedVectors.load(path, mmap="r")`,
or pass it as --word-vectors.
"""

from dataclasses import dataclass
from pathlib import Path

from popcorn.config import parse


@dataclass
class Config:
    """Input and output of the conversion."""

    glove: Path
    """GloVe text file or its zip"""
    output: Path
    """output file, ending in .kv; its vectors and words are saved next to it"""
    vocab_from: Path | None = None
    """keep only the words of the competition's files in this folder"""
    neighbors: tuple[str, ...] = ("movie", "terrible", "brilliant")
    """as a check, show the nearest neighbors of these words"""


if __name__ == "__main__":
    config = parse(Config)

import tempfile

import numpy as np
from numpy.lib.format import write_array_header_1_0
from rich.table import Table
from tqdm import tqdm

from popcorn.data.competition import Competition
from popcorn.data.glove import read_blocks
from popcorn.data.word_tokenizer import read_corpus
from popcorn.errors import UserError, exit_on_user_error, log
from popcorn.utils.console import make_console
from popcorn.utils.files import write_error
from popcorn.utils.packages import needs

with needs("gensim", "a .kv file"):
    from gensim.models import KeyedVectors

FREQUENT = 100_000  # neighbors come from GloVe's most frequent words


def convert(glove: Path, output: Path, wanted: set[str] | None) -> None:
    """Writes `output`, `output.vectors.npy` and `output.words.txt`: all words of `glove`, or the `wanted` ones.

    The first, more frequent one of two equal words stays. All files appear, or none.
    """
    if output.suffix != ".kv":
        raise UserError(f"{output} does not end in .kv, by which the scripts recognize a converted file: choose such a name")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
            _write(glove, Path(folder) / output.name, wanted)
            for part in sorted(Path(folder).iterdir(), reverse=True):  # the .kv itself last
                part.replace(output.with_name(part.name))
    except OSError as problem:
        raise write_error(output, problem, "--output") from problem


def _write(glove: Path, output: Path, wanted: set[str] | None) -> None:
    index: dict[str, int] = {}
    vectors = Path(f"{output}.rows")
    with vectors.open("wb") as rows:
        _npy_header(rows, 0, 1)
        for words, block in tqdm(read_blocks(glove), f"Reading {glove.name}", unit="block"):
            new = []
            for row, word in enumerate(words):
                if word not in index and (wanted is None or word in wanted):
                    index[word] = len(index)
                    new.append(row)
            rows.write(block[new].tobytes())
        if not index:
            raise UserError(f"{glove} has none of the words of --vocab-from: is it a file of English word vectors?")
        rows.seek(0)
        _npy_header(rows, len(index), block.shape[1])
    Path(f"{output}.words.txt").write_text("\n".join(index) + "\n", encoding="utf-8")
    keys = KeyedVectors(block.shape[1])
    keys.key_to_index, keys.index_to_key = index, list(index)
    # gensim saves an empty array in a separate file; the rows on the disk replace it without a copy in memory
    keys.save(str(output), separately=["vectors"])
    vectors.replace(f"{output}.vectors.npy")


def _npy_header(file, rows: int, width: int) -> None:
    """The header of a float32 array (rows, width).

    It has 128 bytes for any number of rows, because numpy leaves room to grow.
    """
    write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, width)})


def show_neighbors(output: Path, words: tuple[str, ...]) -> None:
    """Prints the five nearest neighbors of each word, as a check of the file."""
    all_words = KeyedVectors.load(str(output), mmap="r")
    frequent = KeyedVectors(all_words.vector_size)
    frequent.add_vectors(all_words.index_to_key[:FREQUENT], np.array(all_words.vectors[:FREQUENT]))
    table = Table("word", "nearest neighbors", title=f"{output}: {len(all_words):,} words, {all_words.vector_size} wide")
    for word in words:
        if word in frequent:
            near = frequent.most_similar(word, topn=5)
            table.add_row(word, ", ".join(f"{other} {cosine:.2f}" for other, cosine in near))
    make_console().print(table)


if __name__ == "__main__":
    with exit_on_user_error():
        wanted = None
        if config.vocab_from is not None:
            corpus = read_corpus(Competition(config.vocab_from, "--vocab-from"))
            wanted = {word for file in (corpus.train, corpus.test, corpus.unlabeled) for word in file.words}
            log(f"Keeping those of the {len(wanted):,} words of {config.vocab_from} that have a vector")
        convert(config.glove, config.output, wanted)
        show_neighbors(config.output, config.neighbors)
        log(f"Pass it on as --word-vectors {config.output}")
