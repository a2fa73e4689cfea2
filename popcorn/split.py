"""Which training reviews a model is fitted on and which it is validated on.

Neighbouring id numbers of one class are reviews of the same film, and films do not cross Stanford's train and test. A random
split lets a model recognise films it knows the verdict on, and reads some two points too high; a split by blocks of id numbers
does not. The two classes are numbered apart, and nothing ties a film's praise to its blame: where one is held out, the other may
have been learnt, with the opposite verdict.
"""

import re
from typing import Literal

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from popcorn.errors import UserError

FILM_BLOCK = 250  # id numbers; a film has at most 30 reviews, so few films straddle two blocks
HOLD_OUT = 10  # one part in ten is held out where no folds are asked for
ID = re.compile(r'^"?(\d+)_\d+"?$')


def film_blocks(ids: list[str]) -> np.ndarray:
    """The block of id numbers of each review, int64 (n,). Raises `UserError` for an id that is not `number_rating`."""
    numbers = []
    for row, id in enumerate(ids):
        match = ID.match(id)
        if match is None:
            raise UserError(
                f"row {row + 2}: the id {id} is not of the form 7546_1, which films are told by; pass --validation random"
            )
        numbers.append(int(match.group(1)))
    return np.array(numbers) // FILM_BLOCK


def validation_parts(
    ids: list[str], labels: np.ndarray, method: Literal["film", "random"], folds: int | None
) -> list[np.ndarray]:
    """Rows to validate on, sorted, one array a model: one tenth, or `folds` parts that together are all rows.

    The split is the same for every seed and every script, so that their validation figures and out-of-fold
    probabilities can be set side by side.
    """
    parts = folds or HOLD_OUT
    rows = np.zeros(len(labels))
    try:
        if method == "film":
            splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=0)
            chosen = [part for _, part in splitter.split(rows, labels, film_blocks(ids))]
        else:
            chosen = [part for _, part in StratifiedKFold(parts, shuffle=True, random_state=0).split(rows, labels)]
    except ValueError as problem:
        raise UserError(
            f"{len(labels)} training reviews cannot be split into {parts} parts ({problem}): use more reviews"
        ) from problem
    if any(len(np.unique(labels[part])) < 2 for part in chosen):
        raise UserError(f"{len(labels)} training reviews leave a validation part with one class only: use more reviews")
    return chosen if folds else chosen[:1]


def limited(labels: np.ndarray, limit: int | None) -> np.ndarray:
    """Rows of a quick try, sorted: all, or a random `limit` of them that is the same every time."""
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    return np.sort(np.random.default_rng(0).choice(len(labels), limit, replace=False))
