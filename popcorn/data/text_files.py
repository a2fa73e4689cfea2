"""Opens a file by its first bytes, not by its name.

Text is read, archives are unpacked, and every other format is named and refused.
"""

import gzip
import re
import zipfile
import zlib
from bz2 import BZ2File
from contextlib import contextmanager
from lzma import LZMAError, LZMAFile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from popcorn.errors import UserError

HEAD = 8_192  # number of bytes that identify a format
NESTED = 3  # maximum depth of archives inside archives
GZIP, BZIP2, XZ, ZIP, TAR = "a gzip file", "a bzip2 file", "an xz file", "a zip archive", "a tar archive"
PACKED = {b"\x1f\x8b": GZIP, b"BZh91AY&SY": BZIP2, b"\xfd7zXZ\0": XZ, b"PK\x03\x04": ZIP, b"PK\x05\x06": ZIP, b"PK\x07\x08": ZIP}
"""first bytes of archives"""
FOREIGN = {
    b"%PDF": "a PDF", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Office file (.xls or .doc)", b"{\\rtf": "an RTF document",
    b"PAR1": "a Parquet file", b"ARROW1": "an Arrow file", b"FEA1": "a Feather file", b"ID3\x03": "a recording",
    b"Obj\x01": "an Avro file", b"\x89HDF\r\n\x1a\n": "an HDF5 file", b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3\0": "an SQLite database", b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!\x1a\x07": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard file", b"\x1f\x9d": "a file of Unix compress (.Z)", b"\x04\x22\x4d\x18": "an LZ4 file",
    b"\x89PNG": "an image", b"\xff\xd8\xff": "an image", b"GIF87a": "an image", b"GIF89a": "an image",
    b"II*\0": "an image", b"MM\0*": "an image", b"OggS\0": "a recording",
    b"\x7fELF": "a program", b"GGUF": "a GGUF model", b"version https://git-lfs.github.com": "a Git LFS pointer",
    b"/annex/objects/": "a git-annex pointer",
}  # fmt: skip
"""first bytes of refused formats"""
PATTERNS = {
    rb"(?i)\s*(<!--.*?-->\s*)*(<!doctype html|<html|<head\b)": "an HTML page", rb"\s*<\?xml": "an XML file",
    rb"\x80[\x02-\x05]|\([ld]p\d+\n": "a pickle",
    rb"c(copy_reg|copyreg|builtins|__builtin__|numpy|pandas|gensim|sklearn|torch)[\w.]*\n\w+\n": "a pickle",
    rb"(?s)RIFF.{4}(WEBP|WAVE|AVI )": "an image or a recording", rb"(?s)BM.{4}\0\0\0\0": "an image", rb"(?s)MZ.*\0": "a program",
    rb"(?s)ORC.*\0": "an ORC file", rb"(?s).{4}\0{4}\{\"": "a safetensors file", rb"(?s).{257}ustar": TAR,
}  # fmt: skip
"""patterns of formats that the first bytes alone do not identify"""
ZIPPED = (
    ("xl/", "an Excel workbook (.xlsx)"), ("word/", "a Word document (.docx)"), ("ppt/", "a PowerPoint file (.pptx)"),
    ("META-INF/", "a Java archive or an OpenDocument file"), ("AndroidManifest.xml", "an Android package"),
)  # fmt: skip
"""members of formats that are zip archives inside"""
ENCODINGS = {
    b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
}  # fmt: skip
"""byte-order marks"""
BYTE_ORDER_MARK = "\ufeff"
LOST_MARK = {rb"([\t\n\r -~]\0){2}": "utf-16-le", rb"(\0[\t\n\r -~]){2}": "utf-16-be"}
"""first characters of text in UTF-16 without a byte-order mark"""
DAMAGED = zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, LZMAError, EOFError
"""exceptions from reading a truncated or damaged archive"""


def kind_of(head: bytes) -> str | None:
    """The format of a file by its first bytes; None if it may be text."""
    for kinds in (PACKED, FOREIGN):
        for start, kind in kinds.items():
            if head.startswith(start):
                return kind
    plain = head.removeprefix(b"\xef\xbb\xbf")
    if re.match(rb"\d+ \d+\r?\n", plain) and (b"\0" in plain or not _is_utf8(plain)):
        return "in word2vec's binary format"
    return next((kind for pattern, kind in PATTERNS.items() if re.match(pattern, plain)), None)


def _is_utf8(head: bytes) -> bool:
    """Whether the bytes are UTF-8, except for a character cut at the end."""
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as problem:
        return problem.start > 0 and problem.start >= len(head) - 3
    return True


@contextmanager
def opened(path: Path, fix: str, wanted: str | None = None):
    """The content of a file as a stream of bytes, out of its archive.

    Of several members, the one called `wanted`. Raises `UserError`, which ends in `fix`, where the file is missing, damaged,
    encrypted or not text.
    """
    opening: list[BinaryIO] = []
    kind = None
    try:
        opening.append(path.open("rb"))
        for _ in range(NESTED):
            kind = kind_of(opening[-1].read(HEAD))
            opening[-1].seek(0)
            if kind not in PACKED.values():
                break
            opening.append(_unpacked(opening[-1], kind, path, fix, wanted))
        if kind is not None:
            raise UserError(f"{path} is {kind}, not text: {fix}")
        yield opening[-1]
    except FileNotFoundError as problem:
        raise UserError(f"there is no file {path}: {fix}") from problem
    except IsADirectoryError as problem:
        raise UserError(f"{path} is a folder, not a file: {fix}") from problem
    except DAMAGED as problem:
        raise _damaged(path, problem, fix) from problem
    except OSError as problem:
        if problem.errno is None:  # bz2 raises this for a damaged file
            raise _damaged(path, problem, fix) from problem
        raise UserError(f"{path} cannot be read ({problem.strerror}): {fix}") from problem
    finally:
        for file in reversed(opening):
            file.close()


def _damaged(path: Path, problem: Exception, fix: str) -> UserError:
    with path.open("rb") as file:
        kind = kind_of(file.read(HEAD)) or "archive"
    return UserError(f"{path} is a damaged or truncated {kind.split(' ', 1)[-1]} ({problem}): {fix}")


def _unpacked(file: BinaryIO, kind: str, path: Path, fix: str, wanted: str | None) -> BinaryIO:
    if kind == ZIP:
        return _member(file, path, fix, wanted)
    if kind == GZIP:
        return gzip.GzipFile(fileobj=file, mode="rb")
    return BZ2File(file) if kind == BZIP2 else LZMAFile(file)


def _member(file: BinaryIO, path: Path, fix: str, wanted: str | None) -> BinaryIO:
    """The only real member of a zip archive; system files are skipped."""
    archive = zipfile.ZipFile(file)
    every = archive.namelist()
    for start, kind in ZIPPED:
        if any(name.startswith(start) for name in every):
            raise UserError(f"{path} is {kind}, not text: {fix}")
    if any(name.endswith("data.pkl") for name in every):
        raise UserError(f"{path} is a PyTorch checkpoint, not text: {fix}")
    if every and all(name.endswith(".npy") for name in every):
        raise UserError(f"{path} is a NumPy archive (.npz), not text: {fix}")
    members = [name for name in every if not is_litter(name)]
    named = [name for name in members if wanted and PurePosixPath(name).name.lower() in (wanted.lower(), f"{wanted}.zip".lower())]
    chosen = named if len(named) == 1 else members
    if len(chosen) != 1:
        if not members:
            raise UserError(f"{path} holds no file: {fix}")
        raise UserError(f"{path} holds {len(members)} files {members[:5]}: unpack it and pass the one that you want")
    try:
        return archive.open(chosen[0])
    except (RuntimeError, NotImplementedError) as problem:
        if archive.getinfo(chosen[0]).flag_bits & 1:
            raise UserError(f"{path} is encrypted: unpack it with its password, and pass what was in it") from problem
        raise UserError(f"{path} is packed in a way that cannot be unpacked here ({problem}): unpack it yourself") from problem


def is_litter(name: str) -> bool:
    """Whether a member of an archive is a folder or a system file."""
    parts = PurePosixPath(name).parts
    return (
        name.endswith("/") or not parts or "__MACOSX" in parts or parts[-1].startswith(".")
        or parts[-1].lower() in ("thumbs.db", "desktop.ini")
    )  # fmt: skip


def members_of(path: Path) -> list[str]:
    """File names in a zip archive, without folders and system files.

    Empty for any other file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [PurePosixPath(name).name for name in archive.namelist() if not is_litter(name)]
    except (OSError, zipfile.BadZipFile):
        return []


def read_text(path: Path, fix: str, wanted: str | None = None) -> str:
    """The text of a file, with `\\n` as line break and without a byte-order mark.

    Raises `UserError` as `opened` does, and where the bytes are not text.
    """
    with opened(path, fix, wanted) as file:
        content = file.read()
    return decoded(content, str(path), fix)


def decoded(content: bytes, name: str, fix: str) -> str:
    """Decodes UTF-8, or UTF-16 and UTF-32 with a mark.

    Raises `UserError` for bytes that are not text.
    """
    if kind := kind_of(content[:HEAD]):
        raise UserError(f"{name} is {kind}, not text: {fix}")
    encoding = next((encoding for mark, encoding in ENCODINGS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8":
        encoding = next((other for start, other in LOST_MARK.items() if re.match(start, content)), encoding)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as problem:
        if problem.end == len(content) and problem.reason in ("unexpected end of data", "truncated data"):
            raise UserError(f"{name} ends in the middle of a character, so it is cut short: {fix}") from problem
        row = content[: problem.start].count(b"\n") + 1
        raise UserError(f"{name}, row {row}: this is not text in UTF-8: save it as text in UTF-8") from problem
    if "\0" in text:
        raise UserError(f"{name} is binary (it holds a zero byte): {fix}")
    if BYTE_ORDER_MARK in text:  # also in the middle of concatenated files
        text = text.replace(BYTE_ORDER_MARK, "")
    if "\r" in text:  # a single one is a line break only where there is no other
        text = text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")
    return text
