"""Makes the four competition files from Stanford's archive, without a Kaggle account.

Kaggle's split is Stanford's (Maas et al. 2011): the id `7546_1` is the file `7546_1.txt` in one of the class folders.
"""

import hashlib
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from lzma import LZMAError
from pathlib import Path

import numpy as np

from popcorn.data.competition import SAMPLE, TEST, TRAIN, UNLABELED, warn_of_count
from popcorn.data.text_files import BZIP2, GZIP, HEAD, TAR, XZ, ZIP, is_litter, kind_of
from popcorn.errors import UserError, log
from popcorn.utils.files import write_error
from popcorn.utils.packages import needs

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
MD5 = "7c2ac02c03563afcf9b574c7e56c153a"
FOLDERS = {("train", "pos"): 1, ("train", "neg"): 0, ("train", "unsup"): None, ("test", "pos"): 1, ("test", "neg"): 0}
Row = tuple[str, int | None, str]
"""id without quotes, label, text"""


def prepare(archive: Path, folder: Path) -> None:
    """Writes the competition's files from `aclImdb_v1.tar.gz` or its unpacked folder."""
    if not archive.exists():
        raise UserError(f"there is no {archive}: give Stanford's aclImdb_v1.tar.gz or its unpacked folder, or add --download")
    rows = _from_folder(archive) if archive.is_dir() else _from_archive(archive)
    lacking = [f"{part}/{kind}" for part, kind in FOLDERS if (part, kind) not in rows]
    if lacking:
        raise UserError(
            f"{archive} lacks the reviews of {', '.join(lacking)}: is it Stanford's aclImdb, complete? Try --download"
        )
    train = rows["train", "pos"] + rows["train", "neg"]
    test = rows["test", "pos"] + rows["test", "neg"]
    write_competition(folder, train, test, rows["train", "unsup"])
    log(f"Wrote {len(train)} training, {len(test)} test and {len(rows['train', 'unsup'])} unlabeled reviews into {folder}")
    for name, found in ((TRAIN, train), (TEST, test), (UNLABELED, rows["train", "unsup"])):
        warn_of_count(name, len(found))


def write_competition(folder: Path, train: list[Row], test: list[Row], unlabeled: list[Row]) -> None:
    """Writes the four files in Kaggle's format, in random order.

    The files appear only once all are written. The training file is the last, because a folder is recognized by it. Raises
    `UserError` where the folder cannot be written.
    """
    shuffled = np.random.default_rng(0).permutation(len(test))
    test = [test[row] for row in shuffled]
    train = [train[row] for row in np.random.default_rng(1).permutation(len(train))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as temporary:
            made = Path(temporary)
            _write(made / TRAIN, "id\tsentiment\treview", (f'"{id}"\t{label}\t{_quote(text)}' for id, label, text in train))
            _write(made / TEST, "id\treview", (f'"{id}"\t{_quote(text)}' for id, _, text in test))
            _write(made / UNLABELED, "id\treview", (f'"{id}"\t{_quote(text)}' for id, _, text in unlabeled))
            _write(made / SAMPLE, "id,sentiment", (f'"{id}",0' for id, _, _ in test))
            for name in (UNLABELED, TEST, SAMPLE, TRAIN):
                (made / name).replace(folder / name)
    except OSError as problem:
        raise write_error(folder, problem, "--output") from problem


def _quote(text: str) -> str:
    flat = text.replace("\x85", " ").replace("\t", " ").replace("\r", " ").replace("\n", " ")
    flat += " " if flat.endswith("\\") else ""  # else it would escape the field's closing quote
    return '"' + flat.replace('"', '\\"') + '"'


def _write(path: Path, header: str, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(header + "\n")
        file.writelines(line + "\n" for line in lines)


def _from_folder(folder: Path) -> dict[tuple[str, str], list[Row]]:
    folder = folder / "aclImdb" if (folder / "aclImdb").is_dir() else folder
    rows = {}
    for (part, kind), label in FOLDERS.items():
        for path in sorted((folder / part / kind).glob("*.txt")):
            if is_litter(path.name):
                continue
            rows.setdefault((part, kind), []).append((path.stem, label, _text(path.read_bytes(), path)))
    return rows


def _from_archive(archive: Path) -> dict[tuple[str, str], list[Row]]:
    """Reads the archive as a stream, without unpacking it to the disk."""
    rows = {}
    _require_tar(archive)
    try:
        with tarfile.open(archive, "r|*") as members:
            for member in members:
                path = Path(member.name)
                place = path.parts[-3:-1]
                if member.isfile() and not is_litter(member.name) and path.suffix == ".txt" and place in FOLDERS:
                    text = _text(members.extractfile(member).read(), path)
                    rows.setdefault(place, []).append((path.stem, FOLDERS[place], text))
    except (tarfile.TarError, EOFError, OSError, zlib.error, LZMAError) as problem:
        raise UserError(f"{archive} is a damaged or truncated archive ({problem}): fetch it again with --download") from problem
    return rows


def _require_tar(archive: Path) -> None:
    """Raises `UserError` where the file's first bytes are not an archive for `tarfile`."""
    try:
        with archive.open("rb") as file:
            head = file.read(HEAD)
    except OSError as problem:
        raise UserError(f"{archive} cannot be read ({problem.strerror}): give Stanford's aclImdb_v1.tar.gz") from problem
    kind = kind_of(head) or ("a text or of unknown format" if head else "empty")
    if kind == ZIP:
        raise UserError(f"{archive} is {ZIP}: unpack it and give the folder")
    if kind not in (TAR, GZIP, BZIP2, XZ):
        raise UserError(f"{archive} is {kind}, not Stanford's archive: fetch it again with --download")


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise UserError(f"{path} is not UTF-8 text ({problem}): fetch the archive again with --download") from problem


def download(archive: Path, url: str = URL, md5: str = MD5) -> None:
    """Downloads Stanford's archive with a progress bar, and resumes an interrupted download.

    The file gets its name only after its checksum is verified. Raises `UserError` where the server cannot be reached.
    """
    with needs("huggingface_hub", "--download"):
        from huggingface_hub.file_download import http_get  # resumes and retries by itself

    if archive.is_file() and _md5(archive) == md5:
        log(f"{archive} exists already and is complete")
        return
    partial = archive.with_name(archive.name + ".part")
    archive.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("ab") as file:
            http_get(url, file, resume_size=file.tell(), displayed_filename=archive.name)
    except Exception as problem:  # the HTTP library differs between versions of huggingface_hub, and so do its errors
        raise UserError(
            f"{url} cannot be fetched ({problem}): the downloaded part is in {partial}, run the same command again to resume"
        ) from problem
    if _md5(partial) != md5:
        partial.unlink()
        raise UserError(f"what {url} sent does not have the checksum {md5} and was removed: run the same command again")
    shutil.move(partial, archive)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
