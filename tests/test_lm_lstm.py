"""The language model of lm_lstm.py, and how the classifier comes to its encoder."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lm_lstm
from lm_lstm import LMLSTM, Config, Encoder, LanguageModel
from popcorn.data.batching import EncodedReviews
from popcorn.data.competition import Competition
from popcorn.data.word_tokenizer import PAD
from popcorn.errors import UserError
from popcorn.training.review_trainer import IGNORE_INDEX, ReviewTrainer
from popcorn.training.word_lm import WEIGHTS, LanguageModelTask, WordLanguageModel, collate

WORDS, WIDTH = 12, 6
TOKENS = torch.tensor([[3, 5, 7, 2, 9], [4, 6, 8, PAD, PAD], [5, PAD, PAD, PAD, PAD]])
LENGTHS = torch.tensor([5, 3, 1])


@pytest.fixture(autouse=True)
def clusters(monkeypatch):
    """Three of them, as with a whole vocabulary, and none of a word alone."""
    monkeypatch.setattr(lm_lstm, "CUTOFFS", (4, 8))


@pytest.fixture
def language_model():
    torch.manual_seed(0)
    counts = torch.tensor([0, 1, 9, 8, 7, 6, 5, 4, 3, 2, 30, 20])
    return LanguageModel(Config(hidden=4), torch.randn(WORDS, WIDTH), counts).eval()


def test_every_word_is_predicted_but_those_without_a_neighbor(language_model):
    """4 + 2 + 0 words have one before them, as many one behind; padding and what stands there are no targets."""
    with torch.no_grad():
        found = language_model(TOKENS, LENGTHS)
        noise = language_model(torch.where(TOKENS == PAD, 10, TOKENS), LENGTHS)
        alone = language_model(TOKENS[1:2, :3], LENGTHS[1:2])
    assert found.shape == (12,) and (found < 0).all() and torch.equal(found, noise)
    assert torch.allclose(found[[4, 5, 10, 11]], alone, atol=1e-6)
    batch = collate([{"input_ids": row[:length].tolist()} for row, length in zip(TOKENS, LENGTHS, strict=True)])
    assert torch.equal(batch["tokens"], TOKENS) and torch.equal(batch["lengths"], LENGTHS)
    assert (batch["labels"] != IGNORE_INDEX).sum() == 6


def test_no_direction_sees_what_it_predicts(language_model):
    """Another word in the middle of five: forwards its own answer and those behind it change, backwards those before it."""
    changed = TOKENS[:1].clone()
    changed[0, 2] = 8
    with torch.no_grad():
        before, after = (language_model(tokens, LENGTHS[:1]) for tokens in (TOKENS[:1], changed))
    same = torch.isclose(before, after, atol=1e-7)
    #                   forwards: words 1 to 4         backwards: words 0 to 3
    assert same.tolist() == [True, False, False, False, False, False, False, True]


def test_the_probabilities_of_all_words_are_one(language_model):
    """In each direction; and the cheap ones of the softmax are the frequent ones, of equal ones the first."""
    two = torch.tensor([2])
    with torch.no_grad():
        behind = [language_model(torch.tensor([[3, word]]), two)[0].exp().item() for word in range(WORDS)]
        before = [language_model(torch.tensor([[word, 3]]), two)[1].exp().item() for word in range(WORDS)]
    assert sum(behind) == pytest.approx(1, abs=1e-5) and sum(before) == pytest.approx(1, abs=1e-5)
    assert language_model.frequency_rank[[10, 11, 2, 0]].tolist() == [0, 1, 2, 11]
    equal = LanguageModel(Config(hidden=4), torch.randn(50_000, 2), torch.ones(50_000))
    assert torch.equal(equal.frequency_rank, torch.arange(50_000))


def test_log_probabilities_are_in_fp32_with_bf16(language_model):
    """In all clusters of the softmax: only its products are in bf16."""
    with torch.no_grad():
        exact = language_model(TOKENS, LENGTHS)
        with torch.autocast("cpu", torch.bfloat16):
            found = language_model(TOKENS, LENGTHS)
    assert found.dtype == torch.float32 and not torch.equal(found, exact) and torch.allclose(found, exact, atol=0.02)


VECTORS = torch.randn(WORDS, WIDTH, generator=torch.Generator().manual_seed(0))


def task(config: Config, **provenance) -> LanguageModelTask:
    """Reviews that count from their first word, so that every other word is known from its neighbor; the test is of one word."""
    starts = np.random.default_rng(0).integers(2, WORDS, 96)
    texts = [(np.arange(start, start + 8) - 2) % (WORDS - 2) + 2 for start in starts]
    made = LanguageModelTask(LMLSTM, LanguageModel, config)
    made.competition, made.vectors, made.provenance = Competition(Path("nowhere"), "test"), VECTORS, provenance
    made.train = EncodedReviews([text.astype(np.int32) for text in texts], 50)
    made.test = EncodedReviews([np.full(8, WORDS - 1, np.int32)] * 96, 50)
    made.language_model = WordLanguageModel(LanguageModel, made)
    return made


def config_of(folder: Path, **options) -> Config:
    options = {
        "pretrain_epochs": 6, "pretrain_learning_rate": 0.03, "pretrain_batch_size": 16, "precision": "fp32",
        "checkpoint_every": 2, "hidden": 16, "word_dropout": 0.0, "dropout": 0.0, "batch_size": 16,
    } | options  # fmt: skip
    return Config(output_dir=folder, **options)


def first_of(folder: Path, **options) -> WordLanguageModel:
    return task(config_of(folder, **options)).language_model


def test_it_learns_what_follows_and_what_goes_before(tmp_path):
    """Ten words in a ring: at first each is as likely as any."""
    trainer = first_of(tmp_path, pretrain_epochs=9)._train(16, tmp_path / "own", float("inf"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] > 1.5 and losses[-1] < 0.3


def test_it_is_trained_once_and_the_classifier_begins_with_its_encoder(tmp_path, capsys):
    its = task(config_of(tmp_path))
    first = its.language_model
    its.pretrain(float("inf"))
    kept = load_file(first.folder / WEIGHTS)
    assert kept.keys() == Encoder(config_of(tmp_path), torch.zeros(WORDS, WIDTH)).state_dict().keys()
    model, bare = its.build_model(), LMLSTM(its.config, VECTORS)
    assert all(torch.equal(kept[name], weights) for name, weights in model.encoder.state_dict().items())
    assert not torch.equal(bare.encoder.lstm.forward_rnn.weight_hh_l0, model.encoder.lstm.forward_rnn.weight_hh_l0)
    assert "Training a language model on 96 reviews" in capsys.readouterr().out
    task(config_of(tmp_path)).pretrain(0.0)  # there is no time for a second one
    assert "Reusing the language model" in capsys.readouterr().out
    differing = {
        "seed": 2,
        "max_length": 6,
        "hidden": 8,
        "pretrain_dropout": 0.1,
        "pretrain_batch_size": 8,
        "pretrain_learning_rate": 0.1,
        "max_train_samples": 50,
    }
    others = {first_of(tmp_path, **{name: value}).folder for name, value in differing.items()}
    others |= {task(config_of(tmp_path), vectors="other ones").language_model.folder, first.folder}
    assert len(others) == 9
    of_the_classifier = {"dropout": 0.1, "word_dropout": 0.1, "batch_size": 8, "learning_rate": 0.1, "epochs": 1}
    assert {first_of(tmp_path, **{name: value}).folder for name, value in of_the_classifier.items()} == {first.folder}
    losses = [entry["loss"] for entry in json.loads((first.folder / "log.json").read_text())["log"] if "loss" in entry]
    assert len(losses) >= 6
    assert first.dataset.reviews is its.train
    (first.folder / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(UserError, match=r"is damaged.*remove the folder"):
        its.build_model()


@pytest.mark.parametrize("limit", [None, 20])
def test_the_classifier_starts_with_standardized_states_and_zero_weights(tmp_path, limit):
    """Dropout has no part in the statistics, nor has a review beyond `--max-train-samples`."""
    its = task(config_of(tmp_path, pretrain_epochs=1, dropout=0.5, word_dropout=0.5, max_train_samples=limit))
    its.pretrain(float("inf"))
    model, again, reviews = its.build_model(), its.build_model(), its.train.batch(np.arange(limit or len(its.train)))
    assert model.state_dict().keys() == LMLSTM(its.config, VECTORS).state_dict().keys()
    assert torch.equal(model.mean, again.mean) and torch.equal(model.std, again.std)
    with torch.no_grad():
        pooled = (model.eval().pool(*reviews) - model.mean) / model.std
        logits = model(*reviews)
    assert torch.allclose(pooled.mean(0), torch.zeros(64), atol=1e-4) and torch.allclose(pooled.std(0), torch.ones(64), atol=1e-3)
    assert torch.equal(logits, model.classifier.bias.detach().expand(len(logits)))


def test_a_state_that_never_varies_gives_no_infinite_logit():
    model = LMLSTM(Config(hidden=4), torch.zeros(WORDS, WIDTH))
    model.initialize_classifier(TOKENS[:1].expand(3, -1), LENGTHS[:1].expand(3))
    assert model(TOKENS, LENGTHS).isfinite().all() and (model.std > 0).all()


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    steps, step = [], ReviewTrainer.training_step
    monkeypatch.setattr(ReviewTrainer, "training_step", lambda *given, **named: (steps.append(1), step(*given, **named))[1])
    whole, cut = (first_of(tmp_path / name, pretrain_dropout=0.2) for name in ("whole", "cut"))
    whole.train(float("inf"))
    with pytest.raises(UserError, match="the time budget ended in the training of the language model, after 1 of 36 steps"):
        cut.train(time.monotonic())
    assert not cut.folder.exists()
    (cut.folder.with_name(cut.folder.name + ".training") / "model").mkdir()  # as a kill leaves it that comes while it is written
    cut.train(float("inf"))
    one, other = (load_file(each.folder / WEIGHTS) for each in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(steps) == 36 + 1 + 35
