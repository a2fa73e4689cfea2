"""Every model learns to classify real reviews, and a copy of it that reads them wrongly does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from conftest import some_fast
from gensim.models import Word2Vec
from test_models import MODELS
from torch import Tensor, nn

from popcorn.data import competition as competition_data
from popcorn.data import fallback
from popcorn.data.batching import EncodedReviews
from popcorn.data.splits import Split
from popcorn.data.word_tokenizer import UNKNOWN, tokenize
from popcorn.training.loop import train
from popcorn.training.session import Session
from popcorn.training.word_model import WordModelTask

READ, TRAIN, VALIDATION = 3_000, 600, 400  # reviews that the word vectors are made from, and of them those for each split
MARGIN = 0.62  # of 400 guesses at random, one run in a million has as many right


@pytest.fixture(scope="module")
def task() -> tuple[EncodedReviews, np.ndarray, Tensor]:
    """Reviews of the fallback data, one half positive and no movie twice; labels; word vectors."""
    table = competition_data.Competition(fallback.folder(), competition_data.FALLBACK).read(competition_data.TRAIN)
    evenly = [np.linspace(0, each.sum() - 1, READ // 2).astype(int) for each in (table.labels == 1, table.labels == 0)]
    rows = np.stack(
        [np.flatnonzero(table.labels == label)[places] for label, places in zip((1, 0), evenly, strict=True)], 1
    ).ravel()
    texts = [tokenize(table.texts[row]) for row in rows]
    vectors = Word2Vec(texts, vector_size=32, window=8, min_count=2, epochs=10, workers=1, seed=1).wv
    matrix = np.concatenate([np.zeros((2, 32), np.float32), 5 * vectors.get_normed_vectors()])
    index = {word: id for id, word in enumerate(vectors.index_to_key, start=2)}
    chosen = slice(0, 3 * (TRAIN + VALIDATION), 3)
    ids = [np.array([index.get(word, UNKNOWN) for word in text], dtype=np.int32) for text in texts[chosen]]
    return EncodedReviews(ids, 100), table.labels[rows][chosen], torch.from_numpy(matrix)


class FirstWordOnly(nn.Module):
    """The model, broken: it receives the first word alone, as where a review is summed up at a place that has read nothing."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    @property
    def embedding(self) -> nn.Module:
        return self.inner.embedding

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return self.inner(tokens[:, :1], torch.ones_like(lengths))


@pytest.mark.parametrize("name", some_fast(["lstm", "cnn"], MODELS))
def test_it_learns_what_a_broken_copy_does_not(name, task, tmp_path):
    reviews, labels, vectors = task
    model_class, config = MODELS[name]
    small = {"hidden": 32, "num_filters": 32, "d_model": 64, "d_ff": 64}  # the scripts' own sizes would take minutes
    size = {option: value for option, value in small.items() if hasattr(config, option)}
    config = replace(
        type(config)(**size), epochs=5, patience=5, batch_size=20, learning_rate=4e-3, embedding_lr_scale=1.0, name=name
    )
    split = Split("validated", np.arange(TRAIN), np.arange(TRAIN, TRAIN + VALIDATION))
    accuracy = []
    for change in (lambda model: model, FirstWordOnly):
        model_task = WordModelTask(lambda config, vectors, change=change: change(model_class(config, vectors)), config)
        model_task.train, model_task.test, model_task.vectors = reviews, reviews, vectors
        folder = tmp_path / str(len(accuracy))
        folder.mkdir()
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
        session = Session(model_task, split, labels, accelerator, folder, float("inf"))
        train(session)
        accuracy.append(session.finish().history[-1]["validation_accuracy"])
    assert accuracy[0] > MARGIN > accuracy[1]
