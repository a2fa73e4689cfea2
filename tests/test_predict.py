"""Saved models say of a text what they said in their submission, show why, and refuse what is not a text or not a model."""

import os
import re
import subprocess
import sys
from importlib import import_module

import numpy as np
import pandas as pd
import pretrained
import pytest
from conftest import BLAME, PRAISE, ROOT, run, some_fast
from gradio_client import Client
from gradio_client.exceptions import AppError
from preloaded import PreloadedProcess
from transformers import AutoTokenizer

import bert_native
import bert_scratch
import deberta_prefix
import lm_lstm
import modernbert_trainer
from popcorn.data import competition as competition_data
from popcorn.data.subword_tokenizer import words_of
from popcorn.errors import UserError
from popcorn.inference import load, predict
from popcorn.models import saved
from popcorn.runs.run import run as run_task
from popcorn.training import loop
from popcorn.training.adapters import AdapterTask, AdapterTrainer
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.hf_trainer import HFTrainer
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.sklearn_pipeline import SklearnTrainer, TextTask
from popcorn.training.word_lm import LanguageModelTask
from popcorn.training.word_model import WordModelTask

# in fp32 wherever they run: what is loaded says it in that
TINY = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, "precision": "fp32"}
QUICK = {
    "hidden": 16, "epochs": 5, "batch_size": 16, "learning_rate": 0.03, "embedding_lr_scale": 1.0, "dropout": 0.1,
    "word_dropout": 0.1, "precision": "fp32",
}  # fmt: skip
PREFIX = {**TINY, "bits": 32, "head_learning_rate": 0.01, "epochs": 4}
KINDS = {
    "lstm": ("LSTM", WordModelTask, lambda: PyTorchTrainer(loop.train), QUICK),
    "lm_lstm": (
        "LMLSTM",
        lambda build, config: LanguageModelTask(build, lm_lstm.LanguageModel, config),
        lambda: PyTorchTrainer(loop.train),
        QUICK | {"pretrain_epochs": 1},
    ),
    "nbsvm": ("build_pipeline", TextTask, SklearnTrainer, {"min_df": 2}),
    "tfidf": ("build_pipeline", TextTask, SklearnTrainer, {"min_df": 2, "refit": False, "no_validation": False}),
    "paragraph_vectors": (
        "build_pipeline",
        lambda build, config: TextTask(build, config, unsupervised=2),
        SklearnTrainer,
        {"sample": 0, "vector_size": 20, "ngrams": 1, "folds": 2, "no_validation": False},
    ),
    "dv_cosine": (
        "build_pipeline",
        lambda build, config: TextTask(build, config, unsupervised=2),
        SklearnTrainer,
        {"sample": 0, "vector_size": 8, "ngrams": 1, "folds": 2, "no_validation": False},
    ),
    "bert_native": ("BERT", FinetuningTask, lambda: PyTorchTrainer(bert_native.train), TINY),
    "bert_scratch": ("build", FinetuningTask, lambda: HFTrainer(bert_scratch.training_arguments), TINY),
    "modernbert_trainer": ("build", FinetuningTask, lambda: HFTrainer(modernbert_trainer.training_arguments), TINY),
    "deberta_prefix": ("peft_config", AdapterTask, lambda: AdapterTrainer(deberta_prefix.training_arguments), PREFIX),
}
"""of each script the name of what makes its model, its task, its trainer, and options"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return {
        family: pretrained.write(folder / family, family, initializer_range=0.1)
        for family in ("bert", "deberta-v2", "modernbert")
    }


@pytest.fixture(scope="module")
def finished(competition, tmp_path_factory, checkpoints):
    """A finished run of each kind, made when a test first needs it."""
    folder, done = tmp_path_factory.mktemp("runs"), {}

    def make(script: str):
        if script not in done:
            name, task, trainer, options = KINDS[script]
            module = import_module(script)
            if hasattr(module.Config, "MODEL_TYPE"):
                options = options | {"model": str(checkpoints[module.Config.MODEL_TYPE])}
            options = {"no_validation": True} | options
            config = module.Config(data_dir=competition, output_dir=folder, name=script, **options)
            run_task(task(getattr(module, name), config), trainer())
            done[script] = folder / "runs" / script / "seed-1"
        return done[script]

    return make


@pytest.mark.parametrize("script", some_fast(["lstm", "nbsvm", "dv_cosine", "bert_native", "bert_scratch"], KINDS))
def test_a_saved_model_says_what_it_said(script, finished, competition, checkpoints):
    """The rounding of the submission's file apart; and what it was trained from is not needed, but by an adapter."""
    folder = finished(script)
    test = competition_data.find_competition(competition).read(competition_data.TEST)
    submitted = pd.read_csv(folder.parents[2] / "submissions" / f"{script}.proba.csv", quoting=3).set_index("id")["sentiment"]
    base = checkpoints["bert"]
    base.rename(base.with_name("away"))
    try:
        found = load.load(folder).probability(test.texts)
    finally:
        base.with_name("away").rename(base)
    assert np.allclose(found, submitted[test.ids], atol=2e-6) and found.std() > 1e-4


@pytest.mark.parametrize("script", ["lstm", "nbsvm", "paragraph_vectors", "dv_cosine", "bert_scratch"])
def test_the_words_shown_are_those_that_carry_the_prediction(script, finished):
    model = load.load(finished(script))
    text = f"the film was {PRAISE[0]} and {PRAISE[1]} with a {BLAME[0]} scene"
    words = model.explain(text)
    assert [word for word, _ in words] == text.split()
    if script != "bert_scratch":
        weight = dict(words)
        assert min(weight[PRAISE[0]], weight[PRAISE[1]]) > 0 > weight[BLAME[0]]
    # all words together make the difference to a review of none of them
    positive = model.probability([text])[0]
    if script == "bert_scratch":
        without = " ".join(["[PAD]"] * len(words))
        nothing = model.probability([without])[0]
        moved = np.log(positive / (1 - positive)) - np.log(nothing / (1 - nothing))
        assert sum(weight for _, weight in words) == pytest.approx(moved, rel=0.1, abs=0.02)


def test_the_command_shows_and_writes(finished, competition, tmp_path):
    folder = finished("nbsvm")
    shown = run("-m", "popcorn", "predict", "--model", folder, f"{PRAISE[0]} and {PRAISE[2]}", f"{BLAME[0]}")
    assert re.findall(r"(positive|negative), probability", shown.stdout) == ["positive", "negative"]
    reviews = tmp_path / "reviews.csv"
    pd.DataFrame({"id": ["a", "b"], "review": [f"{PRAISE[0]}, {PRAISE[1]}", BLAME[1]]}).to_csv(reviews, index=False)
    run("-m", "popcorn", "predict", "--model", "nbsvm", "--output-dir", folder.parents[2], "--file", reviews)
    written = pd.read_csv(tmp_path / "reviews.predicted.csv")
    assert list(written["id"]) == ["a", "b"] and list(written["sentiment"]) == [1, 0]
    for content, said in (
        (f"{PRAISE[3]}\n".encode(), "positive, probability"),
        (b"na\xefve", "stdin, row 1: this is not text in UTF-8"),
        (b"a\0", "stdin is binary"),
        (b"\n", "stdin is empty"),
    ):
        done = PreloadedProcess("-m", "popcorn", "predict", "--model", folder, stdin=content).wait()
        assert said in done.stdout + done.stderr and "Traceback" not in done.stderr
        assert done.returncode == (2 if done.stderr else 0)


def test_a_page_on_this_machine_alone_classifies(finished):
    command = [sys.executable, "-m", "popcorn", "predict", "--serve", "--model", str(finished("nbsvm"))]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        page = Client(address, verbose=False, analytics_enabled=False)
        prediction, why = page.predict(f"{BLAME[0]} film", api_name="/classify")
        assert prediction["label"] == "negative" and why[0]["token"].strip() == BLAME[0] and why[0]["class_or_confidence"] == -1
        with pytest.raises(AppError, match="the review is empty"):
            page.predict(" ", api_name="/classify")
    finally:
        process.terminate()
        process.wait()


def test_files_are_read_as_what_they_are(competition, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("one review\n\n  another \n")
    assert predict.read_texts(lines) == (["1", "3"], ["one review", "another"])
    ids, texts = predict.read_texts(competition / "testData.tsv")
    assert len(ids) == len(texts) == 100 and "\\" not in texts[0]


def test_what_is_no_text_is_refused(tmp_path):
    for name, content, said in (
        ("empty.txt", b"\n \n", "is empty"),
        ("image.txt", b"GIF89a\x00\x01", "is an image"),
        ("zero.txt", b"good\0", "is binary"),
        ("latin.txt", b"good\nna\xefve\n", r"row 2: this is not text in UTF-8"),
        ("other.csv", b"text\nhello\n", "one of them must be review"),
        ("none.csv", b"review\n", "has no rows"),
        ("comma.csv", b"review\nsuperb, truly\ndull, sadly\n", "row 2: there are more fields than columns"),
        ("none.TSV", b"id\treview\n", "has no rows"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            predict.read_texts(tmp_path / name)
    with pytest.raises(UserError, match=r"there is no file .*missing\.txt"):
        predict.read_texts(tmp_path / "missing.txt")
    done = run("-m", "popcorn", "predict", "--model", "nothing", "text", "--output-dir", tmp_path, code=2)
    assert "run its script first" in done.stderr
    some = tmp_path / "other.csv"
    for given, said in (
        (("good", "--file", some), "give one of them"),
        (("good", "--serve"), "give one of them"),
        (("good", "--output", tmp_path / "out.csv"), "give --file too"),
        (("--file", some, "--output", some), "would be lost"),
    ):
        assert said in run("-m", "popcorn", "predict", *given, code=2).stderr


def test_pieces_of_a_word_are_shown_as_the_word(checkpoints):
    """As it was written, with the weights of its pieces in one; of a long review those words alone that are read."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    assert words_of("An UNWATCHABLE mess!", tokenizer, 64) == [("An", 1), ("UNWATCHABLE", 3), ("mess", 1), ("!", 1)]
    assert words_of("one two three four five six seven eight", tokenizer, 6) == [
        (word, 1) for word in "one six seven eight".split()
    ]


PARTS = {"lstm": 3, "nbsvm": 2, "paragraph_vectors": 4, "bert_native": 4, "bert_scratch": 4}


@pytest.mark.parametrize("script", PARTS)
def test_a_model_that_lacks_a_part_is_refused(script, finished, tmp_path):
    """Each file that it was written with, one after the other; and a script that is none of ours is never imported."""
    whole = finished(script)
    inner = whole / {"bert_native": "encoder", "bert_scratch": "refit/model"}.get(script, "none")
    wanted = [path for path in whole.rglob("*") if path.name in (saved.METADATA, saved.VOCABULARY, saved.ARRAYS, saved.WEIGHTS)]
    wanted += [path for path in inner.glob("*") if path.name in ("config.json", "model.safetensors", "tokenizer.json")]
    assert len(wanted) == PARTS[script]
    for path in wanted:
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(UserError, match=re.escape(path.name)):
            load.load(whole)
        for length in (len(content) // 2, 0):
            path.write_bytes(content[:length])
            with pytest.raises(UserError, match="cannot be read"):
                load.load(whole)
        path.write_bytes(content)
    about = whole / saved.METADATA
    before = about.read_text()
    for wrong, said in ((before.replace(f'"{script}"', '"os"'), "names the script 'os'"), ("{", "cannot be read")):
        about.write_text(wrong)
        with pytest.raises(UserError, match=said):
            load.load(whole)
    about.write_text(before)
    assert (ROOT / f"{script}.py").is_file()
