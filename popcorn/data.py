"""The competition's files: where they are, what they hold, and what is wrong with them.

https://www.kaggle.com/c/word2vec-nlp-tutorial. The fields are quoted and inner quotes are written `\\"`, which is no CSV
dialect: they are read without quoting, and the quotes are undone after.
"""

import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from popcorn import default
from popcorn.errors import UserError, say
from popcorn.files import fingerprint

TRAIN, TEST, UNLABELLED, SAMPLE = "labeledTrainData.tsv", "testData.tsv", "unlabeledTrainData.tsv", "sampleSubmission.csv"
COLUMNS = {TRAIN: ["id", "sentiment", "review"], TEST: ["id", "review"], UNLABELLED: ["id", "review"]}
EMBEDDED = "embedded default"
"""source of data that are not the competition's"""
KAGGLE_INPUT = Path("/kaggle/input")
ADD_DATA = "download the files from https://www.kaggle.com/c/word2vec-nlp-tutorial/data again"


@dataclass(frozen=True)
class Reviews:
    """One file: ids (n,) as written there, quotes included; texts (n,); labels (n,) of 0 and 1, or None."""

    ids: list[str]
    texts: list[str]
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Competition:
    """A folder that holds the competition's files, plain or zipped."""

    folder: Path
    source: str
    """how the folder was found: "--data-dir", "POPCORN_DATA", "Kaggle input", "data/" or "embedded default" """

    def path(self, name: str) -> Path | None:
        """The file of that name, plain before zipped; None where there is neither."""
        candidates = (self.folder / name, self.folder / f"{name}.zip")
        return next((path for path in candidates if path.is_file()), None)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over the contents of the files that are there, in a fixed order."""
        names = (TRAIN, TEST, UNLABELLED, SAMPLE)
        return fingerprint(*(path for name in names if (path := self.path(name)) is not None))

    def read(self, name: str) -> Reviews:
        """Reads one of the `.tsv` files. Raises `UserError`, naming file and row, where it is not what it should be."""
        path = self.path(name)
        if path is None:
            raise UserError(f"{self.folder} lacks {name} (or {name}.zip): {ADD_DATA}")
        return read_reviews(path, COLUMNS[name])

    def sample_ids(self) -> list[str]:
        """The ids of the sample submission, in its order; those of the test file where there is no sample."""
        path = self.path(SAMPLE)
        if path is None:
            return self.read(TEST).ids
        return _table(path, ",", ["id", "sentiment"])["id"].tolist()


def find(data_dir: Path | None) -> Competition:
    """The first folder with the training file: `data_dir`, $POPCORN_DATA, Kaggle's input, ./data, the embedded default.

    A folder that was asked for by name is used or refused (`UserError`), never passed over.
    """
    for folder, source in ((data_dir, "--data-dir"), (os.environ.get("POPCORN_DATA"), "POPCORN_DATA")):
        if folder:
            return _asked_for(Path(folder), source)
    # Kaggle mounts a competition at input/<name> or input/competitions/<name>
    mounted = [path.parent for depth in ("*", "*/*") for path in sorted(KAGGLE_INPUT.glob(f"{depth}/{TRAIN}*"))]
    for folder, source in (*((folder, "Kaggle input") for folder in mounted), (Path("data"), "data/")):
        competition = Competition(folder, source)
        if competition.path(TRAIN):
            say(f"Data: {folder} ({source})")
            return competition
    rule = "=" * 100
    folder = default.folder()
    say(
        f"{rule}\nNO COMPETITION FILES FOUND: running on the embedded default ({default.DESCRIPTION}).\n"
        f"Its figures are NOT comparable with Kaggle's score. Put the competition's files into data/ or pass --data-dir.\n{rule}"
    )
    return Competition(folder, EMBEDDED)


def _asked_for(folder: Path, source: str) -> Competition:
    if not folder.is_dir():
        raise UserError(f"{source}: there is no folder {folder}; give the folder that holds {TRAIN}.zip")
    competition = Competition(folder, source)
    if competition.path(TRAIN) is None:
        raise UserError(f"{source}: {folder} lacks {TRAIN} (or {TRAIN}.zip): {ADD_DATA}")
    say(f"Data: {folder} ({source})")
    return competition


def read_reviews(path: Path, columns: list[str]) -> Reviews:
    """Reads a `.tsv` or `.tsv.zip` with the given columns and undoes its quoting.

    An empty or missing review is kept as an empty text. Raises `UserError` for a damaged archive, a wrong separator, a
    missing column, a row with too many fields, a label other than 0 or 1, and a doubled id.
    """
    table = _table(path, "\t", columns)
    labels = None
    if "sentiment" in columns:
        wrong = ~table["sentiment"].isin(["0", "1"]).to_numpy()
        if wrong.any():
            row = int(wrong.argmax())
            raise UserError(
                f"{path}, row {row + 2}: the sentiment is {table['sentiment'].iloc[row]!r} where 0 or 1 is expected; "
                f"mend that row or {ADD_DATA}"
            )
        labels = table["sentiment"].to_numpy(dtype=np.int64)
    doubled = table["id"].duplicated().to_numpy()
    if doubled.any():
        row = int(doubled.argmax())
        raise UserError(f"{path}, row {row + 2}: the id {table['id'].iloc[row]} was there before; remove one of the two rows")
    texts = table["review"].str.removeprefix('"').str.removesuffix('"').str.replace('\\"', '"', regex=False)
    return Reviews(table["id"].tolist(), texts.tolist(), labels)


def _table(path: Path, separator: str, columns: list[str]) -> pd.DataFrame:
    """The file as strings, with the rows' faults told in a sentence."""
    try:
        # compression by hand: a truncated zip must name the file, and Kaggle's zips hold one member
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
                table = _parse(file, separator)
        else:
            table = _parse(path, separator)
    except (zipfile.BadZipFile, zlib.error, EOFError, IndexError) as problem:
        raise UserError(f"{path} is a damaged or truncated zip archive ({problem}): {ADD_DATA}") from problem
    except UnicodeDecodeError as problem:
        raise UserError(f"{path} is not UTF-8 text ({problem}): {ADD_DATA}") from problem
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as problem:
        raise UserError(f"{path} cannot be read as a table ({str(problem).strip()}): {ADD_DATA}") from problem
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much in the first row for names of the rows
        raise UserError(f"{path}, row 2: there are more fields than columns: {ADD_DATA}")
    missing = [column for column in columns if column not in table.columns]
    if missing and len(table.columns) == 1:
        raise UserError(f"{path}, row 1: the columns must be separated by {separator!r}, and none was found: {ADD_DATA}")
    if missing:
        raise UserError(f"{path}, row 1: the column {missing[0]!r} is missing, there are {list(table.columns)}: {ADD_DATA}")
    return table


def _parse(file, separator: str) -> pd.DataFrame:
    table = pd.read_csv(file, sep=separator, quoting=3, dtype=str, keep_default_na=False, encoding="utf-8")
    table.columns = table.columns.str.strip('"')
    # a line that ends early leaves its last fields missing even so
    return table.fillna("")
