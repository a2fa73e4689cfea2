import numpy as np
import pytest
from platformdirs import user_cache_path

from popcorn.data import competition as competition_data
from popcorn.data import word_tokenizer
from popcorn.data.competition import Competition
from popcorn.utils import files


def test_penn_treebank_words():
    review = "I don't like it.It's BAD<br /><br />He said \"no\" (twice)... Mr. Smith's\x85 10/10!"
    words = "i do n't like it . it 's bad he said `` no '' ( twice ) ... mr . smith 's 10/10 !"
    assert word_tokenizer.tokenize(review) == words.split()


def test_empty_text_has_no_words():
    assert word_tokenizer.tokenize("") == [] and word_tokenizer.tokenize(" <br /> \x97 ") == []


def test_several_processes_give_what_one_gives(monkeypatch):
    reviews = [f"film number {number % 7} , said review {number} ." for number in range(50)] + [""]
    monkeypatch.setattr(word_tokenizer, "CHUNK", 8)
    words, tokens, offsets = word_tokenizer.tokenize_all(reviews)
    found = [[words[token] for token in review] for review in np.split(tokens, offsets[1:-1])]
    assert found == [word_tokenizer.tokenize(review) for review in reviews]
    assert len(set(words)) == len(words)


def test_packed_strings_come_back():
    for strings in (["a", "b c", "naïve", "\x85"], []):
        assert word_tokenizer.unpack(word_tokenizer.pack(strings)) == strings


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / competition_data.TEST).write_text("id\treview\n1_1\tone two\n2_1\t\n3_9\ttwo three two\n")
    return Competition(tmp_path, "test")


def test_cache_is_used_while_the_file_is_the_same(small, monkeypatch):
    first = word_tokenizer.read_tokens(small, competition_data.TEST)
    assert first.ids == ["1_1", "2_1", "3_9"] and first.sentences() == [["one", "two"], [], ["two", "three", "two"]]
    monkeypatch.setattr(word_tokenizer, "tokenize_all", lambda _: pytest.fail("tokenized again"))
    again = word_tokenizer.read_tokens(small, competition_data.TEST)
    assert again.sentences() == first.sentences() and again.ids == first.ids
    (small.folder / competition_data.TEST).write_text("id\treview\n1_1\tanother\n")
    with pytest.raises(pytest.fail.Exception):
        word_tokenizer.read_tokens(small, competition_data.TEST)


@pytest.mark.parametrize("harm", ["truncated", "one byte", "not a zip", "empty"])
def test_a_damaged_cache_is_made_again(small, harm, capsys):
    first = word_tokenizer.read_tokens(small, competition_data.TEST)
    (path,) = user_cache_path("popcorn").glob("tokens-*.npz")
    content = bytearray(path.read_bytes())
    if harm == "one byte":
        at = content.index(first.tokens.tobytes())
        content[at] ^= 1
    path.write_bytes({"truncated": content[:-40], "one byte": content, "not a zip": b"x" * 500, "empty": b""}[harm])
    assert word_tokenizer.read_tokens(small, competition_data.TEST).sentences() == first.sentences()
    assert "damaged" in capsys.readouterr().out
    assert word_tokenizer.read_tokens(small, competition_data.TEST).sentences() == first.sentences()
    assert "damaged" not in capsys.readouterr().out


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), files.atomic_write(tmp_path / "file.txt", "w") as file:
        file.write("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_counts_and_ids_of_a_vocabulary(small):
    tokens = word_tokenizer.read_tokens(small, competition_data.TEST)
    assert word_tokenizer.word_counts((tokens,)) == {"one": 1, "two": 3, "three": 1}
    ids = word_tokenizer.encode(tokens, {"two": 2, "three": 3})
    assert [len(review) for review in ids] == np.diff(tokens.offsets).tolist()
    assert np.concatenate(ids).tolist() == [word_tokenizer.UNKNOWN, 2, 2, 3, 2]
