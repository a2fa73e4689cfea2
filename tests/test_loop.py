"""The loop itself, in this process, on the small competition's reviews as ids of words."""

import json
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from sklearn.metrics import roc_auc_score
from torch import nn

from lstm import LSTM, Config
from popcorn.data.batching import EncodedReviews
from popcorn.data.splits import Split
from popcorn.errors import TrainingDivergedError, UserError
from popcorn.training.loop import TrainingLoop
from popcorn.training.word_model import parameter_groups

WORDS, REVIEWS = 30, 120


@pytest.fixture
def reviews():
    """EncodedReviews of 3 to 20 words; the label is whether word 5 stands there more often than word 6."""
    generator = np.random.default_rng(0)
    texts = [generator.integers(2, WORDS, generator.integers(3, 20)).astype(np.int32) for _ in range(REVIEWS)]
    labels = np.arange(REVIEWS) % 2
    for text, label in zip(texts, labels, strict=True):
        text[generator.choice(len(text), 2, replace=False)] = 5 if label else 6
    return EncodedReviews(texts, 50), labels


@pytest.fixture
def fit_of(reviews, tmp_path):
    def build(change=lambda model: model, deadline=float("inf"), folder="fit", validation=range(100, 120), speed=0.0, **options):
        options = {
            "hidden": 8, "epochs": 3, "batch_size": 16, "learning_rate": 0.02, "checkpoint_every": 2, "name": "test",
            "embedding_lr_scale": 1.0,
        } | options  # fmt: skip
        config = Config(**options)
        set_seed(3)
        model = change(LSTM(config, torch.randn(WORDS, 12)))
        (tmp_path / folder).mkdir(exist_ok=True)
        texts, labels = reviews
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
        part = Split("validated", np.arange(100), np.array(validation, dtype=int))
        return TrainingLoop(
            model, parameter_groups(model, config), texts, texts, labels, part, config, accelerator, tmp_path / folder, deadline,
            speed,
        )  # fmt: skip

    return build


def test_it_learns_and_keeps_the_best_epoch(fit_of):
    fit = fit_of(epochs=6, patience=6)
    outcome = fit.run()
    areas = [epoch["validation_auc"] for epoch in outcome.history]
    assert outcome.complete and len(areas) == 6
    assert outcome.epoch == int(np.argmax(areas)) + 1
    assert roc_auc_score(fit.labels[100:], outcome.validation) == pytest.approx(max(areas))
    assert ((outcome.validation > 0.5) == fit.labels[100:]).mean() > 0.85


def test_patience_ends_it_early(fit_of):
    fit = fit_of(epochs=20, patience=1, learning_rate=1e-9)  # no epoch is better than the first
    assert len(fit.run().history) == 2


def test_the_learning_rate_rises_and_falls(fit_of):
    fit = fit_of(epochs=2, warmup_ratio=0.5)
    rates, step = [], fit.schedule.step
    fit.schedule.step = lambda: (rates.append(fit.optimizer.param_groups[0]["lr"]), step())
    fit.run()
    steps = 2 * 7
    assert len(rates) == steps and abs(rates.index(max(rates)) - steps // 2) <= 1
    assert 0.018 < max(rates) <= 0.02 and rates[-1] < 0.2 * max(rates)
    assert np.allclose(np.diff(rates[: steps // 2]), np.diff(rates)[0])


class NoMemory(nn.Module):
    """Raises what torch raises without memory, for batches of more than `room` reviews."""

    def __init__(self, inner: LSTM, room: int):
        super().__init__()
        self.inner, self.room = inner, room

    @property
    def embedding(self) -> nn.Embedding:
        return self.inner.embedding

    def forward(self, tokens, lengths):
        if self.training and len(tokens) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return self.inner(tokens, lengths)


def test_without_memory_the_same_gradient_comes_from_smaller_pieces(fit_of, capsys):
    without_dropout = {"dropout": 0.0, "word_dropout": 0.0}
    plenty = fit_of(folder="plenty", **without_dropout).run()
    scarce = fit_of(lambda model: NoMemory(model, 5), folder="scarce", **without_dropout)
    outcome = scarce.run()
    assert scarce.micro_batch_size == 4 and "micro-batches of 4" in capsys.readouterr().out
    assert np.allclose(plenty.test, outcome.test, atol=1e-4)
    with pytest.raises(UserError, match="memory does not suffice"):
        fit_of(lambda model: NoMemory(model, 0), folder="none").run()


class Poisoned(nn.Module):
    """Turns to NaN after so many training batches."""

    def __init__(self, inner: LSTM, batches: int):
        super().__init__()
        self.inner, self.batches = inner, batches

    @property
    def embedding(self) -> nn.Embedding:
        return self.inner.embedding

    def forward(self, tokens, lengths):
        logit = self.inner(tokens, lengths)
        self.batches -= self.training
        return logit if self.batches >= 0 else logit * float("nan")


def test_a_loss_that_is_no_number_stops_and_keeps_the_good_weights(fit_of):
    fit = fit_of(lambda model: Poisoned(model, 9))
    with pytest.raises(TrainingDivergedError, match="epoch 2, step 3"):
        fit.run()
    from safetensors.torch import load_file

    assert all(weights.isfinite().all() for weights in load_file(fit.folder / "best.safetensors").values())
    (checkpoint,) = fit.folder.glob("step-*")
    assert json.loads((checkpoint / "position.json").read_text())["step"] == 2


def in_one_block(model):
    """Lays the weights of each LSTM side by side in one piece of memory, as cuDNN has them on a GPU."""
    for layer in model.modules():
        if isinstance(layer, nn.LSTM):
            weights = list(layer.parameters())
            pieces = torch.cat([each.detach().flatten() for each in weights]).split([each.numel() for each in weights])
            for each, piece in zip(weights, pieces, strict=True):
                each.data = piece.view_as(each)
    return model


@pytest.mark.parametrize("change", [lambda model: model, in_one_block])
def test_time_runs_out_and_the_fit_goes_on_later(fit_of, change):
    whole = fit_of(folder="whole").run()
    first = fit_of(change, folder="parts")
    steps, step = 0, first._step

    def count(rows):
        nonlocal steps
        steps += 1
        if steps == 10:
            first.deadline = time.monotonic()
        step(rows)

    first._step = count
    outcome = first.run()
    assert not outcome.complete and steps == 10 and len(outcome.test) == REVIEWS and len(outcome.history) == 1
    again = fit_of(change, folder="parts").run()
    assert again.complete and np.array_equal(again.test, whole.test) and np.array_equal(again.validation, whole.validation)
    assert [epoch["loss"] for epoch in again.history] == [epoch["loss"] for epoch in whole.history]


def test_a_later_fit_reckons_with_the_speed_of_the_one_before(fit_of):
    """To predict 140 reviews at one a second takes longer than the fifty seconds that are left."""
    late = fit_of(folder="late", deadline=time.monotonic() + 50, speed=1.0)
    assert not late.run().complete and late.taken == 0
    assert fit_of(folder="unknown", deadline=time.monotonic() + 50).run().complete


def test_a_refit_takes_the_last_of_a_known_number_of_epochs(fit_of):
    fit = fit_of(validation=[], epochs=5)
    fit.part = Split("refit", np.arange(120), np.array([], dtype=int), epochs=2)
    fit.epochs = 2
    outcome = fit.run()
    assert outcome.epoch == 2 and len(outcome.history) == 2 and len(outcome.validation) == 0


def test_word_vectors_learn_at_their_own_rate(fit_of):
    fit = fit_of(embedding_lr_scale=0.25)
    embedding, rest = fit.optimizer.param_groups
    assert embedding["lr"] == pytest.approx(0.25 * rest["lr"]) and len(embedding["params"]) == 1
    assert len(rest["params"]) + 1 == len(list(fit.model.parameters()))
