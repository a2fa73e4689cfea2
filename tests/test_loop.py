"""The training loop, in this process, on small reviews as ids of words."""

import json
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import nn

import bert_native
import distilbert_native
import lm_lstm
from lstm import LSTM, Config
from popcorn.data.batching import EncodedReviews
from popcorn.data.splits import Split
from popcorn.errors import TrainingDivergedError, UserError
from popcorn.training import loop
from popcorn.training.fit_result import FitResult
from popcorn.training.session import Session
from popcorn.training.word_model import WordModelTask

WORDS, REVIEWS = 30, 120
VALIDATED = Split("validated", np.arange(100), np.arange(100, 120))


@dataclass
class LoopConfig(Config):
    """With the options that the scripts' own loops read."""

    micro_batch_size: int | None = None
    scl: float = 0.0
    rdrop_alpha: float = 0.0
    has_second_pass: bool = False


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
def session_of(reviews, tmp_path):
    def build(change=lambda model: model, deadline=float("inf"), folder="fit", split=VALIDATED, speed=0.0, **options):
        options = {
            "hidden": 8, "epochs": 3, "batch_size": 16, "learning_rate": 0.02, "checkpoint_every": 2, "name": "test",
            "embedding_lr_scale": 1.0,
        } | options  # fmt: skip
        task = WordModelTask(lambda config, vectors: change(LSTM(config, vectors)), LoopConfig(**options))
        task.train, labels = reviews
        task.test = task.train
        task.vectors = torch.randn(WORDS, 12, generator=torch.Generator().manual_seed(3))
        (tmp_path / folder).mkdir(exist_ok=True)
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
        return Session(task, split, labels, accelerator, tmp_path / folder, deadline, speed)

    return build


def train(session: Session) -> FitResult:
    loop.train(session)
    return session.finish()


def test_it_learns_and_keeps_the_best_epoch(session_of):
    session = session_of(epochs=6, patience=6)
    result = train(session)
    areas = [epoch["validation_auc"] for epoch in result.history]
    assert result.complete and len(areas) == 6
    assert result.epoch == int(np.argmax(areas)) + 1
    assert roc_auc_score(session.labels[100:], result.validation) == pytest.approx(max(areas))
    assert ((result.validation > 0.5) == session.labels[100:]).mean() > 0.85


def test_the_loops_of_the_scripts_train_as_the_shared_one(session_of):
    """Some copies have R-Drop, the contrastive loss or the mixed objective, off here; gradients are clipped and accumulated."""
    loops = {
        "shared": loop.train, "bert": bert_native.train, "distilbert": distilbert_native.train, "lm_lstm": lm_lstm.train,
    }  # fmt: skip
    histories, predictions = {}, {}
    for name, train_loop in loops.items():
        session = session_of(folder=name, micro_batch_size=6, max_grad_norm=0.05)
        train_loop(session)
        result = session.finish()
        histories[name] = [entry | {"reviews_per_second": None} for entry in result.history]
        predictions[name] = result.test
    assert len(histories["shared"]) == 3 and {"loss", "accuracy", "validation_auc"} <= histories["shared"][0].keys()
    assert all(history == histories["shared"] for history in histories.values())
    assert all(np.array_equal(each, predictions["shared"]) for each in predictions.values())


def test_patience_ends_it_early(session_of):
    session = session_of(epochs=20, patience=1, learning_rate=1e-9)  # no epoch is better than the first
    assert len(train(session).history) == 2


def test_the_learning_rate_rises_and_falls(session_of):
    session = session_of(epochs=2, warmup_ratio=0.5)
    rates, step = [], session.scheduler.step
    session.scheduler.step = lambda: (rates.append(session.optimizer.param_groups[0]["lr"]), step())
    train(session)
    steps = 2 * 7
    assert len(rates) == steps and abs(rates.index(max(rates)) - steps // 2) <= 1
    assert 0.018 < max(rates) <= 0.02 and rates[-1] < 0.2 * max(rates)
    assert np.allclose(np.diff(rates[: steps // 2]), np.diff(rates)[0])


class NoMemory(nn.Module):
    """Raises what torch raises without memory, in training and for batches of more than `room` reviews."""

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


def test_without_memory_the_same_gradient_comes_from_smaller_pieces(session_of, capsys):
    without_dropout = {"dropout": 0.0, "word_dropout": 0.0}
    plenty = train(session_of(folder="plenty", **without_dropout))
    scarce = session_of(lambda model: NoMemory(model, 5), folder="scarce", **without_dropout)
    result = train(scarce)
    assert scarce.micro_batch_size == 4 and "micro-batches of 4" in capsys.readouterr().out
    assert np.allclose(plenty.test, result.test, atol=1e-4)
    with pytest.raises(UserError, match="memory does not suffice"):
        train(session_of(lambda model: NoMemory(model, 0), folder="none"))


class Poisoned(nn.Module):
    """Turns to NaN after N training batches."""

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


def test_a_loss_that_is_no_number_stops_and_keeps_the_good_weights(session_of):
    session = session_of(lambda model: Poisoned(model, 9))
    with pytest.raises(TrainingDivergedError, match="epoch 2, step 3"):
        train(session)
    assert all(weights.isfinite().all() for weights in load_file(session.fit_dir / "best.safetensors").values())
    (checkpoint,) = session.fit_dir.glob("step-*")
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
def test_time_runs_out_and_the_fit_goes_on_later(session_of, change):
    whole = train(session_of(folder="whole"))
    first = session_of(change, folder="parts")
    steps, end_step = 0, first.end_step

    def count():
        nonlocal steps
        steps += 1
        if steps == 10:
            first.deadline = time.monotonic()
        end_step()

    first.end_step = count
    result = train(first)
    assert not result.complete and steps == 10 and len(result.test) == REVIEWS and len(result.history) == 1
    again = train(session_of(change, folder="parts"))
    assert again.complete and np.array_equal(again.test, whole.test) and np.array_equal(again.validation, whole.validation)
    assert [epoch["loss"] for epoch in again.history] == [epoch["loss"] for epoch in whole.history]


def test_a_later_fit_plans_with_the_speed_of_the_one_before(session_of):
    """To predict 140 reviews at one a second takes longer than the fifty seconds that are left."""
    late = session_of(folder="late", deadline=time.monotonic() + 50, speed=1.0)
    assert not train(late).complete and late.steps_taken == 0
    assert train(session_of(folder="unknown", deadline=time.monotonic() + 50)).complete


def test_a_refit_takes_the_last_of_a_known_number_of_epochs(session_of):
    refit = Split("refit", np.arange(120), np.array([], dtype=int), epochs=2)
    result = train(session_of(split=refit, epochs=5))
    assert result.epoch == 2 and len(result.history) == 2 and len(result.validation) == 0


def test_word_vectors_learn_at_their_own_rate(session_of):
    session = session_of(embedding_lr_scale=0.25)
    embedding, rest = session.optimizer.param_groups
    assert embedding["lr"] == pytest.approx(0.25 * rest["lr"]) and len(embedding["params"]) == 1
    assert len(rest["params"]) + 1 == len(list(session.model.parameters()))


def first_gradient(session: Session, train_loop) -> dict[str, torch.Tensor]:
    """The gradient of the first batch; give no clipping."""
    found = {}

    def step():
        found.update({name: weights.grad.clone() for name, weights in session.model.named_parameters()})
        session.is_out_of_time = True

    session.optimizer.step = step
    train_loop(session)
    return found


class HalfLogits(nn.Module):
    """Halves the logits of the second half of a batch, in place of another dropout."""

    def __init__(self, inner: LSTM):
        super().__init__()
        self.inner = inner

    @property
    def embedding(self) -> nn.Embedding:
        return self.inner.embedding

    def forward(self, tokens, lengths):
        logits = self.inner(tokens, lengths)
        return logits * torch.where(torch.arange(len(logits)) < len(logits) / 2, 1.0, 0.5) if self.training else logits


WHOLE = {"batch_size": 100, "epochs": 1, "dropout": 0.0, "word_dropout": 0.0, "max_grad_norm": 1e9}
"""all training reviews are one batch"""
LOOPS = {"bert": bert_native.train, "distilbert": distilbert_native.train}


def gradient_of(loss: torch.Tensor, model: nn.Module) -> dict[str, torch.Tensor]:
    names, weights = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


@pytest.mark.parametrize("micro_batch_size", [100, 30, 1])
@pytest.mark.parametrize("name", LOOPS)
def test_rdrop_has_the_same_gradient_for_any_micro_batch(name, micro_batch_size, session_of):
    """And counts each review once."""
    options = WHOLE | {"rdrop_alpha": 3.0, "micro_batch_size": micro_batch_size}
    session = session_of(HalfLogits, folder="gradient", **options)
    logits = session.model.inner(*session.train.batch(VALIDATED.train))
    labels = torch.from_numpy(session.labels[VALIDATED.train]).float()
    first, second = (torch.distributions.Bernoulli(logits=each) for each in (logits, logits / 2))
    divergence = torch.distributions.kl_divergence
    papers = -first.log_prob(labels) - second.log_prob(labels)
    papers = papers + 3.0 * (divergence(first, second) + divergence(second, first)) / 2  # Liang et al. 2021, equation 4
    expected = gradient_of(papers.mean() / 2, session.model)
    for weights, gradient in first_gradient(session, LOOPS[name]).items():
        assert torch.allclose(gradient, expected[weights], atol=1e-6), weights
        assert gradient.abs().max() > 1e-4, weights
    counted = session_of(HalfLogits, folder="counted", **options | {"learning_rate": 1e-30})
    LOOPS[name](counted)
    (entry,) = counted.state.history
    assert entry["accuracy"] == pytest.approx(((logits > 0) == (labels > 0.5)).float().mean().item())
    assert entry["loss"] == pytest.approx(papers.mean().item() / 2, abs=1e-6)


@pytest.mark.parametrize("name", LOOPS)
def test_rdrop_takes_two_passes_with_different_dropout(name, session_of):
    """Without dropout they are the same, and so is the gradient without R-Drop."""
    for rate, is_same in ((0.0, True), (0.5, False)):
        plain, rdrop = (
            first_gradient(session_of(folder=f"{rate}-{alpha}", **WHOLE | {"dropout": rate, "rdrop_alpha": alpha}), LOOPS[name])
            for alpha in (0.0, 9.0)
        )
        assert all(torch.allclose(plain[weights], rdrop[weights], atol=1e-6) for weights in plain) == is_same
