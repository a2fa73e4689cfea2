"""--deterministic: the same vectors in every process and folder; without it a sentence says that they differ."""

import json
import os
import subprocess
import sys
from importlib import import_module

import gensim.models
import numpy as np
import pytest
from conftest import ROOT

from popcorn.config import WordVectorConfig
from popcorn.data import word_vectors
from popcorn.data.competition import Competition
from popcorn.data.word_tokenizer import read_corpus
from popcorn.runs import run_dir
from popcorn.runs.results import recipe_of

TRAIN = """
import hashlib, sys
from pathlib import Path
from sklearn.feature_extraction.text import CountVectorizer
import paragraph_vectors
from popcorn.data import word_vectors
from popcorn.data.competition import TRAIN
from popcorn.data.competition import Competition
from popcorn.data.word_tokenizer import read_corpus

competition = Competition(Path(sys.argv[1]), "test")
found = word_vectors.build_vocabulary(competition, read_corpus(competition), None, None, Path(sys.argv[2]), deterministic=True)
print(hashlib.sha256(found.vectors.tobytes()).hexdigest(), "of word2vec")
config = paragraph_vectors.Config(deterministic=True, vector_size=20, epochs=2, min_df=2, ngrams=1)
terms, learner = (step for _, step in paragraph_vectors.build_pipeline(config).steps[:2])
counts = terms.fit_transform(competition.read(TRAIN).texts)
print(hashlib.sha256(learner.fit(counts).vectors_.tobytes()).hexdigest(), "of paragraphs")
"""


def test_two_processes_train_the_same_vectors(competition, tmp_path):
    """Of words and of paragraphs, whatever Python's hashes of strings are."""
    printed = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", TRAIN, str(competition), str(tmp_path / seed)]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.append([line for line in done.stdout.splitlines() if " of " in line and len(line) > 64 and line[:64].isalnum()])
    assert len(printed[0]) == 2 and printed[0] == printed[1]


@pytest.mark.parametrize(("processors", "deterministic", "workers"), [(1, False, 1), (4, False, 4), (4, True, 1), (2, True, 1)])
def test_workers_and_what_is_said_of_them(processors, deterministic, workers, competition, tmp_path, monkeypatch, capsys):
    asked, train = [], gensim.models.Word2Vec

    def watched(sentences, workers, **options):
        asked.append(workers)
        return train(sentences, workers=1, **options | {"epochs": 1})

    monkeypatch.setattr(gensim.models, "Word2Vec", watched)
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    found = Competition(competition, "test")
    for _ in range(2):  # trained, and then found in the folder: another folder would differ in either case
        word_vectors.build_vocabulary(found, read_corpus(found), None, None, tmp_path, deterministic)
        assert ("--deterministic" in capsys.readouterr().out) == (workers > 1)
    assert asked == [workers]


def test_the_two_kinds_of_vectors_are_kept_apart(competition, tmp_path):
    found = Competition(competition, "test")
    for deterministic in (False, True, False, True):
        word_vectors.build_vocabulary(found, read_corpus(found), None, None, tmp_path, deterministic)
    assert len(list(tmp_path.glob("word2vec-*.npz"))) == 2
    paragraphs = import_module("paragraph_vectors")
    steps = [str(paragraphs.build_pipeline(paragraphs.Config(deterministic=each))[:2].get_params()) for each in (False, True)]
    assert steps[0] != steps[1] and "workers" not in steps[0]  # what earlier runs are cached under stays


@pytest.mark.parametrize("script", ["lstm", "cnn", "lm_lstm", "transformer"])
def test_every_model_over_word_vectors_has_the_option(script):
    assert import_module(script).Config().deterministic is False
    assert issubclass(import_module(script).Config, WordVectorConfig)


def test_a_run_from_before_the_option_goes_on(tmp_path):
    config = import_module("lstm").Config(output_dir=tmp_path, name="lstm", resume=True)
    run_dir.start_or_resume(config)
    path = run_dir.folder_of(config) / run_dir.SETTINGS
    begun = json.loads(path.read_text())
    del begun["deterministic"]
    path.write_text(json.dumps(begun))
    assert run_dir.differing_settings(config) == []
    config.deterministic = True
    assert run_dir.differing_settings(config) == ["its deterministic is False where this one's is True"]
    assert "deterministic" not in recipe_of(config)  # other runs of the same recipe stay in its record


def test_with_vectors_of_a_file_nothing_is_said(competition, glove, tmp_path, capsys):
    found = Competition(competition, "test")
    vocabulary = word_vectors.build_vocabulary(found, read_corpus(found), glove, None, tmp_path)
    assert np.isfinite(vocabulary.vectors).all() and "--deterministic" not in capsys.readouterr().out
