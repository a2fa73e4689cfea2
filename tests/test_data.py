import shutil
import zipfile
from pathlib import Path

import pytest
from conftest import zipped

from popcorn.data import competition as competition_data
from popcorn.errors import UserError
from popcorn.utils import kaggle

ROWS = 'id\tsentiment\treview\n"1_9"\t1\t"It\'s ""\\"good\\"""<br />"\n"2_2"\t0\t""\n"3_1"\t0\tunquoted\\ text\x85\n"4_8"\t1\n'


def written(folder, text, name=competition_data.TRAIN):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_quoting_is_undone_and_ids_are_kept(tmp_path):
    path = written(tmp_path, ROWS)
    found = competition_data.read_reviews(path, competition_data.COLUMNS[competition_data.TRAIN])
    assert found.ids == ['"1_9"', '"2_2"', '"3_1"', '"4_8"']
    assert found.labels.tolist() == [1, 0, 0, 1]
    assert found.texts == ['It\'s """good""" <br />'.replace(" <", "<"), "", "unquoted\\ text\x85", ""]


def test_zip_and_plain_file_are_the_same(tmp_path):
    path = written(tmp_path, ROWS)
    archive = zipped(path)
    plain, packed = (
        competition_data.read_reviews(each, competition_data.COLUMNS[competition_data.TRAIN]) for each in (path, archive)
    )
    assert (plain.ids, plain.texts) == (packed.ids, packed.texts)


HEAD = "id\tsentiment\treview\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,sentiment,review\n1_9,1,good\n", "row 1: the columns must be separated by '\\t'"),
        ("id\treview\n1_9\tgood\n", "row 1: the column 'sentiment' is missing"),
        (HEAD + "1_9\t1\tgood\n2_1\t2\tbad\n", "row 3: the sentiment is '2' where 0 or 1 is expected"),
        (HEAD + "1_9\t1\tgood\n2_1\t\tbad\n", "row 3: the sentiment is ''"),
        (HEAD + "1_9\t1\tgood\n1_9\t1\tgood\n", "row 3: the id 1_9 was there before"),
        (HEAD + "1_9\t1\tgood\n2_1\t0\tbad\tvery\n", "row 3: there are more fields than columns (4 where 3 are expected)"),
        (HEAD + "1_9\t1\tgood\tvery\n2_1\t0\tbad\tvery\n", "row 2: there are more fields than columns"),
        ("", "cannot be read as a table"),
    ],
)
def test_bad_files_are_refused_by_row(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as refusal:
        competition_data.read_reviews(path, competition_data.COLUMNS[competition_data.TRAIN])
    assert said in str(refusal.value) and str(path) in str(refusal.value)


def test_truncated_zip_is_refused(tmp_path):
    archive = zipped(written(tmp_path, ROWS * 500))
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged or truncated"):
        competition_data.read_reviews(archive, competition_data.COLUMNS[competition_data.TRAIN])


def test_damaged_zip_is_refused(tmp_path):
    archive = zipped(written(tmp_path, ROWS * 500))
    with zipfile.ZipFile(archive) as file:
        start = file.infolist()[0].header_offset + 60
    content = bytearray(archive.read_bytes())
    content[start : start + 20] = bytes(20)
    archive.write_bytes(content)
    with pytest.raises(UserError, match="damaged or truncated"):
        competition_data.read_reviews(archive, competition_data.COLUMNS[competition_data.TRAIN])


def test_order_of_the_places(tmp_path, monkeypatch, competition):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kaggle, "INPUT", tmp_path / "kaggle")
    monkeypatch.setattr(competition_data.fallback, "folder", lambda: competition)
    places = {
        competition_data.FALLBACK: None,
        "data/": tmp_path / "data",
        "Kaggle input": tmp_path / "kaggle" / "competitions" / "word2vec-nlp-tutorial",
        "POPCORN_DATA": tmp_path / "variable",
        "--data-dir": tmp_path / "option",
    }
    for source, folder in places.items():  # each later place goes before all the earlier ones
        if folder is not None:
            folder.mkdir(parents=True)
            written(folder, ROWS)
        if source == "POPCORN_DATA":
            monkeypatch.setenv("POPCORN_DATA", str(folder))
        found = competition_data.find_competition(folder if source == "--data-dir" else None)
        assert found.source == source
        assert found.folder.resolve() == (folder or competition).resolve()


@pytest.mark.parametrize(
    "place",
    [
        "kaggle/competitions/word2vec-nlp-tutorial",
        "kaggle/word2vec-nlp-tutorial",
        "kaggle/word2vec-nlp-tutorial/unzipped",
        "kaggle/datasets/somebody/reviews",
        "kaggle/datasets/somebody/reviews/unzipped",
        "kaggle/reviews",
        "data",
        "data/word2vec-nlp-tutorial",
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_complete_folder_goes_before_one_that_lacks_files(place, is_packed, tmp_path, monkeypatch, competition):
    """Also where all files are in the one archive of "Download All"."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kaggle, "INPUT", tmp_path / "kaggle")
    for incomplete in ("kaggle/competitions/a", "kaggle/b", "data/c"):
        (tmp_path / incomplete).mkdir(parents=True)
        written(tmp_path / incomplete, ROWS)
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    if is_packed:
        with zipfile.ZipFile(folder / "word2vec-nlp-tutorial.zip", "w") as archive:
            for path in competition.iterdir():
                packed = path.suffix == ".tsv"
                inner = zipped(Path(shutil.copy(path, tmp_path))) if packed else path
                archive.write(inner, inner.name)
    else:
        shutil.copytree(competition, folder, dirs_exist_ok=True)
    found = competition_data.find_competition(None)
    assert found.folder.resolve() == folder and found.num_files == 4
    plain = competition_data.Competition(competition, "data/")
    for name in competition_data.COLUMNS:
        assert found.read(name).texts == plain.read(name).texts
    assert found.sample_ids() == plain.sample_ids()


def test_the_competition_goes_before_another_complete_folder(tmp_path, monkeypatch, competition):
    monkeypatch.setattr(kaggle, "INPUT", tmp_path)
    for place in ("aaa", "word2vec-nlp-tutorial", "competitions/word2vec-nlp-tutorial"):
        shutil.copytree(competition, tmp_path / place)
        assert competition_data.find_competition(None).folder == tmp_path / place


def test_the_fallback_is_announced(tmp_path, monkeypatch, competition, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kaggle, "INPUT", tmp_path)
    monkeypatch.setattr(competition_data.fallback, "folder", lambda: competition)
    competition_data.find_competition(None)
    assert "NOT comparable with Kaggle's score" in capsys.readouterr().out


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_asked_for_is_used_or_refused(tmp_path, made):
    folder = tmp_path / "there"
    if made:
        folder.mkdir()
    with pytest.raises(UserError, match=str(folder)):
        competition_data.find_competition(folder)


def test_fallback_data_hold_out_other_reviews():
    competition = competition_data.Competition(competition_data.fallback.folder(), competition_data.FALLBACK)
    train, test = competition.read(competition_data.TRAIN), competition.read(competition_data.TEST)
    assert len(test.texts) == 5_000 and len(train.texts) > 19_000
    assert abs(train.labels.mean() - 0.5) < 0.01
    assert not set(train.texts) & set(test.texts)
    assert not set(train.ids) & set(test.ids)
    assert competition.sample_ids() == test.ids
