"""Finds and reads the competition's files, and checks them.

https://www.kaggle.com/c/word2vec-nlp-tutorial. Users save the files again with pandas or Excel, pack them and rename them. So the
content of a file decides its format and its quoting, not its name.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from popcorn.data import fallback
from popcorn.data.tables import Table, bare, read_table
from popcorn.data.text_files import members_of, read_text
from popcorn.errors import UserError, log
from popcorn.utils import kaggle
from popcorn.utils.files import fingerprint

TRAIN, TEST, UNLABELED, SAMPLE = "labeledTrainData.tsv", "testData.tsv", "unlabeledTrainData.tsv", "sampleSubmission.csv"
COLUMNS = {TRAIN: ["id", "sentiment", "review"], TEST: ["id", "review"], UNLABELED: ["id", "review"]}
EXPECTED = {TRAIN: 25_000, TEST: 25_000, UNLABELED: 50_000}
"""number of reviews in the competition's own files"""
READING = "two dialects of quotes, 1"
"""version of the rules for reading files: part of the cache keys of their texts, so change it with the rules"""
RULE = "=" * 100
FALLBACK = "fallback data"
"""source of data that are not the competition's"""
SLUG = "word2vec-nlp-tutorial"
"""the competition's name on Kaggle, also of the archive of "Download All"; its files are zipped inside"""
ADD_DATA = "download the files from https://www.kaggle.com/c/word2vec-nlp-tutorial/data again"


@dataclass(frozen=True)
class Reviews:
    """The reviews of one file: ids (n,), texts (n,), and labels (n,) or None.

    Ids include their quotes, because a submission repeats them exactly. Comparisons ignore the quotes
    (`popcorn.data.tables.bare`).
    """

    ids: list[str]
    texts: list[str]
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Competition:
    """A folder with the competition's files, plain or zipped."""

    folder: Path
    source: str
    """how the folder was found: "--data-dir", "POPCORN_DATA", "Kaggle input", "data/" or "fallback data" """
    counted: set[str] = field(default_factory=set, compare=False, repr=False)
    """files whose number of reviews was printed"""

    def path(self, name: str) -> Path | None:
        """The file of that name, plain before packed, alone before with all others; None where there is none."""
        # some programs unpack <name>.zip into a folder of that name
        candidates = (self.folder / each for each in (name, f"{name}.zip", f"{name}.gz", f"{name}/{name}"))
        return next((path for path in candidates if path.is_file()), self.archive if name in self.archived else None)

    @property
    def archive(self) -> Path:
        """The archive of all files, as "Download All" gives it."""
        return self.folder / f"{SLUG}.zip"

    @cached_property
    def archived(self) -> set[str]:
        """Names of the files in `archive`."""
        return _names_in(self.archive)

    @property
    def num_files(self) -> int:
        """Number of the competition's files that are here, 0 to 4."""
        return sum(self.path(name) is not None for name in (TRAIN, TEST, UNLABELED, SAMPLE))

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the contents of all existing files, in a fixed order."""
        names = (TRAIN, TEST, UNLABELED, SAMPLE)
        return fingerprint(*(path for name in names if (path := self.path(name)) is not None))

    def read(self, name: str) -> Reviews:
        """Reads one of the `.tsv` files.

        Raises `UserError`, with file and row, for every mistake in it. A file without any rows, with only empty reviews, or with
        labels of one class is a mistake too.
        """
        path = self.path(name)
        if path is None:
            raise UserError(f"{self.folder} lacks {name} (or {name}.zip): {ADD_DATA}")
        _require_own_member(path, name)
        reviews = read_reviews(path, COLUMNS[name], name=name)
        if name != UNLABELED and not any(text.strip() for text in reviews.texts):
            raise UserError(f"{path} has {'no reviews' if not reviews.texts else 'empty reviews alone'}: {ADD_DATA}")
        if reviews.labels is not None and len(set(reviews.labels.tolist())) < 2:
            raise UserError(f"{path}: every sentiment is {reviews.labels[0]}, and training needs both 0 and 1: {ADD_DATA}")
        self.count(name, len(reviews.texts))
        return reviews

    def count(self, name: str, reviews: int) -> None:
        """Prints once how many reviews a file has, and warns of an unexpected number."""
        if name in self.counted:
            return
        self.counted.add(name)
        log(f"Read {reviews:,} reviews of {name}")
        if self.source != FALLBACK:
            warn_of_count(name, reviews)

    def sample_ids(self) -> list[str]:
        """The sample submission's ids in its order; without it, the test file's ids."""
        path = self.path(SAMPLE)
        if path is None:
            return self.read(TEST).ids
        _require_own_member(path, SAMPLE)
        return _columns(path, SAMPLE, ",", ["id", "sentiment"], ADD_DATA).fields("id")


def warn_of_count(name: str, reviews: int) -> None:
    """Warns where the number of reviews differs from that in the competition's own file."""
    if reviews != EXPECTED[name]:
        log(
            f"{RULE}\nWARNING: {name} has {reviews:,} reviews, and the competition's file has {EXPECTED[name]:,}.\n"
            f"It is cut short, or another file: its results are not comparable. To fix it {ADD_DATA}\n{RULE}"
        )


def find_competition(data_dir: Path | None) -> Competition:
    """Finds the folder of the competition's files.

    The first of these with a training file: `data_dir`, $POPCORN_DATA, Kaggle's input folder, ./data, the fallback data. A folder
    of Kaggle's or ./data with all files goes before one that lacks some. Raises `UserError` where `data_dir` or the variable is
    set and has no training file.
    """
    for folder, source in ((data_dir, "--data-dir"), (os.environ.get("POPCORN_DATA"), "POPCORN_DATA")):
        if folder:
            return _required_folder(Path(os.path.expanduser(folder)), source)
    places = [(folder, "Kaggle input") for folder in _kaggle_folders()]
    places += [(folder, "data/") for folder in (Path("data"), *sorted(Path("data").glob("*/")))]
    found = [Competition(*place) for place in places]
    found = [competition for competition in found if competition.path(TRAIN)]
    if found:
        best = max(found, key=lambda competition: competition.num_files)  # the first of several
        log(f"Data: {best.folder} ({best.source})")
        return best
    folder = fallback.folder()
    log(
        f"{RULE}\nNO COMPETITION FILES FOUND: running on the fallback data ({fallback.DESCRIPTION}).\n"
        f"Its results are NOT comparable with Kaggle's score. Put the competition's files into data/ or pass --data-dir.\n{RULE}"
    )
    return Competition(folder, FALLBACK)


def _kaggle_folders() -> Iterator[Path]:
    """Where Kaggle has the competition, and then all attached data, at most two folders below their own."""
    yield from (kaggle.INPUT / "competitions" / SLUG, kaggle.INPUT / SLUG)
    for depth in range(1, 5):  # a data set is in datasets/<owner>/<slug>, and was in <slug>
        folders = "/".join(["*"] * depth)
        yield from sorted({path.parent for name in (TRAIN, f"{SLUG}.zip") for path in kaggle.INPUT.glob(f"{folders}/{name}*")})


def _required_folder(folder: Path, source: str) -> Competition:
    if not folder.is_dir():
        raise UserError(f"{source}: there is no folder {folder}; give the folder that holds {TRAIN}.zip")
    competition = Competition(folder, source)
    if competition.path(TRAIN) is None:
        raise UserError(f"{source}: {folder} lacks {TRAIN} (or {TRAIN}.zip): {ADD_DATA}")
    log(f"Data: {folder} ({source})")
    return competition


def read_reviews(path: Path, columns: list[str], fix: str = ADD_DATA, name: str | None = None) -> Reviews:
    """Reads a `.tsv` with the given columns, packed or not, and removes its quotes.

    `name`: the file to read from an archive of several; default: the archive's name.

    An empty or missing review becomes an empty text. Raises `UserError`, which ends in `fix`, for a file that is not text, a
    damaged archive, a wrong separator and a missing column. Errors in rows are too many fields, a truncated row, a label other
    than 0 or 1, and an empty or repeated id.
    """
    table = _columns(path, name or path.name.removesuffix(".zip").removesuffix(".gz"), "\t", columns, fix)
    require_ids(table, fix)
    texts = table.texts("review")
    if texts and not texts[-1] and not table.is_ended:
        raise UserError(f"{path}, row {table.lines[-1]}: the file ends before this row's review, so it is cut short: {fix}")
    labels = None
    if "sentiment" in columns:
        values = table.texts("sentiment")
        wrong = next((row for row, value in enumerate(values) if value not in ("0", "1")), None)
        if wrong is not None:
            raise UserError(
                f"{path}, row {table.lines[wrong]}: the sentiment is {values[wrong]!r} where 0 or 1 is expected; "
                f"correct that row or {fix}"
            )
        labels = np.array([value == "1" for value in values], dtype=np.int64)
    if lost := table.first_lost_quote("review"):
        raise UserError(
            f"{path}, row {lost}: quotes of this review were lost when the file was saved again: "
            "read the original without quoting (in pandas quoting=3), or use it as it is"
        )
    if texts and not table.is_ended and not (table.is_escaped and table.fields("review")[-1].endswith('"')):
        log(f"{path}: no line break ends the last row: make sure that it is not cut short")
    if table.short:
        log(f"{path}: {len(table.short):,} rows have no review, the first is row {table.short[0]}: they count as empty")
    return Reviews(table.fields("id"), texts, labels)


def require_ids(table: Table, fix: str) -> None:
    """Raises `UserError` for a row without an id, or with a repeated id.

    Quotes make no difference.
    """
    ids = bare(table.fields("id"))
    seen: set[str] = set()
    for line, id in zip(table.lines, ids, strict=True):
        if not id or "\n" in id or '"' in id:
            raise UserError(f"{table.name}, row {line}: the id is {id!r}: {fix}")
        if id in seen:
            raise UserError(f"{table.name}, row {line}: the id {id} was there before; remove one of the two rows")
        seen.add(id)


def _columns(path: Path, name: str, separator: str, columns: list[str], fix: str) -> Table:
    """The file, which is called `name` in an archive of several, as a table with the given columns."""
    table = read_table(read_text(path, fix, name), str(path), separator, fix)
    missing = [column for column in columns if table.place(column) is None]
    if missing and len(table.columns) == 1:
        raise UserError(f"{path}, row 1: the columns must be separated by {separator!r}, and none was found: {fix}")
    if missing:
        raise UserError(f"{path}, row 1: the column {missing[0]!r} is missing, there are {table.columns}: {fix}")
    return table


def _require_own_member(path: Path, name: str) -> None:
    """Raises `UserError` where an archive holds another of the competition's files.

    Test and unlabeled reviews have the same columns, so only the member's name tells them apart.
    """
    members = _names_in(path)
    if name not in members and (other := members & {*COLUMNS, SAMPLE}):
        raise UserError(f"{path} holds {', '.join(sorted(other))} and no {name}: {ADD_DATA}")


def _names_in(path: Path) -> set[str]:
    """Names of the files in a zip archive, without a second `.zip`; empty for any other file."""
    return {name.removesuffix(".zip") for name in members_of(path)}
