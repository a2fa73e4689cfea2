import importlib.util

import numpy as np
import pytest
from conftest import ROOT, run, zipped

from popcorn.data import glove as glove_reader
from popcorn.data import word_vectors
from popcorn.data.competition import Competition
from popcorn.data.word_tokenizer import PAD, UNKNOWN, read_corpus
from popcorn.errors import UserError

SPEC = importlib.util.spec_from_file_location("glove_gensim", ROOT / "glove-gensim.py")
glove_gensim = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(glove_gensim)


def read_all(path):
    blocks = list(glove_reader.read_blocks(path))
    return [word for words, _ in blocks for word in words], np.concatenate([block for _, block in blocks])


def test_words_with_blanks_and_blocks(glove, monkeypatch):
    words, numbers = read_all(glove)
    assert {". . .", "at name@domain.com"} <= set(words) and numbers.shape == (len(words), 16)
    line = next(line for line in glove.read_text().split("\n") if line.startswith(". . . "))
    assert numbers[words.index(". . .")] == pytest.approx([float(number) for number in line.split()[3:]])
    monkeypatch.setattr(glove_reader, "BLOCK", 5)
    small_blocks = read_all(glove)
    assert small_blocks[0] == words and np.array_equal(small_blocks[1], numbers)
    packed = read_all(zipped(glove))
    assert packed[0] == words and np.array_equal(packed[1], numbers)


@pytest.mark.parametrize(
    ("line", "count"),
    [("short 0.1 0.2", 2), ("long 0.1 0.2 0.3 0.4", 4), ("word 0.1 x 0.3", 2), ("nan 0.1 nan 0.3", 2), ("", 0)],
)
def test_a_line_with_a_wrong_count_is_named(tmp_path, line, count):
    path = tmp_path / "vectors.txt"
    path.write_text(f"the 1 2 3\n. . . 1 2 3\n{line}\nlast 1 2 3\n")
    with pytest.raises(UserError) as refusal:
        read_all(path)
    assert f"{path}, row 3: {count} numbers where 3 are expected" in str(refusal.value)


def test_files_that_are_no_vectors(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(UserError, match="is empty"):
        read_all(empty)
    with pytest.raises(UserError, match="there is no file"):
        word_vectors.read_vectors(tmp_path / "none.txt", {"a"})
    with pytest.raises(UserError, match="lacks its part"):
        word_vectors.read_vectors(tmp_path / "none.kv", {"a"})


def test_converted_file_is_gensims_and_the_scripts_too(tmp_path, glove):
    from gensim.models import KeyedVectors

    output = tmp_path / "glove.kv"
    glove_gensim.convert(glove, output, None)
    loaded = KeyedVectors.load(str(output), mmap="r")
    words, numbers = read_all(glove)
    assert isinstance(loaded.vectors, np.memmap) and loaded.index_to_key == words
    assert np.array_equal(loaded[". . ."], numbers[words.index(". . .")])
    assert loaded.most_similar("superb", topn=1)
    # the pickle beside the arrays is never opened by the scripts
    output.write_bytes(b"not a pickle")
    wanted = {"superb", "at name@domain.com", "nowhere"}
    ours, plain = word_vectors.read_vectors(output, wanted), word_vectors.read_vectors(glove, wanted)
    assert ours[0] == plain[0] == ["superb", "at name@domain.com"]
    assert np.array_equal(ours[1], plain[1])


def test_a_refused_conversion_leaves_nothing(tmp_path, glove):
    broken = tmp_path / "broken.txt"
    broken.write_text(glove.read_text() + "last 1 2\n")
    with pytest.raises(UserError, match="row"):
        glove_gensim.convert(broken, tmp_path / "out" / "glove.kv", None)
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(UserError, match=r"\.kv"):
        glove_gensim.convert(glove, tmp_path / "glove.bin", None)


def test_command_keeps_the_competitions_words_and_shows_neighbors(tmp_path, competition, glove):
    output = tmp_path / "small.kv"
    done = run("glove-gensim.py", "--glove", glove, "--output", output, "--vocab-from", competition, "--neighbors", "superb")
    assert "superb" in done.stdout and "nearest neighbors" in done.stdout
    words = (tmp_path / "small.kv.words.txt").read_text().split("\n")
    assert "superb" in words and "unseen" not in words and ". . ." not in words


def test_vocabulary_of_a_file_of_vectors(competition, glove, tmp_path):
    found = Competition(competition, "test")
    corpus = read_corpus(found)
    vocabulary = word_vectors.build_vocabulary(found, corpus, glove, None, tmp_path)
    assert not vocabulary.vectors[PAD].any() and vocabulary.vectors[UNKNOWN].any()
    assert min(vocabulary.index.values()) == 2 and len(vocabulary.vectors) == len(vocabulary.index) + 2
    words, numbers = read_all(glove)
    superb = numbers[words.index("superb")]
    assert vocabulary.vectors[vocabulary.index["superb"]] == pytest.approx(superb * word_vectors.NORM / np.linalg.norm(superb))
    assert "unseen" not in vocabulary.index
    with pytest.raises(UserError, match="16 wide where --vector-size asks for 300"):
        word_vectors.build_vocabulary(found, corpus, glove, 300, tmp_path)


def test_test_words_enter_only_where_the_vectors_know_them(tmp_path, glove):
    from popcorn.data.stanford import write_competition

    train = [(f"{number}_{1 + 8 * (number % 2)}", number % 2, "plot plot rare") for number in range(4)]
    write_competition(tmp_path / "data", train, [("1_1", 0, "unseen neverseen plot"), ("2_9", 1, "plot")], [])
    found = Competition(tmp_path / "data", "test")
    index = word_vectors.build_vocabulary(found, read_corpus(found), glove, None, tmp_path).index
    assert "unseen" in index and "neverseen" not in index and {"plot", "rare"} <= set(index)


def test_word2vec_comes_from_the_training_files_and_is_kept(tmp_path, monkeypatch):
    """And never from the test, however often a word is there."""
    from popcorn.data.stanford import write_competition

    texts = [(f"{number}_{1 + 8 * (number % 2)}", number % 2, "a superb plot") for number in range(20)]
    write_competition(tmp_path / "data", texts, [("1_1", 0, "unseen " * 20), ("2_9", 1, "plot")], [("3_0", None, "other " * 20)])
    found = Competition(tmp_path / "data", "test")
    corpus = read_corpus(found)
    monkeypatch.setitem(word_vectors.WORD2VEC, "vector_size", 12)
    first = word_vectors.build_vocabulary(found, corpus, None, 12, tmp_path / "runs")
    assert first.vectors.shape[1] == 12 and set(first.index) == {"a", "superb", "plot", "other"}
    (kept,) = (tmp_path / "runs").glob("word2vec-*.npz")  # where a run that is taken elsewhere finds its own
    kept.rename(tmp_path / kept.name)
    monkeypatch.setattr("gensim.models.Word2Vec", lambda *_, **__: pytest.fail("trained again"))
    again = word_vectors.build_vocabulary(found, corpus, None, 12, tmp_path)
    assert np.array_equal(first.vectors, again.vectors) and first.index == again.index
