"""Word vectors for embeddings: GloVe from a file, or word2vec trained on the competition's reviews."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from popcorn.data.competition import TRAIN, UNLABELED, Competition
from popcorn.data.glove import GIVE, read_blocks
from popcorn.data.text_files import opened
from popcorn.data.word_tokenizer import PAD, TOKENIZER, UNKNOWN, Corpus, pack, unpack, word_counts
from popcorn.errors import UserError, log
from popcorn.utils.cache import cached
from popcorn.utils.files import fingerprint
from popcorn.utils.packages import needs

WORD2VEC = {"vector_size": 200, "window": 8, "min_count": 5, "epochs": 6, "negative": 5, "sg": 0, "seed": 1}
"""CBOW with negative sampling (Mikolov et al. 2013); other settings than in the competition's tutorial"""
NORM = 5.0
"""norm of all vectors; word2vec's own norms grow with a word's frequency, which would hide the rare words that carry sentiment"""
MIN_COUNT = 2  # a word that occurs only once does not help with other reviews


@dataclass(frozen=True)
class Vocabulary:
    """Words with their ids and their vectors."""

    index: dict[str, int]
    """word to id; ids 0 (padding) and 1 (unknown word) have no word"""
    vectors: np.ndarray
    """float32 (len(index) + 2, width); the padding's row is zero"""
    source: str
    """origin of the vectors, for the results"""


def build_vocabulary(
    competition: Competition, corpus: Corpus, path: Path | None, width: int | None, folder: Path, deterministic: bool = False
) -> Vocabulary:
    """The vocabulary of the training files, with vectors from `path`, or from word2vec.

    Word2vec is trained once and saved in `folder`, since several workers give different vectors every time, and a resumed run
    needs the same ones. With `deterministic`, one worker gives the same vectors everywhere. Words that are only in the test set
    get an id if they have a vector: it was not trained here, but has a meaning. Raises `UserError` where the vectors' width is
    not `width` (None allows any).
    """
    counts = word_counts(corpus.training_files)
    if path is None:
        words, vectors = _word2vec(competition, corpus, folder, deterministic)
        source = f"word2vec {vectors.shape[1]}d on {len(corpus.train.ids) + len(corpus.unlabeled.ids):,} training reviews"
    else:
        words, vectors = read_vectors(path, set(counts) | set(corpus.test.words))
        source = f"{path.name} {vectors.shape[1]}d"
    if width is not None and vectors.shape[1] != width:
        raise UserError(
            f"the vectors of {source} are {vectors.shape[1]} wide where --vector-size asks for {width}: change one of the two"
        )
    vectors = vectors * (NORM / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-6))
    known = dict(zip(words, vectors, strict=True))
    kept = sorted({word for word, count in counts.items() if count >= MIN_COUNT} | set(known)) if path else sorted(known)
    index = {word: id for id, word in enumerate(kept, start=max(PAD, UNKNOWN) + 1)}
    # a word without a vector starts from random values of the same standard deviation, and is trained like the others
    matrix = np.random.default_rng(0).normal(0, vectors.std(), (len(index) + 2, vectors.shape[1])).astype(np.float32)
    matrix[PAD] = 0
    for word, vector in known.items():
        matrix[index[word]] = vector
    log(f"Vectors: {source}; {len(index):,} words, {len(known):,} of them with a vector")
    return Vocabulary(index, matrix, source)


def read_vectors(path: Path, wanted: set[str]) -> tuple[list[str], np.ndarray]:
    """Reads the vectors of the `wanted` words: words, float32 (n, width).

    `path` is a GloVe text file, its zip, or a file of `glove-gensim.py`.
    """
    path = Path(path)
    if path.suffix == ".kv":
        return _read_converted(path, wanted)
    with opened(path, GIVE):  # raises the UserError for a missing or wrong file
        pass

    def make() -> dict[str, np.ndarray]:
        log(f"Reading the vectors of {path}")
        words, rows = [], []
        for block_words, block in read_blocks(path):
            chosen = [row for row, word in enumerate(block_words) if word in wanted]
            words += [block_words[row] for row in chosen]
            rows.append(block[chosen])
        return {"words": pack(words), "vectors": np.concatenate(rows)}

    key = fingerprint(path, sorted(wanted))[:24]
    arrays = cached(user_cache_path("popcorn") / f"vectors-{key}.npz", make)
    return _first_of_each(unpack(arrays["words"]), arrays["vectors"], path)


def _read_converted(path: Path, wanted: set[str]) -> tuple[list[str], np.ndarray]:
    """Reads the arrays next to a `.kv` file.

    The `.kv` file itself is a pickle, which could run code, so it is never opened.
    """
    array, words_file = Path(f"{path}.vectors.npy"), Path(f"{path}.words.txt")
    for part in (array, words_file):
        if not part.is_file():
            raise UserError(f"{path} lacks its part {part.name}: make it with python glove-gensim.py, which writes all parts")
    try:
        words = words_file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        vectors = np.load(array, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        part = words_file if isinstance(problem, UnicodeDecodeError) else array
        raise UserError(f"{part} is damaged ({problem}): make it again with python glove-gensim.py") from problem
    if not isinstance(vectors, np.ndarray):
        raise UserError(f"{array} is not a NumPy array: make it again with python glove-gensim.py")
    if vectors.ndim != 2 or len(vectors) != len(words):
        raise UserError(
            f"{array} {vectors.shape} and {words_file} ({len(words)} words) differ: make them again with glove-gensim.py"
        )
    rows = [row for row, word in enumerate(words) if word in wanted]
    return _first_of_each([words[row] for row in rows], np.asarray(vectors[rows]), path)


def _first_of_each(words: list[str], vectors: np.ndarray, path: Path) -> tuple[list[str], np.ndarray]:
    """Keeps the first, more frequent one of equal words.

    Several words of a GloVe file that cannot be decoded may become equal.
    """
    rows = list({word: row for row, word in reversed(list(enumerate(words)))}.values())[::-1]
    if not rows:
        raise UserError(f"{path} has none of the words of the reviews: is it a file of English word vectors?")
    return [words[row] for row in rows], vectors[rows]


def _word2vec(competition: Competition, corpus: Corpus, folder: Path, deterministic: bool) -> tuple[list[str], np.ndarray]:
    """Trains word2vec on the training files, or loads the vectors of an earlier run."""
    workers = 1 if deterministic else os.cpu_count() or 1

    def make() -> dict[str, np.ndarray]:
        with needs("gensim", "training word2vec"):
            from gensim.models import Word2Vec
        from popcorn.utils.progress import EpochBar

        min_count = WORD2VEC["min_count"]
        if max(word_counts(corpus.training_files).values(), default=0) < min_count:
            raise UserError(
                f"word2vec cannot be trained: no word occurs {min_count} times in the training reviews of {competition.folder}: "
                "give more reviews, or vectors with --word-vectors"
            )
        sentences = [review for file in corpus.training_files for review in file.sentences()]
        bar = EpochBar("Training word2vec", WORD2VEC["epochs"])
        model = Word2Vec(sentences, workers=workers, callbacks=[bar], **WORD2VEC).wv
        return {"words": pack(model.index_to_key), "vectors": model.vectors}

    files = [path for name in (TRAIN, UNLABELED) if (path := competition.path(name))]
    one_worker = ["one worker"] if deterministic else []
    key = fingerprint(*files, TOKENIZER, sorted(WORD2VEC.items()), *one_worker)[:24]
    arrays = cached(folder / f"word2vec-{key}.npz", make)
    if workers > 1:
        log(
            f"word2vec is trained by {workers} parallel workers, so its vectors differ every time: in another --output-dir the "
            "same command gives another submission, unless with --deterministic"
        )
    return unpack(arrays["words"]), arrays["vectors"]
