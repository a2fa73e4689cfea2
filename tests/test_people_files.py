"""Files as people have them: saved again, packed, renamed, cut short, or another thing altogether."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dv_cosine
import nbsvm
import paragraph_vectors
import tfidf
from popcorn import __main__ as commands
from popcorn import config
from popcorn.data import competition as competition_data
from popcorn.data import stanford, word_vectors
from popcorn.data.competition import TEST, TRAIN, UNLABELED, Competition
from popcorn.data.glove import read_blocks
from popcorn.data.submission import read_probabilities, require_same_ids, write_submissions
from popcorn.data.word_tokenizer import read_corpus, read_tokens
from popcorn.errors import UserError
from popcorn.inference import predict
from popcorn.reporting.score import score_file
from popcorn.runs.run import run
from popcorn.training.sklearn_pipeline import SklearnTrainer, TextTask
from popcorn.utils import cache, files

CLEAN = pd.DataFrame(
    {
        "id": ["1_9", "2_2", "3_10", "4_1"],
        "sentiment": [1, 0, 1, 0],
        "review": ['He said "no" twice', '"Fine" it was "indeed"', "back \\ slash, comma; naïve", "plain<br />text"],
    }
)
IDS, TEXTS = CLEAN["id"].tolist(), CLEAN["review"].tolist()
KAGGLE = "id\tsentiment\treview\n" + "".join(
    '"{}"\t{}\t"{}"\n'.format(id, label, text.replace('"', '\\"')) for id, label, text in CLEAN.itertuples(index=False)
)


def raw() -> pd.DataFrame:
    return pd.read_csv(io.StringIO(KAGGLE), sep="\t", quoting=3, dtype=str)


def saved(frame: pd.DataFrame, **options) -> bytes:
    target = io.BytesIO()
    frame.to_csv(target, **{"sep": "\t", "index": False} | options)
    return target.getvalue()


def tsv(folder: Path, content: bytes | str, name: str = TRAIN) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, content: bytes | str, name: str = TRAIN) -> competition_data.Reviews:
    return competition_data.read_reviews(tsv(folder, content, name), competition_data.COLUMNS[TRAIN])


def bare(ids: list[str]) -> list[str]:
    return [id.strip('"') for id in ids]


def zip_of(members: dict[str, bytes | str], **options) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def encrypted(archive: bytes) -> bytes:
    """The flag alone, in both headers: it is looked at before anything is decrypted."""
    content = bytearray(archive)
    content[6] |= 1
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def method(archive: bytes, number: int) -> bytes:
    content = bytearray(archive)
    content[8] = content[content.rindex(b"PK\x01\x02") + 10] = number
    return bytes(content)


def wrong_crc(archive: bytes) -> bytes:
    content = bytearray(archive)
    content[14] ^= 1
    content[content.rindex(b"PK\x01\x02") + 16] ^= 1
    return bytes(content)


DIALECTS = {
    "Kaggle's own": lambda: KAGGLE,
    "pandas, from the raw reading": lambda: saved(raw()),
    "pandas, from the raw reading, with its index": lambda: saved(raw(), index=True),
    "pandas, from a clean reading": lambda: saved(CLEAN),
    "pandas, with its index": lambda: saved(CLEAN, index=True),
    "quotes everywhere": lambda: saved(CLEAN, quoting=1),
    "backslashes for quotes": lambda: saved(CLEAN, quoting=3, escapechar="\\"),
    "CRLF": lambda: KAGGLE.replace("\n", "\r\n"),
    "CRLF of a clean reading": lambda: saved(CLEAN, lineterminator="\r\n"),
    "lone CR": lambda: KAGGLE.replace("\n", "\r"),
    "byte-order mark": lambda: KAGGLE.encode("utf-8-sig"),
    "two byte-order marks": lambda: "\ufeff\ufeff" + KAGGLE,
    "UTF-16": lambda: saved(CLEAN, encoding="utf-16"),
    "UTF-16 without its mark": lambda: KAGGLE.encode("utf-16-le"),
    "other order": lambda: saved(CLEAN[["review", "id", "sentiment"]]),
    "other case": lambda: saved(CLEAN.rename(columns=str.upper)),
    "gzip": lambda: gzip.compress(KAGGLE.encode()),
    "bzip2": lambda: bz2.compress(KAGGLE.encode()),
    "xz": lambda: lzma.compress(KAGGLE.encode()),
    "zip": lambda: zip_of({TRAIN: KAGGLE}),
    "zip in a zip": lambda: zip_of({f"{TRAIN}.zip": zip_of({TRAIN: KAGGLE})}),
    "zip from a Mac": lambda: zip_of({"__MACOSX/._x": b"\0\5", ".DS_Store": b"\0", "data/": "", f"data/{TRAIN}": KAGGLE}),
    "zip of more": lambda: zip_of({"readme.txt": "x", TRAIN: KAGGLE}),
}


@pytest.mark.parametrize("name", [TRAIN, f"{TRAIN}.zip", f"{TRAIN}.gz"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_was_saved_again_reads_the_same(tmp_path, dialect, name):
    found = read(tmp_path, DIALECTS[dialect](), name)
    assert (bare(found.ids), found.texts, found.labels.tolist()) == (IDS, TEXTS, [1, 0, 1, 0])


def test_line_breaks_in_quotes_make_no_row(tmp_path):
    for inner in ("one\ntwo", "one\r\ntwo", "one\n\ntwo", "one\rtwo"):
        frame = CLEAN.assign(review=[inner, "x", "y", 'z "q"'])
        assert read(tmp_path, saved(frame, quoting=1)).texts == [inner.replace("\r\n", "\n"), "x", "y", 'z "q"']


def test_a_lone_return_within_a_review_makes_no_row(tmp_path):
    assert read(tmp_path, KAGGLE.replace("plain", "pl\rain")).texts[3] == "pl\rain<br />text"
    frame = CLEAN.assign(review=["a\rb", 'say "so"', "y", "z"])
    assert read(tmp_path, saved(frame).replace(b'"a\rb"', b"a\rb")).texts == ["a\rb", 'say "so"', "y", "z"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: saved(pd.read_csv(io.StringIO(KAGGLE), sep="\t")), "row 2: quotes of this review were lost"),
        (lambda: saved(pd.read_csv(io.StringIO(KAGGLE), sep="\t"), quoting=3), "quotes of this review were lost"),
        (lambda: KAGGLE.replace("said", "said\nso"), "row 2: the quotes of a field are not closed"),
        (lambda: saved(CLEAN.assign(id=["1_9", "1_9", "3_1", "4_1"])), "row 3: the id 1_9 was there before"),
        (lambda: KAGGLE.replace('"2_2"', "1_9"), "row 3: the id 1_9 was there before"),
        (lambda: KAGGLE.replace('"2_2"', ""), "row 3: the id is ''"),
        (lambda: KAGGLE.replace("id\t", "review\t"), "'review' is there 2 times"),
        (lambda: saved(CLEAN, sep=";"), "separated by '\\t'"),
        (lambda: KAGGLE.encode("latin-1"), "row 4: this is not text in UTF-8"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path, content, said):
    with pytest.raises(UserError) as refusal:
        read(tmp_path, content())
    assert said in str(refusal.value) and str(tmp_path / TRAIN) in str(refusal.value)


@pytest.mark.parametrize("text", [KAGGLE, KAGGLE.replace("text", "naïve text \\")[:-2] + '."\n'])
def test_wherever_the_last_row_is_cut_it_is_refused(tmp_path, text):
    content = text.encode()
    start = content.rindex(b"\n", 0, -1) + 1
    for end in range(start + 1, len(content) - 1):
        with pytest.raises(UserError):
            read(tmp_path, content[:end])
    assert len(read(tmp_path, content[:-1]).ids) == 4  # only the last line break is missing


def test_wherever_a_row_in_the_middle_is_cut_it_is_refused(tmp_path):
    start = KAGGLE.index('"2_2"')
    for end in range(start + 1, KAGGLE.index('"3_10"') - 1):
        for rest in ("", "\n"):
            if rest and KAGGLE[start:end] in ('"2_2"\t0', '"2_2"\t0\t'):
                continue  # a row without a review, which is logged and counts as empty
            with pytest.raises(UserError):
                read(tmp_path, KAGGLE[:end] + rest + KAGGLE[KAGGLE.index('"3_10"') :])


def test_a_standard_file_that_ends_within_quotes_is_refused(tmp_path):
    for content in (saved(CLEAN)[:60], saved(CLEAN, quoting=1)[:-4], saved(raw())[:-4]):
        with pytest.raises(UserError, match="quotes of a field are not closed"):
            read(tmp_path, content)


def competition_of(folder: Path, source: str = "test", **texts: str) -> Competition:
    for name, text in ({TRAIN: KAGGLE, TEST: KAGGLE_TEST, UNLABELED: KAGGLE_TEST} | texts).items():
        tsv(folder, text, name)
    return Competition(folder, source)


KAGGLE_TEST = 'id\treview\n"5_9"\t"good"\n"6_2"\t"bad"\n'


def test_reviews_are_counted_on_every_path(tmp_path, capsys, monkeypatch):
    competition_of(tmp_path)
    for way in (lambda found, name: found.read(name), read_tokens, read_tokens):  # the second time from the cache
        for name, count, own in ((TRAIN, 4, "25,000"), (TEST, 2, "25,000"), (UNLABELED, 2, "50,000")):
            found = Competition(tmp_path, "test")
            way(found, name)
            way(found, name)
            said = capsys.readouterr().out
            assert said.count(f"Read {count} reviews of {name}") == 1
            assert said.count(f"WARNING: {name} has {count} reviews, and the competition's file has {own}") == 1
    monkeypatch.setattr(competition_data, "EXPECTED", {TRAIN: 4, TEST: 2, UNLABELED: 2})
    for name in (TRAIN, TEST, UNLABELED):
        Competition(tmp_path, "test").read(name)
    said = capsys.readouterr().out
    assert "Read 4 reviews" in said and "WARNING" not in said


def test_the_fallback_is_not_warned_of(tmp_path, capsys):
    found = competition_of(tmp_path, competition_data.FALLBACK)
    for name in (TRAIN, TEST, UNLABELED):
        found.read(name)
    said = capsys.readouterr().out
    assert "Read 4 reviews" in said and "WARNING" not in said


def test_a_short_row_is_told(tmp_path, capsys):
    assert read(tmp_path, KAGGLE + '"5_5"\t1\n').texts[-1] == ""
    assert "1 rows have no review, the first is row 6" in capsys.readouterr().out


FOREIGN = {
    "a PDF": b"%PDF-1.7\n",
    "an Excel workbook": zip_of({"[Content_Types].xml": "", "xl/workbook.xml": ""}),
    "a Word document": zip_of({"[Content_Types].xml": "", "word/document.xml": ""}),
    "a NumPy archive": zip_of({"vectors.npy": b"\x93NUMPY"}),
    "a PyTorch checkpoint": zip_of({"model/data.pkl": b"\x80\2"}),
    "an old Office file": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "a pickle": pickle.dumps({"a": 1}),
    "a Parquet file": b"PAR1\x15\x04",
    "an HTML page": b"\n<!DOCTYPE html>\n<html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "an image": b"\x89PNG\r\n\x1a\n",
    "a NumPy array": b"\x93NUMPY\1\0",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "in word2vec's binary format": b"2 3\nthe " + np.array([0.1, 0.2, 0.3], np.float32).tobytes(),
    "a 7z archive": b"7z\xbc\xaf\x27\x1c",
    "an XML file": b'<?xml version="1.0"?>',
    "a safetensors file": b'\x10\0\0\0\0\0\0\0{"a": {}}',
}


@pytest.fixture(scope="module")
def archive_and_database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "x.txt").write_text("x")
    with tarfile.open(folder / "x.tar.gz", "w:gz") as file:
        file.add(folder / "x.txt", "x.txt")
    with sqlite3.connect(folder / "x.db") as base:
        base.execute("create table x (y)")
    return {"a tar archive": (folder / "x.tar.gz").read_bytes(), "an SQLite database": (folder / "x.db").read_bytes()}


READERS = {
    "competition": lambda path: competition_data.read_reviews(path, competition_data.COLUMNS[TRAIN]),
    "predict": predict.read_texts,
    "vectors": lambda path: word_vectors.read_vectors(path, {"a"}),
    "score": lambda path: score_file(path, ["1_9", "2_2"]),
    "members": lambda path: read_probabilities(path, ["1_9", "2_2"], "run it again"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [*FOREIGN, "a tar archive", "an SQLite database"])
def test_what_is_no_text_is_refused_by_what_it_is(tmp_path, kind, reader, archive_and_database):
    content = (FOREIGN | archive_and_database)[kind]
    for name, packed in (("file.txt", content), ("file.csv", content), ("file.tsv.gz", gzip.compress(content))):
        path = tsv(tmp_path, packed, name)
        with pytest.raises(UserError) as refusal:
            READERS[reader](path)
        assert f"{path} is {kind}" in str(refusal.value)
        assert "kaggle.com" not in str(refusal.value) or reader == "competition"


BROKEN = {
    "encrypted": (encrypted(zip_of({"a.txt": "text"})), "is encrypted"),
    "unknown method": (method(zip_of({"a.txt": "text"}), 97), "cannot be unpacked here"),
    "checksum of a zip": (wrong_crc(zip_of({"a.txt": "text"})), "damaged or truncated zip"),
    "cut zip": (zip_of({"a.txt": "text" * 99}, compression=zipfile.ZIP_DEFLATED)[:60], "damaged or truncated zip"),
    "cut gzip": (gzip.compress(b"text" * 99)[:-6], "damaged or truncated gzip"),
    "checksum of a gzip": (gzip.compress(b"text" * 99)[:-8] + bytes(8), "damaged or truncated gzip"),
    "cut bzip2": (bz2.compress(b"text" * 99)[:-9], "damaged or truncated bzip2"),
    "cut xz": (lzma.compress(b"text" * 99)[:-9], "damaged or truncated xz"),
    "two members": (zip_of({"a.txt": "a", "b.txt": "b"}), "holds 2 files"),
    "no members": (zip_of({"__MACOSX/": "", ".DS_Store": ""}), "holds no file"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", BROKEN)
def test_archives_that_cannot_be_read(tmp_path, reader, case):
    content, said = BROKEN[case]
    path = tsv(tmp_path, content, "file.zip")
    with pytest.raises(UserError, match=said):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_no_file_and_a_folder(tmp_path, reader):
    for path, said in ((tmp_path / "none.csv", "there is no file"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=said):
            READERS[reader](path)


def test_an_archive_of_another_file_is_refused(tmp_path):
    tsv(tmp_path, zip_of({TEST: KAGGLE_TEST}), f"{UNLABELED}.zip")
    with pytest.raises(UserError, match=f"holds {TEST} and no {UNLABELED}"):
        Competition(tmp_path, "test").read(UNLABELED)


def test_where_a_file_may_lie(tmp_path):
    for place in (f"{TRAIN}.gz", f"{TRAIN}/{TRAIN}", f"{TRAIN}.zip"):
        folder = tmp_path / place.replace("/", "-")
        (folder / place).parent.mkdir(parents=True)
        tsv(folder, KAGGLE, place)
        assert Competition(folder, "test").read(TRAIN).texts == TEXTS


CSV = CLEAN[["id", "review"]]
REVIEWS = {
    "csv": saved(CSV, sep=","),
    "semicolons": saved(CSV, sep=";"),
    "tabs": saved(CSV),
    "Excel": saved(CSV, sep=";", encoding="utf-8-sig", lineterminator="\r\n"),
    "UTF-16": saved(CSV, encoding="utf-16"),
    "index": saved(CSV, sep=",", index=True),
    "Kaggle's": KAGGLE.encode(),
    "raw": saved(raw()),
    "json": CSV.to_json(orient="records").encode(),
    "json with line breaks": json.dumps(CSV.to_dict("records"), indent=2).encode("utf-8-sig"),
    "json lines": CSV.to_json(orient="records", lines=True).encode(),
    "gzip": gzip.compress(saved(CSV, sep=",")),
    "zip": zip_of({"__MACOSX/._a": "", "a.csv": saved(CSV, sep=",")}),
}


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.json", "a"])
@pytest.mark.parametrize("form", REVIEWS)
def test_reviews_to_predict_are_read_by_what_the_file_holds(tmp_path, form, name):
    if name == "a.json" and "json" not in form:
        with pytest.raises(UserError, match="is not valid JSON"):
            predict.read_texts(tsv(tmp_path, REVIEWS[form], name))
        return
    assert predict.read_texts(tsv(tmp_path, REVIEWS[form], name)) == (IDS, TEXTS)


def test_texts_of_json_and_of_lines(tmp_path):
    for content, expected in (
        ('["good", "bad"]', (["1", "2"], ["good", "bad"])),
        ('{"Review": "good"}', (["1"], ["good"])),
        ('[{"id": 7, "review": "good"}]', (["7"], ["good"])),
        ("[Spoilers] good\n{sic} bad\n", (["1", "2"], ["[Spoilers] good", "{sic} bad"])),
        ("\ufeffgood\r\nbad", (["1", "2"], ["good", "bad"])),
        ("good\rbad\r", (["1", "2"], ["good", "bad"])),
        ("A review, long; odd\nmore\n", (["1", "2"], ["A review, long; odd", "more"])),
    ):
        assert predict.read_texts(tsv(tmp_path, content, "a.txt")) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"review": "a"}, {"rev', "is not valid JSON"),
        ('{"review": "a"}\n{"rev', "row 2 is not valid JSON"),
        ('[\n {"review": "a"},', "is not valid JSON"),
        ('{"id": {"0": "1"}, "review": {"0": "a"}}', "entry 1: it is not a review"),
        ('["a", 3]', "entry 2: it is not a review"),
        ('[{"review": null}]', "entry 1: it is not a review"),
        ("[]", "has no reviews"),
        ('[{"id": 1, "review": "a"}, {"id": 1, "review": "b"}]', "the id 1 is there twice"),
        ('id,review\n1,"good\n', "row 2: the quotes of a field are not closed"),
        ("id,review\n1,a\n1,b\n", "row 3: the id 1 was there before"),
    ],
)
def test_reviews_to_predict_that_are_refused(tmp_path, content, said):
    with pytest.raises(UserError) as refusal:
        predict.read_texts(tsv(tmp_path, content, "a.txt"))
    assert said in str(refusal.value) and "kaggle.com" not in str(refusal.value)


GLOVE = "the 1 2 3\n. . . 4 5 6\nfilm 7 8 9\n"


PACKED_VECTORS = {
    "gzip": gzip.compress(GLOVE.encode()),
    "zip from a Mac": zip_of({"__MACOSX/._a": "x", ".DS_Store": "", "folder/": "", "folder/a.txt": GLOVE}),
    "byte-order mark": ("\ufeff" + GLOVE).encode(),
    "CRLF": GLOVE.replace("\n", "\r\n").encode(),
    "with a header": ("3 3\n" + GLOVE.replace("\n", " \n")).encode(),  # word2vec's and fastText's
}


@pytest.mark.parametrize("name", ["a.txt", "a.zip", "a.gz"])
@pytest.mark.parametrize("form", PACKED_VECTORS)
def test_vectors_are_read_by_what_the_file_holds(tmp_path, form, name):
    ((words, numbers),) = read_blocks(tsv(tmp_path, PACKED_VECTORS[form], name))
    assert words == ["the", ". . .", "film"] and numbers.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_vectors_in_utf_16_and_rows_after_a_header(tmp_path):
    with pytest.raises(UserError, match="UTF-16"):
        list(read_blocks(tsv(tmp_path, GLOVE.encode("utf-16"), "a.txt")))
    with pytest.raises(UserError, match="row 3: 2 numbers where 3"):
        list(read_blocks(tsv(tmp_path, "2 3\nthe 1 2 3\nof 1 2\n", "a.txt")))


SCORED = "id,sentiment\n1_9,0.9\n2_2,0.1\n"


SUBMISSIONS = {
    "byte-order mark": SCORED.encode("utf-8-sig"),
    "UTF-16": SCORED.replace("\n", "\r\n").encode("utf-16"),
    "gzip": gzip.compress(SCORED.encode()),
    "zip from a Mac": zip_of({"__MACOSX/._a": "", "a.csv": SCORED}),
    "quotes doubled": b'id,sentiment\n"""1_9""",0.9\n"""2_2""",0.1\n',
    "quotes everywhere": b'"id","sentiment"\n"1_9","0.9"\n"2_2","0.1"\n',
}


@pytest.mark.parametrize("form", SUBMISSIONS)
def test_submissions_are_read_by_what_the_file_holds(tmp_path, form):
    path = tsv(tmp_path, SUBMISSIONS[form], "a.csv")
    for ids in (["1_9", "2_2"], ['"1_9"', '"2_2"']):
        assert score_file(path, ids).auc == 1.0
        assert read_probabilities(path, ids, "again")["sentiment"].to_dict() == dict(zip(ids, [0.9, 0.1], strict=True))


@pytest.mark.parametrize(
    "sample",
    ["id,sentiment\n6_2,0\n5_9,0\n", 'id,sentiment\n"6_2",0\n"5_9",0\n', '\ufeffid,sentiment\n"""6_2""",0\n"""5_9""",0\n'],
)
@pytest.mark.parametrize("test", [KAGGLE_TEST, KAGGLE_TEST.replace('"', "")])
def test_ids_agree_with_quotes_and_without(tmp_path, sample, test):
    found = competition_of(tmp_path, **{TEST: test, competition_data.SAMPLE: sample})
    sample_ids, test_ids = found.sample_ids(), found.read(TEST).ids
    require_same_ids(sample_ids, test_ids)
    write_submissions(tmp_path, "a", sample_ids, test_ids, np.array([0.9, 0.1]))
    quote = '"' if '"' in sample else ""
    assert (tmp_path / "a.csv").read_text() == f"id,sentiment\n{quote}6_2{quote},0\n{quote}5_9{quote},1\n"
    assert read_probabilities(tmp_path / "a.proba.csv", test_ids, "again")["sentiment"].tolist() == [0.9, 0.1]


class Even:
    """A model that is undecided."""

    def probability(self, texts):
        return np.full(len(texts), 0.5)


@pytest.mark.parametrize("content", [KAGGLE, saved(raw()), saved(CLEAN)], ids=["Kaggle", "raw", "clean"])
def test_predictions_have_ids_that_a_submissions_reader_takes(tmp_path, content):
    ids, texts = predict.read_texts(tsv(tmp_path, content, "a.tsv"))
    predict.write(Even(), ids, texts, tmp_path / "out.csv")
    assert '"' not in (tmp_path / "out.csv").read_text()
    assert read_probabilities(tmp_path / "out.csv", [f'"{id}"' for id in IDS], "again").index.tolist() == [
        f'"{id}"' for id in IDS
    ]


LINEAR = {"tfidf": (tfidf, 0), "nbsvm": (nbsvm, 0), "paragraph_vectors": (paragraph_vectors, 2), "dv_cosine": (dv_cosine, 2)}
TRAIN_OF = "id\tsentiment\treview\n"
DEGENERATE = {
    "no rows": (TRAIN_OF, "has no reviews"),
    "all empty": (TRAIN_OF + '"1_9"\t1\t""\n"2_2"\t0\t" "\n', "has empty reviews alone"),
    "one class": (TRAIN_OF + '"1_9"\t1\t"good"\n"2_9"\t1\t"good"\n', "every sentiment is 1"),
    "one review": (TRAIN_OF + '"1_9"\t1\t"good"\n', "every sentiment is 1"),
    "line breaks alone": (TRAIN_OF + '"1_9"\t1\t"<br />"\n"2_2"\t0\t"<br />"\n', "no training review has a word in it"),
    "two other words": (TRAIN_OF + '"1_9"\t1\t"good"\n"2_2"\t0\t"!"\n', "no term is in as many reviews"),
}


@pytest.mark.parametrize("script", LINEAR)
@pytest.mark.parametrize("case", DEGENERATE)
def test_linear_models_refuse_what_teaches_nothing(tmp_path, monkeypatch, capsys, script, case):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text, said = DEGENERATE[case]
    competition_of(tmp_path, **{TRAIN: text, UNLABELED: "id\treview\n"})
    module, unsupervised = LINEAR[script]
    settings = module.Config(data_dir=tmp_path, output_dir=tmp_path, name="a", no_validation=True)
    with pytest.raises(SystemExit) as left:
        run(TextTask(module.build_pipeline, settings, unsupervised), SklearnTrainer())
    assert left.value.code == 2 and said in capsys.readouterr().err
    assert not list(tmp_path.glob("submissions/*"))


def test_the_linear_models_learn_from_punctuation_alone(tmp_path):
    """The linear models count marks as words."""
    competition_of(
        tmp_path, **{TRAIN: TRAIN_OF + "".join(f'"{n}_{1 + 8 * (n % 2)}"\t{n % 2}\t"{"!?"[n % 2]}"\n' for n in range(8))}
    )
    settings = tfidf.Config(data_dir=tmp_path, output_dir=tmp_path, name="a", no_validation=True)
    run(TextTask(tfidf.build_pipeline, settings), SklearnTrainer())
    assert (tmp_path / "submissions" / "a.csv").is_file()


@pytest.mark.parametrize("text", ["<br />", "!", "good bad"])
def test_word2vec_refuses_what_has_too_few_words(tmp_path, text):
    found = competition_of(tmp_path, **{TRAIN: TRAIN_OF + f'"1_9"\t1\t"{text}"\n"2_2"\t0\t"{text}"\n', UNLABELED: "id\treview\n"})
    with pytest.raises(UserError, match="no word occurs 5 times"):
        word_vectors.build_vocabulary(found, read_corpus(found), None, None, tmp_path)


def test_a_limit_that_leaves_one_class_is_refused(tmp_path, capsys):
    competition_of(tmp_path)
    settings = tfidf.Config(data_dir=tmp_path, output_dir=tmp_path, name="a", no_validation=True, max_train_samples=1, min_df=1)
    with pytest.raises(SystemExit):
        run(TextTask(tfidf.build_pipeline, settings), SklearnTrainer())
    assert "--max-train-samples is 1: give a larger number" in capsys.readouterr().err


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_home_is_expanded_in_every_path_of_the_scripts(home):
    made = config.WordVectorConfig(data_dir=Path("~/data"), output_dir=Path("~"), word_vectors=Path("~/v.txt"))
    assert (made.data_dir, made.output_dir, made.word_vectors) == (home / "data", home, home / "v.txt")
    tuned = config.AdapterConfig(model="~/model", adapter=Path("~/adapter"))
    assert (tuned.model, tuned.adapter) == (str(home / "model"), home / "adapter")
    assert config.PretrainedConfig(model="microsoft/deberta-v3-base").model == "microsoft/deberta-v3-base"


def test_home_is_expanded_in_every_path_of_the_commands(home):
    checked = 0
    for command in (commands.Prepare, commands.Score, commands.Leaderboard, commands.Publish, commands.Ensemble,
                    commands.Predict, commands.Kernel, commands.Report, commands.Plan):  # fmt: skip
        names = [field.name for field in fields(command) if "Path" in str(field.type) or field.name == "model"]
        given = {name: (Path("~/a"),) if name == "files" else "~/a" if name == "model" else Path("~/a") for name in names}
        rest = {"script": "lstm"} if command is commands.Kernel else {}
        made = command(**given | rest)
        for name in names:
            value = getattr(made, name)
            assert str(value[0] if name == "files" else value) == str(home / "a"), (command, name)
            checked += 1
    assert checked >= 15


def test_home_is_expanded_in_the_variable(home, monkeypatch):
    (home / "data").mkdir()
    tsv(home / "data", KAGGLE)
    monkeypatch.setenv("POPCORN_DATA", "~/data")
    assert competition_data.find_competition(None).folder == home / "data"
    with pytest.raises(UserError, match="there is no folder ~nobody-here"):
        monkeypatch.setenv("POPCORN_DATA", "~nobody-here/data")
        competition_data.find_competition(None)


def test_the_option_that_helps_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    blocked = tmp_path / "file" / "out"
    for write, option in (
        (lambda: predict.write(Even(), ["1"], ["a"], blocked), "with --output"),
        (lambda: stanford.write_competition(blocked, [], [], []), "with --output"),
        (lambda: commands.Kernel(script="tfidf", output=blocked).run(), "with --output"),
        (lambda: files.require_writable(blocked), "with --output-dir"),
    ):
        with pytest.raises(UserError) as refusal:
            write()
        assert str(refusal.value).endswith(option)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        cache.cached(tmp_path / "file" / "popcorn" / "a.npz", dict)


STANFORD = {"a PDF": b"%PDF-1.7", "an HTML page": b"<html>", "a zip archive": zip_of({"a": "b"}), "empty": b"", "a text": b"text"}


@pytest.mark.parametrize("kind", STANFORD)
def test_what_is_not_stanfords_archive_is_named(tmp_path, kind):
    with pytest.raises(UserError, match=f"is {kind}"):
        stanford.prepare(tsv(tmp_path, STANFORD[kind], "aclImdb_v1.tar.gz"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_stanfords_archive_from_a_mac_and_packed_otherwise(tmp_path, mode, capsys):
    path = tmp_path / "aclImdb.tar.gz"
    with tarfile.open(path, mode) as file:
        for place in ("train/pos/1_9", "train/neg/1_2", "train/unsup/1_0", "test/pos/1_9", "test/neg/1_2", "train/pos/._1_9"):
            member = tarfile.TarInfo(f"aclImdb/{place}.txt")
            content = b"\xff\0" if "._" in place else b"good\\"
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    stanford.prepare(path, tmp_path / "out")
    assert Competition(tmp_path / "out", "test").read(TRAIN).texts == ["good\\ "] * 2
    assert f"WARNING: {TRAIN} has 2 reviews" in capsys.readouterr().out
