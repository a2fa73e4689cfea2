"""Tokenizers that are whole, of the model, and made for texts like these; others are refused with what to fetch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pretrained
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

import bert_trainer
import modernbert_trainer
from popcorn.data import competition as competition_data
from popcorn.data import subword_tokenizer
from popcorn.data.subword_tokenizer import read_subwords, require_fitting_tokenizer
from popcorn.data.word_tokenizer import plain
from popcorn.errors import UserError
from popcorn.models.hub import find_checkpoint
from popcorn.models.tokenizer import load_tokenizer

FETCH = r"fetch or attach all of the model's tokenizer, such as tokenizer\.json and tokenizer_config\.json"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return pretrained.write(tmp_path_factory.mktemp("tokenizers") / "bert", "bert")


@pytest.fixture
def folder(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "changed")


def config_of(folder: Path):
    config = bert_trainer.Config(model=str(folder))
    find_checkpoint(config)
    return config


def edited(folder: Path, change) -> None:
    """The folder's tokenizer.json, changed by a function of its content."""
    path = folder / "tokenizer.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def of_its_own(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | names))


SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}


def words_alone(known: list[str]) -> Tokenizer:
    vocabulary = SPECIAL | {word: number for number, word in enumerate(known, start=5)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def letters() -> Tokenizer:
    """A byte-level tokenizer whose merges are lost: it knows everything, one letter at a time."""
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=5)}
    tokenizer = Tokenizer(models.BPE(SPECIAL | alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    return tokenizer


def nothing() -> Tokenizer:
    """One that leaves out what it does not know."""
    tokenizer = Tokenizer(models.BPE(SPECIAL | {"a": 5, "e": 6}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (
            words_alone(["the", "a", "movie"]),
            r"does not know \d+\.\d% of the training reviews' tokens, where at most 2% is usual",
        ),
        (words_alone([]), r"does not know 100\.0% of"),
        (letters(), r"makes \d\.\d tokens of a word of the training reviews, where 1\.2 to 1\.5 are usual"),
        (nothing(), r"makes 0\.\d tokens of a word"),
    ],
)
def test_a_tokenizer_of_other_texts_is_refused(tokenizer, said, folder, competition):
    of_its_own(folder, tokenizer)
    config = config_of(folder)
    for _ in range(2):  # out of the cache too
        with pytest.raises(UserError, match=said) as raised:
            read_subwords(competition_data.Competition(competition, ""), competition_data.TRAIN, load_tokenizer(config), config)
        assert str(folder) in str(raised.value) and "tokenizer.json and tokenizer_config.json" in str(raised.value)


def test_a_modernbert_s_tokenizer_is_byte_level_with_berts_special_tokens(competition, tmp_path):
    """Trained here as its own was: bytes, merges, and special tokens of the highest ids."""
    folder = pretrained.write(tmp_path / "modernbert", "modernbert")
    data = competition_data.Competition(competition, "")
    texts = data.read(competition_data.TRAIN).texts
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    of_its_own(folder, tokenizer)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mask_token": "[MASK]", "model_max_length": 8192}))
    config = modernbert_trainer.Config(model=str(folder))
    find_checkpoint(config)
    made = load_tokenizer(config)
    assert config.max_length == 1024 and made.pad_token_id == tokenizer.token_to_id("[PAD]") > 400
    reviews = read_subwords(data, competition_data.TRAIN, made, config)
    for text, ids in zip(texts, reviews.reviews, strict=True):
        assert (ids[0], ids[-1]) == (made.cls_token_id, made.sep_token_id) and made.unk_token_id not in ids
        assert made.decode(ids[1:-1]) == plain(text)
    assert reviews.padding == made.pad_token_id
    text = "Superb naïve acting <br />… 10/10"
    assert "".join(word for word, _ in subword_tokenizer.words_of(text, made, 1024)) == "".join(plain(text).split())


def test_a_few_unknown_tokens_are_usual(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokens = np.full(1_000, 2_000)
    for unknown, is_refused in ((0, False), (20, False), (21, True), (1_000, True)):
        tokens[:unknown] = tokenizer.unk_token_id
        if is_refused:
            with pytest.raises(UserError, match=FETCH):
                require_fitting_tokenizer(tokens, 800, tokenizer, checkpoint)
        else:
            require_fitting_tokenizer(tokens, 800, tokenizer, checkpoint)
    require_fitting_tokenizer(np.zeros(0), 0, tokenizer, checkpoint)  # no review has a word


def test_upper_case_beside_a_vocabulary_of_lower_case_is_seen(checkpoint):
    """What vocab.txt alone gives in some versions of the library, on words as reviews have them."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.backend_tokenizer.normalizer = None
    texts = ["This Film was Superb, and I liked Hopkins.", "What A mess! One of the worst Films of 1999."]
    tokens = np.concatenate(subword_tokenizer.tokenize_texts(texts, tokenizer))
    with pytest.raises(UserError, match="does not know"):
        require_fitting_tokenizer(tokens, 17, tokenizer, checkpoint)


def without(name: str):
    def change(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        about = json.loads(path.read_text())
        path.write_text(json.dumps(about | {f"{name}_token": None}))

    return change


def one_more(folder: Path) -> None:
    edited(folder, lambda about: about["model"]["vocab"].update({"unheard": pretrained.WORDS}))


def far_more(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 30_000}))


def added(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<br/>"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("cls"), "has no cls token"),
        (without("sep"), "has no sep token"),
        (without("pad"), "has no pad token"),
        (one_more, r"its token 'unheard' has the id 30522, and the model has vectors for 30522"),
        (far_more, r"has the id 30521, and the model has vectors for 30000"),
        (added, r"its token '<br/>' has the id 30522"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be read"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused_before_it_reads(change, said, folder):
    change(folder)
    with pytest.raises(UserError, match=said + ".*: " + FETCH) as raised:
        load_tokenizer(config_of(folder))
    assert str(folder) in str(raised.value)


def test_code_beside_a_tokenizer_is_never_run(folder):
    path = folder / "tokenizer_config.json"
    about = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]}}
    (folder / "code.py").write_text("raise SystemExit('code was run')")
    path.write_text(json.dumps(about))
    assert load_tokenizer(config_of(folder))("superb")["input_ids"]  # by the library's own class
    path.write_text(json.dumps(about | {"tokenizer_class": "Tokenizer"}))
    try:
        load_tokenizer(config_of(folder))
    except UserError as raised:
        assert "cannot be read" in str(raised)


@pytest.mark.parametrize("made_by", ["transformers", "tokenizers", "special_tokens_map.json", "added_tokens.json"])
def test_the_cache_is_of_one_version_and_of_all_the_tokenizer_s_files(made_by, folder, competition, monkeypatch, capsys):
    config = config_of(folder)

    def read() -> bool:
        """Whether the texts were split anew."""
        read_subwords(competition_data.Competition(competition, ""), competition_data.TEST, load_tokenizer(config), config)
        return "Splitting" in capsys.readouterr().out

    read()
    assert not read()
    if made_by.endswith(".json"):
        (folder / made_by).write_text("{}")
    else:
        genuine = subword_tokenizer.version
        monkeypatch.setattr(subword_tokenizer, "version", lambda name: "0.0.test" if name == made_by else genuine(name))
    assert read()
