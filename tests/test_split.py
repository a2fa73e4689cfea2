import numpy as np
import pytest

from popcorn.errors import UserError
from popcorn.split import film_blocks, limited, validation_parts

IDS = [f'"{number}_{rating}"' for number in range(0, 12_500, 10) for rating in (1, 10)]
LABELS = np.array([0, 1] * 1_250)


@pytest.mark.parametrize("folds", [None, 5])
def test_no_block_of_ids_is_on_both_sides(folds):
    blocks = film_blocks(IDS)
    for part in validation_parts(IDS, LABELS, "film", folds):
        rest = np.setdiff1d(np.arange(len(IDS)), part)
        assert not set(blocks[part]) & set(blocks[rest])
        assert abs(LABELS[part].mean() - 0.5) < 0.05


@pytest.mark.parametrize("method", ["film", "random"])
def test_folds_are_all_rows_once(method):
    parts = validation_parts(IDS, LABELS, method, 4)
    assert len(parts) == 4
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(IDS)))
    again = validation_parts(IDS, LABELS, method, 4)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_one_tenth_is_held_out_without_folds():
    (part,) = validation_parts(IDS, LABELS, "film", None)
    assert 0.07 < len(part) / len(IDS) < 0.13


def test_a_random_split_mixes_blocks():
    blocks = film_blocks(IDS)
    (part,) = validation_parts(IDS, LABELS, "random", None)
    assert set(blocks[part]) & set(np.delete(blocks, part))


def test_what_cannot_be_split_is_refused():
    with pytest.raises(UserError, match="row 3: the id seven"):
        film_blocks(["1_1", "seven"])
    for rows in (2, 12):
        with pytest.raises(UserError, match="use more reviews"):
            validation_parts(IDS[:rows], LABELS[:rows], "film", None)


def test_a_limit_is_the_same_rows_every_time():
    rows = limited(LABELS, 100)
    assert len(rows) == 100 and np.array_equal(rows, limited(LABELS, 100)) and (np.diff(rows) > 0).all()
    assert 30 < LABELS[rows].sum() < 70
    assert len(limited(LABELS, None)) == len(limited(LABELS, 10**6)) == len(LABELS)
