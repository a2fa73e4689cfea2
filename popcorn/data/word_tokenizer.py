"""From reviews to word ids: cleaning, Penn Treebank tokens like GloVe's, and a vocabulary.

Tokens are arrays in a cache, with keys from the content of their files. So a second run does not tokenize again.
"""

import os
import re
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from platformdirs import user_cache_path

from popcorn.data.competition import READING, TEST, TRAIN, UNLABELED, Competition
from popcorn.errors import UserError, log
from popcorn.utils.cache import cached
from popcorn.utils.files import fingerprint
from popcorn.utils.packages import needs

TOKENIZER = "nltk NLTKWordTokenizer, lower case, 1"
"""version of the rules for tokens: part of the cache keys, so change it with the rules below"""
PAD, UNKNOWN = 0, 1
BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
# Penn Treebank splits a period only at the end of its input; reviews have many sentences, often without a space between them
FULL_STOP = re.compile(r"""(?<=[^\s.])\.(?=\s|$|["')\]])|(?<=[a-z]{2})\.(?=[a-z]{2})""")
CHUNK = 1_000  # reviews in one worker's batch


@dataclass(frozen=True)
class TokenizedFile:
    """The reviews of one file; review i has the words `words[tokens[offsets[i]:offsets[i + 1]]]`."""

    ids: list[str]
    labels: np.ndarray | None
    words: list[str]
    tokens: np.ndarray
    """int32 (tokens,), indices into `words`"""
    offsets: np.ndarray
    """int64 (reviews + 1,)"""

    def sentences(self) -> list[list[str]]:
        """Each review as a list of words."""
        words = np.array(self.words, dtype=object)
        return [words[review].tolist() for review in np.split(self.tokens, self.offsets[1:-1])]


def plain(text: str) -> str:
    """Removes HTML line breaks and control characters (C1 included)."""
    return CONTROL.sub(" ", BREAK.sub(" ", text))


def clean(text: str) -> str:
    """The plain text in lower case."""
    return plain(text).lower()


@cache
def _tokenizer():
    with needs("nltk", "splitting reviews into words"):
        from nltk.tokenize import NLTKWordTokenizer  # the import takes over a second, and a warm cache does not need it

    return NLTKWordTokenizer()


def tokenize(text: str) -> list[str]:
    """Words and punctuation by Penn Treebank rules: "don't." becomes "do", "n't", "."."""
    return _tokenizer().tokenize(FULL_STOP.sub(" . ", clean(text)))


def _tokenize_chunk(texts: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Words of the chunk, their ids (tokens,), and lengths (reviews,).

    These are far smaller to send back than strings.
    """
    index: dict[str, int] = {}
    reviews = [[index.setdefault(word, len(index)) for word in tokenize(text)] for text in texts]
    tokens = np.fromiter((token for review in reviews for token in review), dtype=np.int32)
    return list(index), tokens, np.array([len(review) for review in reviews], dtype=np.int64)


def tokenize_all(texts: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Tokenizes on all CPU cores: words, tokens int32 (tokens,), offsets int64 (reviews + 1,)."""
    from tqdm import tqdm

    chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
    index: dict[str, int] = {}
    tokens, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(chunks) or 1)) as pool:
        for words, chunk_tokens, chunk_lengths in tqdm(
            pool.map(_tokenize_chunk, chunks), "Tokenizing", len(chunks), unit="k reviews"
        ):
            renumber = np.array([index.setdefault(word, len(index)) for word in words], dtype=np.int32)
            tokens.append(renumber[chunk_tokens] if len(words) else chunk_tokens)
            lengths.append(chunk_lengths)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return list(index), np.concatenate(tokens), offsets


def read_tokens(competition: Competition, name: str) -> TokenizedFile:
    """The tokens of one of the competition's files, from the cache where possible."""

    def make() -> dict[str, np.ndarray]:
        reviews = competition.read(name)
        log(f"Tokenizing {len(reviews.texts):,} reviews of {name}")
        words, tokens, offsets = tokenize_all(reviews.texts)
        labels = np.zeros(0, np.int64) if reviews.labels is None else reviews.labels
        return {
            "ids": pack(reviews.ids),
            "labels": labels,
            "words": pack(words),
            "tokens": tokens,
            "offsets": offsets,
        }

    path = competition.path(name)
    if path is None:
        competition.read(name)  # raises the UserError
    key = fingerprint(path, name, TOKENIZER, READING)[:24]
    arrays = cached(user_cache_path("popcorn") / f"tokens-{key}.npz", make)
    competition.count(name, len(arrays["offsets"]) - 1)
    labels = arrays["labels"] if name == TRAIN else None
    return TokenizedFile(unpack(arrays["ids"]), labels, unpack(arrays["words"]), arrays["tokens"], arrays["offsets"])


def pack(strings: list[str]) -> np.ndarray:
    """Strings without line breaks as one byte array.

    numpy's string arrays would give each string the size of the longest.
    """
    return np.frombuffer("\n".join(strings).encode(), dtype=np.uint8)


def unpack(array: np.ndarray) -> list[str]:
    """The strings of a packed array."""
    return array.tobytes().decode().split("\n") if array.size else []


@dataclass(frozen=True)
class Corpus:
    """The competition's three files, tokenized; `unlabeled` is empty if its file is missing."""

    train: TokenizedFile
    test: TokenizedFile
    unlabeled: TokenizedFile

    @property
    def training_files(self) -> tuple[TokenizedFile, TokenizedFile]:
        """Files for the vocabulary and for word vectors."""
        return self.train, self.unlabeled


def read_corpus(competition: Competition) -> Corpus:
    """Reads the tokens of all files."""
    empty = TokenizedFile([], None, [], np.zeros(0, np.int32), np.zeros(1, np.int64))
    unlabeled = read_tokens(competition, UNLABELED) if competition.path(UNLABELED) else empty
    return Corpus(read_tokens(competition, TRAIN), read_tokens(competition, TEST), unlabeled)


def word_counts(files: tuple[TokenizedFile, ...]) -> dict[str, int]:
    """Number of occurrences of each word in the files."""
    counts: dict[str, int] = {}
    for file in files:
        for word, count in zip(file.words, np.bincount(file.tokens, minlength=len(file.words)).tolist(), strict=True):
            counts[word] = counts.get(word, 0) + count
    return counts


def encode(file: TokenizedFile, index: dict[str, int]) -> list[np.ndarray]:
    """Each review as ids of a vocabulary, int32 (tokens,); other words become `UNKNOWN`."""
    renumber = np.array([index.get(word, UNKNOWN) for word in file.words], dtype=np.int32)
    tokens = renumber[file.tokens] if len(file.words) else file.tokens
    return np.split(tokens, file.offsets[1:-1]) if file.ids else []


@contextmanager
def enough_terms():
    """Turns scikit-learn's errors about `min_df` or an empty vocabulary into a `UserError`."""
    try:
        yield
    except ValueError as problem:
        if "empty vocabulary" in str(problem):
            raise UserError("no training review has a word in it: give reviews with texts") from problem
        if "min_df" not in str(problem):
            raise
        raise UserError(
            "no term is in as many reviews as --min-df asks for: give a smaller number, or more reviews that hold words"
        ) from problem
