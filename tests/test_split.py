import numpy as np
import pytest

from popcorn.data.splits import assign_folds, limited, movie_blocks, split_checksum, validation_folds
from popcorn.errors import UserError

IDS = [f'"{number}_{rating}"' for number in range(0, 12_500, 10) for rating in (1, 10)]
LABELS = np.array([0, 1] * 1_250)


@pytest.mark.parametrize("folds", [None, 5])
def test_no_block_of_ids_is_on_both_sides(folds):
    blocks = movie_blocks(IDS)
    for part in validation_folds(IDS, LABELS, "movie", folds):
        rest = np.setdiff1d(np.arange(len(IDS)), part)
        assert not set(blocks[part]) & set(blocks[rest])
        assert abs(LABELS[part].mean() - 0.5) < 0.05


@pytest.mark.parametrize("method", ["movie", "random"])
def test_folds_are_all_rows_once(method):
    parts = validation_folds(IDS, LABELS, method, 4)
    assert len(parts) == 4
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(IDS)))
    again = validation_folds(IDS, LABELS, method, 4)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_one_tenth_is_held_out_without_folds():
    (part,) = validation_folds(IDS, LABELS, "movie", None)
    assert 0.07 < len(part) / len(IDS) < 0.13


def test_a_random_split_mixes_blocks():
    blocks = movie_blocks(IDS)
    (part,) = validation_folds(IDS, LABELS, "random", None)
    assert set(blocks[part]) & set(np.delete(blocks, part))


def test_what_cannot_be_split_is_refused():
    with pytest.raises(UserError, match="row 3: the id seven"):
        movie_blocks(["1_1", "seven"])
    for rows in (2, 12):
        with pytest.raises(UserError, match="use more reviews"):
            validation_folds(IDS[:rows], LABELS[:rows], "movie", None)


def test_a_limit_is_the_same_rows_every_time():
    rows = limited(LABELS, 100)
    assert len(rows) == 100 and np.array_equal(rows, limited(LABELS, 100)) and (np.diff(rows) > 0).all()
    assert 30 < LABELS[rows].sum() < 70
    assert len(limited(LABELS, None)) == len(limited(LABELS, 10**6)) == len(LABELS)


COMPETITION_IDS = [f"{number}_{rating}" for rating in (1, 10) for number in range(12_500)]
COMPETITION_LABELS = np.repeat([0, 1], 12_500)


@pytest.mark.parametrize(
    ("method", "folds", "checksum"),
    [
        ("movie", None, "48eac4c87b78aad407e58f8df61591ce22aab8fa93e1413898906a669e6639d4"),
        ("movie", 5, "8593646f26db0f5e85d283d324998b87a12f05a9c3dccf9b1e4330247f89d9ac"),
        ("random", None, "74bea49fea0518e55da2f8ad6100bad74975b3905e459d40ab19fb6b3b72fa01"),
    ],
)
def test_the_split_of_the_competition_is_the_same_whatever_is_installed(method, folds, checksum):
    """The checksums were written down once: a library's new version must not change which reviews are held out."""
    parts = validation_folds(COMPETITION_IDS, COMPETITION_LABELS, method, folds)
    assert split_checksum(COMPETITION_IDS, parts) == checksum
    assert all(len(part) == 25_000 / (folds or 10) and COMPETITION_LABELS[part].mean() == 0.5 for part in parts)


def test_the_split_depends_on_the_ids_and_not_on_their_order_or_quotes():
    order = np.random.default_rng(1).permutation(len(COMPETITION_IDS))
    other = [f'"{COMPETITION_IDS[row]}"' for row in order]
    parts = validation_folds(other, COMPETITION_LABELS[order], "movie", 5)
    expected = validation_folds(COMPETITION_IDS, COMPETITION_LABELS, "movie", 5)
    assert split_checksum(other, parts) == split_checksum(COMPETITION_IDS, expected)
    moved = [np.append(expected[0], expected[1][:1]), expected[1][1:], *expected[2:]]
    assert split_checksum(COMPETITION_IDS, moved) != split_checksum(COMPETITION_IDS, expected)


@pytest.mark.parametrize("num_folds", [2, 5, 10])
@pytest.mark.parametrize("skew", [0.5, 0.2])
def test_folds_are_alike_in_size_and_classes_to_within_a_block(num_folds, skew):
    generator = np.random.default_rng(num_folds)
    blocks = np.repeat(np.arange(40), generator.integers(5, 60, 40))
    labels = (generator.random(len(blocks)) < skew).astype(int)
    fold, largest = assign_folds(blocks, labels, num_folds), np.bincount(blocks).max()
    for chosen in (labels == 0, labels == 1, labels >= 0):
        sizes = np.bincount(fold[chosen], minlength=num_folds)
        assert sizes.max() - sizes.min() <= largest
