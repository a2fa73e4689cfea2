"""Submission files for Kaggle: labels (score: accuracy) and probabilities (score: ROC AUC).

Those of recorded runs may be published: `submissions/published/<row>.csv.gz` has the test probabilities of a row of `results/`,
and `<row>.oof.csv.gz` its out-of-fold probabilities.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from popcorn.data.tables import bare, read_table
from popcorn.data.text_files import read_text
from popcorn.errors import UserError, log
from popcorn.utils.files import atomic_write

DECIMALS = 6
TEST, OOF_SUFFIX, UNLABELED_SUFFIX = ".proba.csv", ".oof.csv", ".unlabeled.csv"
"""endings of a run's files of test probabilities, out-of-fold probabilities, and probabilities of the unlabeled reviews"""
PUBLISHED, GZIPPED = "published", ".gz"
"""folder of the published files in submissions/, and what they add to these endings"""


@dataclass(frozen=True)
class RunFiles:
    """Where the probabilities of a run are, one's own or published; a file may not exist."""

    test: Path
    out_of_fold: Path


def own_files(folder: Path, name: str) -> RunFiles:
    """The files of one's own run; `folder` is `submissions/`."""
    return RunFiles(folder / f"{name}{TEST}", folder / f"{name}{OOF_SUFFIX}")


def published_files(folder: Path, name: str) -> RunFiles:
    """The published files of a row; `folder` is `submissions/`."""
    folder = folder / PUBLISHED
    return RunFiles(folder / f"{name}.csv{GZIPPED}", folder / f"{name}{OOF_SUFFIX}{GZIPPED}")


def published_names(folder: Path) -> list[str]:
    """The rows that have a published file; `folder` is `submissions/`."""
    paths = (folder / PUBLISHED).glob(f"*{GZIPPED}")
    return sorted({path.name.removesuffix(GZIPPED).removesuffix(OOF_SUFFIX).removesuffix(".csv") for path in paths})


def find_files(folder: Path, name: str) -> RunFiles:
    """The files of one's own run, or else of the published one; never one of each.

    Prints which, where there is a published one. `folder` is `submissions/`.
    """
    own, published = own_files(folder, name), published_files(folder, name)
    if not published.test.is_file():
        return own
    if any(path.is_file() for path in (own.test, own.out_of_fold, folder / f"{name}.csv")):
        log(f"{name}: your own run in {folder}, not the published one")
        return own
    log(f"{name}: the published run, {published.test}")
    return published


def write_submissions(folder: Path, name: str, sample_ids: list[str], test_ids: list[str], probability: np.ndarray) -> None:
    """Writes `<name>.csv` and `<name>.proba.csv` in the sample's order.

    probability (test,) is in the order of `test_ids`. Raises `UserError`, before it writes anything, where the ids differ from
    the sample's or a probability is not between 0 and 1.
    """
    require_same_ids(sample_ids, test_ids)
    values = pd.Series(probability, index=bare(test_ids)).reindex(bare(sample_ids)).set_axis(sample_ids)
    if not values.between(0, 1).all():
        bad = values.index[~values.between(0, 1)][0]
        raise UserError(f"the model's probability for the test review {bad} is {values[bad]}: no submission was written")
    labels, probabilities = folder / f"{name}.csv", folder / f"{name}{TEST}"
    _write(labels, sample_ids, [str(int(value > 0.5)) for value in values])
    _write(probabilities, sample_ids, [f"{value:.{DECIMALS}f}" for value in values])
    log(f"{labels}: labels; the score that Kaggle shows for it is the accuracy")
    log(f"{probabilities}: probabilities; the score is the ROC AUC, this is the one to win with")


def require_same_ids(sample_ids: list[str], test_ids: list[str]) -> None:
    """Raises `UserError` where the two files have different ids, or one id twice.

    Quotes around ids make no difference.
    """
    sample, test = pd.Series(sample_ids, index=bare(sample_ids)), pd.Series(test_ids, index=bare(test_ids))
    for name, ids, other in (("sample submission", sample, test), ("test file", test, sample)):
        missing = other[~other.index.isin(ids.index)]
        if len(missing):
            raise UserError(
                f"the {name} lacks {len(missing)} ids of the other, for example {', '.join(missing[:3])}: "
                "take testData.tsv and sampleSubmission.csv from the same download"
            )
    if sample.index.has_duplicates:
        raise UserError(
            f"the sample submission has the id {sample[sample.index.duplicated()].iloc[0]} twice: fetch the file again"
        )


def write_out_of_fold(folder: Path, name: str, ids: list[str], probability: np.ndarray, fold: np.ndarray) -> None:
    """Writes `<name>.oof.csv`: each training review's probability by the model that was not trained on it."""
    path = folder / f"{name}{OOF_SUFFIX}"
    with atomic_write(path, "w") as file:
        file.write("id,fold,sentiment\n")
        file.writelines(f"{id},{k},{p:.6f}\n" for id, k, p in zip(ids, fold, probability, strict=True) if k)
    log(f"{path}: out-of-fold probabilities of {int((fold > 0).sum()):,} training reviews")


def write_published(path: Path, table: pd.DataFrame) -> None:
    """Writes a table of probabilities as gzipped CSV, in the order of its ids.

    It has `sentiment` by id without quotes, and `fold` of out-of-fold probabilities. The file has no name and no time inside, so
    the same table gives the same bytes.
    """
    ids = sorted(table.index, key=lambda id: [int(part) for part in id.split("_")])
    columns = [column for column in ("fold", "sentiment") if column in table]
    text = table.loc[ids, columns].to_csv(index_label="id", float_format=f"%.{DECIMALS}f", lineterminator="\n")
    with atomic_write(path) as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        packed.write(text.encode())


def write_probabilities(path: Path, ids: list[str], probability: np.ndarray) -> None:
    """Writes id and probability of each review, (reviews,)."""
    with atomic_write(path, "w", option="--output") as file:
        file.write("id,probability\n")
        file.writelines(f"{id},{p:.{DECIMALS}f}\n" for id, p in zip(bare(ids), probability, strict=True))


def read_probabilities(path: Path, ids: list[str], fix: str, name: str = "sentiment") -> pd.DataFrame:
    """Reads a file of probabilities in the order of `ids`: columns `name`, and `fold` if present.

    Raises `UserError`, which ends in `fix`, where the file cannot be read, has other ids, or has a value that is not a
    probability.
    """
    found = read_table(read_text(path, fix), str(path), ",", fix)
    lacking = [column for column in ("id", name) if found.place(column) is None]
    if lacking:
        raise UserError(f"{path} cannot be read (it lacks the column {lacking[0]!r}): {fix}")
    columns = [column for column in ("fold", name) if found.place(column) is not None]
    table = pd.DataFrame({column: found.texts(column) for column in columns}, index=bare(found.fields("id")), dtype=object)
    wanted = pd.Index(bare(ids))
    missing = wanted.difference(table.index)
    if len(missing) or table.index.has_duplicates or len(table) != len(ids):
        example = missing[0] if len(missing) else table.index[table.index.duplicated() | ~table.index.isin(wanted)][0]
        raise UserError(
            f"{path} has {len(table):,} rows where these data have {len(ids):,}, of which it lacks {len(missing):,} "
            f"(the id {example}): {fix}"
        )
    values = table.apply(pd.to_numeric, errors="coerce")
    for column, highest, what in ((name, 1, "probability"), ("fold", len(ids), "number of a fold")):
        bad = ~values[column].between(0, highest).to_numpy() if column in columns else np.zeros(0, bool)
        if bad.any():
            row = int(bad.argmax())
            raise UserError(f"{path}, row {found.lines[row]}: the {column} is {table[column].iloc[row]}, not a {what}: {fix}")
    return values.loc[wanted].set_axis(ids)


def _write(path: Path, ids: list[str], values: list[str]) -> None:
    with atomic_write(path, "w") as file:
        file.write("id,sentiment\n")
        file.writelines(f"{id},{value}\n" for id, value in zip(ids, values, strict=True))
