"""Training and validation splits.

Neighboring id numbers of a class are reviews of the same movie, and Stanford's train and test sets have different movies. With a
random split, a model recognizes movies whose labels it has seen: validation accuracy is about two points too high. A split by
blocks of id numbers avoids this. The numbers of the two classes are independent: nothing links a movie's positive reviews to its
negative ones. So the positive ones may be in training while the negative ones are in validation.

The split depends on ids and labels alone. It uses no library whose random numbers may change with a new version. NumPy guarantees
a stable stream of `RandomState` (NEP 19).
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from popcorn.config import RunConfig
from popcorn.errors import UserError

MOVIE_BLOCK = 250  # id numbers; a movie has at most 30 reviews, so few movies are in two blocks
NUM_HOLD_OUT_FOLDS = 10  # without --folds, the validation set is one of ten folds
SPLIT_SEED = 0
SPLIT = "blocks of 250 id numbers, numpy's RandomState(0)"
"""version of the split's rules, saved with every result: change it with the rules"""
ID = re.compile(r'^"?(\d+)_\d+"?$')


@dataclass(frozen=True)
class Split:
    """Rows of the training file for training, (train,), and for validation, (validation,)."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    epochs: int | None = None
    """number of epochs, where it is known"""

    @property
    def held_out(self) -> np.ndarray:
        """Rows that identify the split: the validation set, or the training set without one."""
        return self.validation if len(self.validation) else self.train


def movie_blocks(ids: list[str]) -> np.ndarray:
    """The block of id numbers of each review, int64 (n,).

    Raises `UserError` for an id that is not `number_rating`.
    """
    numbers = []
    for row, id in enumerate(ids):
        match = ID.match(id)
        if match is None:
            raise UserError(
                f"row {row + 2}: the id {id} is not of the form 7546_1, which identifies movies; pass --split-by random"
            )
        numbers.append(int(match.group(1)))
    return np.array(numbers) // MOVIE_BLOCK


def assign_folds(blocks: np.ndarray, labels: np.ndarray, num_folds: int) -> np.ndarray:
    """The fold of each review, int64 (n,), from 0; folds have similar sizes and classes.

    A block is never divided. Blocks are assigned in random order, the largest first. Each goes to the fold with the fewest
    reviews of the block's classes; of several, to the smallest.
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
    """Validation rows, sorted, one array per model: one tenth, or `folds` folds of all rows.

    The folds are the same for every seed and every script. So their validation metrics and out-of-fold probabilities are
    comparable. Raises `UserError` where there are too few reviews.
    """
    num_folds = folds or NUM_HOLD_OUT_FOLDS
    blocks = movie_blocks(ids) if method == "movie" else np.arange(len(ids))
    if (found := len(np.unique(blocks))) < num_folds:
        raise UserError(
            f"{len(labels)} training reviews in {found} blocks of ids cannot be split into {num_folds} folds: use more reviews"
        )
    fold = assign_folds(blocks, labels, num_folds)
    parts = [np.flatnonzero(fold == number) for number in range(num_folds)]
    if any(len(np.unique(labels[part])) < 2 for part in parts):
        raise UserError(f"{len(labels)} training reviews leave a validation set with one class only: use more reviews")
    return parts if folds else parts[:1]


def split_checksum(ids: list[str], parts: list[np.ndarray]) -> str:
    """SHA-256 of the validation sets: of each one's sorted ids, without quotes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update("\n".join(sorted(ids[row].strip('"') for row in part)).encode() + b"\n\n")
    return digest.hexdigest()


def limited(labels: np.ndarray, max_train_samples: int | None) -> np.ndarray:
    """All rows, or a random subset of `max_train_samples` rows, sorted and always the same."""
    if max_train_samples is None or max_train_samples >= len(labels):
        return np.arange(len(labels))
    return np.sort(np.random.default_rng(0).choice(len(labels), max_train_samples, replace=False))


def validation_splits(config: RunConfig, ids: list[str], labels: np.ndarray) -> list[Split]:
    """The splits for validation: one, or `--folds` of them.

    With `--no-validation`, all rows are for training. Raises `UserError` where there are too few training reviews, or where all
    are of one class.
    """
    rows = limited(labels, config.max_train_samples)
    if len(np.unique(labels[rows])) < 2 and not getattr(config, "adapter", None):  # a saved adapter is not trained again
        fix = (
            f"--max-train-samples is {config.max_train_samples}: give a larger number"
            if config.max_train_samples
            else "add reviews of the other"
        )
        raise UserError(f"the {len(rows)} training reviews are of one class, and training needs two: {fix}")
    if config.no_validation:
        return [refit_split(config, labels, None)]
    folds = validation_folds([ids[row] for row in rows], labels[rows], config.split_by, config.folds)
    names = [f"fold-{number}" for number in range(1, len(folds) + 1)] if config.folds else ["validated"]
    return [Split(name, np.setdiff1d(rows, rows[held_out]), rows[held_out]) for name, held_out in zip(names, folds, strict=True)]


def refit_split(config: RunConfig, labels: np.ndarray, epochs: int | None) -> Split:
    """All rows for training, and none for validation; `epochs` is None for as many as the recipe has."""
    rows = limited(labels, config.max_train_samples)
    return Split("refit", rows, rows[:0], epochs)
