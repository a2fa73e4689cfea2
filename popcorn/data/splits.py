"""Which training reviews a model is trained on, and which it is validated on.

Neighboring id numbers of one class are reviews of the same movie, and movies do not cross Stanford's train and test. A random
split lets a model recognize movies whose label it has seen, and reads about two points too high; a split by blocks of id
numbers does not. The two classes are numbered apart, and nothing ties a movie's positive reviews to its negative ones: where
one is held out, the other may have been trained on, with the opposite label.

The split depends on the ids and the labels alone. It uses no library whose next version may draw other numbers: NumPy
guarantees that the stream of `RandomState` never changes (NEP 19).
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from popcorn.config import RunConfig
from popcorn.errors import UserError

MOVIE_BLOCK = 250  # id numbers; a film has at most 30 reviews, so few films straddle two blocks
NUM_HOLD_OUT_FOLDS = 10  # one part in ten is held out where no folds are asked for
SPLIT_SEED = 0
SPLIT = "blocks of 250 id numbers, numpy's RandomState(0)"
"""names the rules below in every record; a change of the rules must change it"""
ID = re.compile(r'^"?(\d+)_\d+"?$')


@dataclass(frozen=True)
class Split:
    """Rows of the training file to train on, (train,), and to validate on, (validation,)."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    epochs: int | None = None
    """to train for, where that is known"""

    @property
    def held_out(self) -> np.ndarray:
        """The rows that identify the split: those to validate on, or to train on where nothing is held out."""
        return self.validation if len(self.validation) else self.train


def movie_blocks(ids: list[str]) -> np.ndarray:
    """The block of id numbers of each review, int64 (n,). Raises `UserError` for an id that is not `number_rating`."""
    numbers = []
    for row, id in enumerate(ids):
        match = ID.match(id)
        if match is None:
            raise UserError(
                f"row {row + 2}: the id {id} is not of the form 7546_1, which films are told by; pass --split-by random"
            )
        numbers.append(int(match.group(1)))
    return np.array(numbers) // MOVIE_BLOCK


def assign_folds(blocks: np.ndarray, labels: np.ndarray, num_folds: int) -> np.ndarray:
    """The fold of each review, int64 (n,), from 0: a block is never divided, and folds are alike in size and in classes.

    Blocks are dealt in random order, the largest first, each to the fold that has least of the block's classes, of
    equals the smallest.
    """
    names, block = np.unique(blocks, return_inverse=True)
    counts = np.zeros((len(names), 2), np.int64)  # negative and positive reviews of each block
    np.add.at(counts, (block, labels), 1)
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(len(names))
    largest_first = shuffled[np.argsort(-counts[shuffled].sum(1), kind="stable")]
    filled, fold_of_block = np.zeros((num_folds, 2), np.int64), np.zeros(len(names), np.int64)
    for number in largest_first:
        fold = np.lexsort((filled.sum(1), filled @ counts[number]))[0]
        fold_of_block[number] = fold
        filled[fold] += counts[number]
    return fold_of_block[block]


def validation_folds(
    ids: list[str], labels: np.ndarray, method: Literal["movie", "random"], folds: int | None
) -> list[np.ndarray]:
    """Rows to validate on, sorted, one array a model: one tenth, or `folds` parts that together are all rows.

    The split is the same for every seed and every script, so that their validation metrics and out-of-fold
    probabilities can be compared. Raises `UserError` where the reviews are too few for it.
    """
    num_folds = folds or NUM_HOLD_OUT_FOLDS
    blocks = movie_blocks(ids) if method == "movie" else np.arange(len(ids))
    if (found := len(np.unique(blocks))) < num_folds:
        raise UserError(
            f"{len(labels)} training reviews in {found} blocks of ids cannot be split into {num_folds} parts: use more reviews"
        )
    fold = assign_folds(blocks, labels, num_folds)
    parts = [np.flatnonzero(fold == number) for number in range(num_folds)]
    if any(len(np.unique(labels[part])) < 2 for part in parts):
        raise UserError(f"{len(labels)} training reviews leave a validation part with one class only: use more reviews")
    return parts if folds else parts[:1]


def split_checksum(ids: list[str], parts: list[np.ndarray]) -> str:
    """SHA-256 of which reviews are held out together: of the sorted ids of each part, without their quotes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update("\n".join(sorted(ids[row].strip('"') for row in part)).encode() + b"\n\n")
    return digest.hexdigest()


def limited(labels: np.ndarray, max_train_samples: int | None) -> np.ndarray:
    """Rows of a quick try, sorted: all, or a random `max_train_samples` of them that is the same every time."""
    if max_train_samples is None or max_train_samples >= len(labels):
        return np.arange(len(labels))
    return np.sort(np.random.default_rng(0).choice(len(labels), max_train_samples, replace=False))


def validation_splits(config: RunConfig, ids: list[str], labels: np.ndarray) -> list[Split]:
    """The splits that a run validates on: one, or `--folds`; with `--no-validation` all rows and nothing held out.

    Raises `UserError` where the training reviews are too few, or of one class.
    """
    rows = limited(labels, config.max_train_samples)
    if len(np.unique(labels[rows])) < 2 and not getattr(config, "adapter", None):  # a given adapter is not trained
        fix = (
            f"--max-train-samples is {config.max_train_samples}: give a larger number"
            if config.max_train_samples
            else "add reviews of the other"
        )
        raise UserError(f"the {len(rows)} training reviews are of one class, and a model learns from two: {fix}")
    if config.no_validation:
        return [refit_split(config, labels, getattr(config, "epochs", None))]
    folds = validation_folds([ids[row] for row in rows], labels[rows], config.split_by, config.folds)
    names = [f"fold-{number}" for number in range(1, len(folds) + 1)] if config.folds else ["validated"]
    return [Split(name, np.setdiff1d(rows, rows[held_out]), rows[held_out]) for name, held_out in zip(names, folds, strict=True)]


def refit_split(config: RunConfig, labels: np.ndarray, epochs: int | None) -> Split:
    """All rows to train on for a fixed number of epochs, and none to validate on."""
    rows = limited(labels, config.max_train_samples)
    return Split("refit", rows, rows[:0], epochs)
