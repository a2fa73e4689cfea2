"""The mixed objective of lm_lstm.py: perturbations, the parts of the loss, and training with unlabeled reviews."""

import json
import time
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from conftest import run_here
from test_loop import first_gradient
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

import lm_lstm
from lm_lstm import LMLSTM, Config, LanguageModel
from popcorn.data.batching import EncodedReviews
from popcorn.data.competition import TEST, find_competition
from popcorn.data.splits import Split
from popcorn.data.word_tokenizer import PAD
from popcorn.errors import UserError
from popcorn.inference.load import load
from popcorn.models.layers import mask_of
from popcorn.training import adversarial
from popcorn.training.adversarial import adversarial_passes, cross_entropy, entropy, kl_divergence, standard_deviation
from popcorn.training.pseudo_labels import add_unlabeled
from popcorn.training.session import Session
from popcorn.training.word_lm import LanguageModelTask
from popcorn.training.word_model import WordModelTask
from popcorn.utils import hardware

WORDS, WIDTH, NAN = 12, 6, float("nan")
TOKENS = torch.tensor([[3, 5, 7, 2, 9], [4, 6, 8, PAD, PAD], [5, PAD, PAD, PAD, PAD], [2, 3, 4, 5, PAD]])
LENGTHS = torch.tensor([5, 3, 1, 4])
UNLABELED = torch.full((4,), NAN)
FREQUENCY = torch.arange(WORDS, dtype=torch.float64) / sum(range(WORDS))


class Recorded(LMLSTM):
    """Keeps the perturbations that it is given."""

    def forward(self, tokens: Tensor, lengths: Tensor, perturbation: Tensor | float = 0.0) -> Tensor:
        self.perturbations = [*getattr(self, "perturbations", []), perturbation]
        return super().forward(tokens, lengths, perturbation)


@pytest.fixture
def model(monkeypatch):
    """In float64, without dropout, with logits as far apart as a trained model's."""

    def masked_mean(states, lengths):  # the layer's own sum is in float32
        return (states * mask_of(lengths, states.shape[1]).unsqueeze(-1)).sum(1) / lengths.unsqueeze(1)

    monkeypatch.setattr(lm_lstm, "masked_mean", masked_mean)
    torch.manual_seed(0)
    vectors = torch.randn(WORDS, WIDTH) * torch.linspace(0.5, 2, WIDTH)
    model = Recorded(Config(hidden=4, word_dropout=0, dropout=0), vectors).double()
    with torch.no_grad():
        model.classifier.weight *= 4
    return model


def passes(model, labels=UNLABELED, tokens=TOKENS, lengths=LENGTHS, epsilon=1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, perturbed logits, and the perturbation."""
    frequency = FREQUENCY.to(model.embedding.weight)
    logits, perturbed = adversarial_passes(model, (tokens, lengths), labels, frequency, epsilon)
    return logits, perturbed, model.perturbations[-1].detach()


def deviation_of(model) -> Tensor:
    return standard_deviation(model.embedding.weight, FREQUENCY.to(model.embedding.weight))


def test_the_deviation_is_that_of_all_words_of_a_text():
    words = [1] + [2] * 3 + [4] * 2
    vectors = torch.randn(5, 3, dtype=torch.float64)
    frequency = torch.tensor(np.bincount(words, minlength=5) / len(words))
    assert torch.allclose(standard_deviation(vectors, frequency), vectors[words].std(0, correction=0))


def test_a_perturbation_has_its_norm_over_the_words_of_its_own_review(model):
    _, _, perturbation = passes(model, epsilon=0.7)
    units = perturbation / deviation_of(model)
    assert torch.allclose(units.flatten(1).norm(dim=1), torch.full((4,), 0.7).double())
    is_word = mask_of(LENGTHS, 5)
    assert not perturbation[~is_word].any() and (perturbation[is_word].abs().sum(1) > 0).all()


@pytest.mark.skipif(hardware.mixed_precision("auto") != "bf16", reason="this processor has no bf16")
def test_in_bf16_it_is_zero_at_the_padding_too(model):
    model.float().forward = torch.autocast("cpu", torch.bfloat16)(model.forward)  # as Accelerate does
    _, _, perturbation = passes(model)
    assert not perturbation[~mask_of(LENGTHS, 5)].any()
    norms = (perturbation / deviation_of(model)).flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.ones(4), atol=1e-4)


def test_padding_and_company_do_not_change_it(model):
    _, perturbed, perturbation = passes(model)
    _, noisy, noise = passes(model, tokens=torch.where(TOKENS == PAD, 10, TOKENS))
    _, wider, wide = passes(model, tokens=pad(TOKENS, (0, 3), value=PAD))
    assert torch.allclose(noisy, perturbed) and torch.allclose(noise, perturbation)
    assert torch.allclose(wider, perturbed) and torch.allclose(wide[:, :5], perturbation) and not wide[:, 5:].any()
    for row, length in enumerate(LENGTHS.tolist()):
        _, alone, single = passes(model, UNLABELED[:1], TOKENS[row : row + 1, :length], LENGTHS[row : row + 1])
        assert torch.allclose(alone[0], perturbed[row]) and torch.allclose(single[0], perturbation[row, :length])


def test_the_direction_is_that_of_power_iteration(model):
    """Miyato et al. 2017, equation 7: one step from any small d, up to the sign."""
    logits, _, perturbation = passes(model)
    scale = deviation_of(model)
    for seed in range(3):
        d = 1e-5 * torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        d.requires_grad_()
        (gradient,) = torch.autograd.grad(kl_divergence(logits, model(TOKENS, LENGTHS, scale * d)), d)
        found = normalize((perturbation / scale).flatten(1))
        assert torch.allclose((normalize(gradient.flatten(1)) * found).sum(1).abs(), torch.ones(4).double(), atol=1e-4)


def each_kl(logits: Tensor, perturbed: Tensor) -> Tensor:
    return torch.stack([kl_divergence(*pair) for pair in zip(logits, perturbed, strict=True)])


def test_no_random_direction_raises_the_divergence_more(model):
    logits, perturbed, _ = passes(model)
    found, scale = each_kl(logits, perturbed), deviation_of(model)
    is_word = mask_of(LENGTHS, 5).unsqueeze(-1)
    with torch.no_grad():
        for _ in range(20):
            other = normalize((torch.randn(4, 5, WIDTH).double() * is_word).flatten(1)).view(4, 5, WIDTH)
            assert (found > each_kl(logits, model(TOKENS, LENGTHS, scale * other))).all()


def test_a_perturbation_is_against_the_label_and_without_one_against_the_prediction(model):
    for labels in (torch.zeros(4), torch.ones(4), torch.tensor([0.2, 0.9, 0.9, 0.2])):
        logits, perturbed, _ = passes(model, labels)
        assert torch.equal(perturbed < logits, labels > 0.5)
    logits, perturbed, _ = passes(model)
    assert torch.equal(perturbed < logits, logits > 0) and 0 < (logits > 0).sum() < 4


def test_the_scale_of_the_word_vectors_does_not_matter(model):
    """Longer vectors, and smaller weights for them: the same model, which a perturbation changes as much as before."""
    before = passes(model)[:2]
    factor = torch.linspace(0.2, 5, WIDTH).double()
    with torch.no_grad():
        model.embedding.weight *= factor
        for rnn in (model.encoder.lstm.forward_rnn, model.encoder.lstm.backward_rnn):
            rnn.weight_ih_l0 /= factor
    for old, new in zip(before, passes(model)[:2], strict=True):
        assert torch.allclose(old, new)


@pytest.mark.parametrize("dropout", ["word_dropout", "dropout"])
def test_both_passes_have_the_same_dropout(dropout):
    torch.manual_seed(0)
    model = LMLSTM(Config(hidden=4, **{"word_dropout": 0, "dropout": 0, dropout: 0.5}), torch.randn(WORDS, WIDTH))
    found = [adversarial_passes(model, (TOKENS, LENGTHS), UNLABELED, FREQUENCY.float(), 1e-6) for _ in range(2)]
    assert all(torch.allclose(logits, perturbed, atol=1e-5) for logits, perturbed in found)
    assert not torch.allclose(found[0][0], found[1][0], atol=1e-3)  # the next two have another


class MeanInHalfPrecision(nn.Module):
    """A mean in float16, as on a GPU, with a gradient that is almost zero."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)

    def forward(self, tokens: Tensor, lengths: Tensor, perturbation: Tensor | float = 0.0) -> Tensor:
        words = (self.embedding(tokens) + perturbation).half()
        return (words * 2.0**-13).float().mean((1, 2)) * 2.0**-10


def test_small_gradients_in_half_precision_have_a_direction():
    torch.manual_seed(0)
    logits, perturbed = adversarial_passes(MeanInHalfPrecision(), (TOKENS, LENGTHS), UNLABELED, FREQUENCY.float(), 1e6)
    assert (logits != perturbed).all()


def test_dropped_words_are_perturbed_too(model):
    """Miyato et al. 2017 add the perturbation after the dropout of the embedding."""
    model.encoder.word_dropout.p = 0.5
    _, _, perturbation = passes(model)
    assert (perturbation[mask_of(LENGTHS, 5)].abs().sum(1) > 0).all()


def numeric_gradient(function, weights: Tensor, step=1e-5) -> Tensor:
    found = torch.zeros_like(weights)
    with torch.no_grad():
        for position in np.ndindex(*weights.shape):
            before = weights[position].item()
            sides = []
            for side in (1, -1):
                weights[position] = before + side * step
                sides.append(function())
            weights[position] = before
            found[position] = (sides[0] - sides[1]) / (2 * step)
    return found


def test_the_gradient_is_that_of_the_divergence_with_prediction_and_perturbation_held(model):
    logits, perturbed, perturbation = passes(model)
    kl_divergence(logits, perturbed).backward()
    held = logits.detach()
    for weights in (model.classifier.weight, model.encoder.lstm.backward_rnn.weight_hh_l0, model.embedding.weight):
        expected = numeric_gradient(lambda: kl_divergence(held, model(TOKENS, LENGTHS, perturbation)).item(), weights)
        expected[PAD] = 0 if weights is model.embedding.weight else expected[PAD]
        assert torch.allclose(weights.grad, expected, atol=1e-8) and expected.abs().max() > 1e-3


def test_divergence_and_entropy_are_those_of_torchs_bernoulli():
    first, second = torch.tensor([-3.0, 0.2, 8.0]).double(), torch.tensor([1.0, -0.3, 7.0]).double()
    p, q = (torch.distributions.Bernoulli(logits=logits) for logits in (first, second))
    assert torch.allclose(kl_divergence(first, second), torch.distributions.kl_divergence(p, q).sum())
    assert torch.allclose(entropy(first), p.entropy().sum())
    assert torch.autograd.gradcheck(entropy, first.requires_grad_())


def test_unlabeled_reviews_are_not_in_the_cross_entropy():
    logits = torch.randn(4, requires_grad=True)
    labels = torch.tensor([1.0, NAN, 0.3, NAN], dtype=torch.float64)
    cross_entropy(logits, labels).backward()
    expected = torch.where(labels.isnan(), 0, logits.sigmoid() - labels)
    assert torch.allclose(logits.grad, expected.detach().float())
    none = cross_entropy(logits, UNLABELED)
    none.backward()
    assert none == 0 and torch.allclose(logits.grad, expected.detach().float())


# --------------------------------------------------------------------------------------------------------------- training

MIXED = {"vat": 1.0, "adversarial": 1.0, "entropy": 1.0, "epsilon": 1.0}
SPLIT = Split("validated", np.arange(40), np.arange(40, 60))
LABELS = np.arange(60) % 2


def made_reviews(seed: int = 0) -> EncodedReviews:
    """60 labeled ones, in which word 5 or 6 tells the label, and 80 unlabeled ones, which depend on the seed."""
    generators = [np.random.default_rng(0)] * 60 + [np.random.default_rng(seed)] * 80
    texts = [generator.integers(2, 30, generator.integers(3, 20)).astype(np.int32) for generator in generators]
    for number, text in enumerate(texts):
        text[:2] = 5 if number % 2 else 6
    return EncodedReviews(texts, 50)


@pytest.fixture
def session_of(tmp_path):
    def build(folder="fit", deadline=float("inf"), unlabeled=80, seed=0, labels=LABELS, **options) -> Session:
        options = {
            "hidden": 8, "epochs": 2, "batch_size": 16, "learning_rate": 0.02, "checkpoint_every": 2, "name": "test",
            "precision": "fp32",
        } | options  # fmt: skip
        task = WordModelTask(LMLSTM, Config(**options))
        task.train = task.test = made_reviews(seed)
        task.vectors = torch.randn(30, 12, generator=torch.Generator().manual_seed(3))
        split, targets = add_unlabeled(SPLIT, labels, np.full(unlabeled, NAN))
        (tmp_path / folder).mkdir(exist_ok=True)
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=True))
        return Session(task, split, targets, accelerator, tmp_path / folder, deadline)

    return build


def train(session: Session):
    lm_lstm.train(session)
    return session.finish()


def first_gradients(session_of, **options) -> dict[str, Tensor]:
    """Without dropout and clipping."""
    return first_gradient(session_of(**{"word_dropout": 0.0, "dropout": 0.0, "max_grad_norm": 1e9} | options), lm_lstm.train)


def test_micro_batches_have_the_gradient_of_their_batch(session_of):
    whole = first_gradients(session_of, **MIXED, batch_size=64)
    session = session_of(folder="pieces", **MIXED, batch_size=64, word_dropout=0.0, dropout=0.0, max_grad_norm=1e9)
    session.micro_batch_size = 5
    pieces = first_gradient(session, lm_lstm.train)
    for name, gradient in whole.items():
        assert torch.allclose(gradient, pieces[name], atol=1e-6), name
        assert gradient.abs().max() > 1e-4


def test_the_gradient_is_the_sum_of_its_terms(session_of):
    """Labeled terms are means of labeled reviews, the others of all reviews: here all are in one batch."""
    everything = {"batch_size": 120}
    session = session_of(folder="reference", word_dropout=0.0, dropout=0.0)
    model, train_rows = session.model.eval(), session.split.train
    (tokens, lengths), labels = session.train.batch(train_rows), torch.from_numpy(session.labels[train_rows])
    frequency = adversarial.word_frequency(session)
    for options in ({"vat": 0.5}, {"adversarial": 0.5}, {"entropy": 0.5}, MIXED):
        weights = {"vat": 0.0, "adversarial": 0.0, "entropy": 0.0} | options
        logits, perturbed = adversarial_passes(model, (tokens, lengths), labels, frequency, 1.0)
        p, y, known = logits.sigmoid(), labels[:40].float(), torch.nn.BCEWithLogitsLoss()
        loss = known(logits[:40], y) + weights["adversarial"] * known(perturbed[:40], y)
        loss = loss + weights["vat"] * (known(perturbed, p.detach()) - known(logits, p).detach())
        loss = loss + weights["entropy"] * known(logits, p)
        expected = torch.autograd.grad(loss, list(model.parameters()))
        found = first_gradients(session_of, folder=str(options), **{"epsilon": 1.0} | weights | everything)
        for gradient, reference in zip(found.values(), expected, strict=True):
            assert torch.allclose(gradient, reference, atol=1e-6)


def test_unlabeled_reviews_take_part_and_their_labels_do_not(session_of):
    """Other unlabeled reviews make another model; NaN does not get into it."""
    first = train(session_of(**MIXED))
    assert np.isfinite(first.test).all() and np.isfinite([entry["loss"] for entry in first.history]).all()
    other = train(session_of(folder="other", seed=1, **MIXED))
    assert np.abs(first.validation - other.validation).max() > 1e-3


@pytest.mark.parametrize(("bias", "accuracy"), [(100, 10 / 40), (-100, 30 / 40)])
def test_training_accuracy_counts_the_labeled_reviews(session_of, bias, accuracy):
    """A model that does not change, and predicts one class for all; an epoch has all 120 reviews."""
    labels = np.repeat([1, 0, 1, 0], [10, 30, 10, 10])
    session = session_of(**MIXED, learning_rate=1e-30, epochs=1, labels=labels)
    with torch.no_grad():
        session.model.classifier.bias += bias
    (entry,) = train(session).history
    assert entry["accuracy"] == accuracy and session.steps_per_epoch == 8


@pytest.mark.parametrize("is_killed", [False, True])
def test_it_learns_and_goes_on_as_if_it_had_not_been_stopped(session_of, is_killed):
    """By the time budget, after step 11, which saves a checkpoint; or by a kill, with that of step 10."""
    whole = train(session_of(folder="whole", **MIXED, epochs=3))
    first = session_of(folder="parts", **MIXED, epochs=3)
    steps, end_step = 0, first.end_step

    def count():
        nonlocal steps
        steps += 1
        if steps == 11:
            first.deadline = time.monotonic()
            if is_killed:
                raise KeyboardInterrupt
        end_step()

    first.end_step = count
    with pytest.raises(KeyboardInterrupt) if is_killed else nullcontext():
        assert not train(first).complete
    (checkpoint,) = first.fit_dir.glob("step-*")
    position = json.loads((checkpoint / "position.json").read_text())
    reviews = 15 * (2 if is_killed else 3)
    assert position["seen"] == reviews and 0 < position["unlabeled"] < reviews
    again = train(session_of(folder="parts", **MIXED, epochs=3))
    assert again.complete and np.array_equal(again.test, whole.test)
    kept = [{name: entry[name] for name in ("loss", "accuracy", "validation_auc")} for entry in again.history]
    assert kept == [{name: entry[name] for name in ("loss", "accuracy", "validation_auc")} for entry in whole.history]
    assert whole.history[-1]["validation_auc"] > 0.9


def test_a_checkpoint_from_before_there_were_unlabeled_reviews_is_resumed(session_of):
    first = session_of(unlabeled=0, labels=LABELS.astype(float))
    first.deadline = time.monotonic()
    assert not train(first).complete
    (checkpoint,) = first.fit_dir.glob("step-*")
    position = json.loads((checkpoint / "position.json").read_text())
    del position["unlabeled"]
    (checkpoint / "position.json").write_text(json.dumps(position))
    assert train(session_of(unlabeled=0, labels=LABELS.astype(float))).complete


def test_without_memory_the_batch_goes_on_in_smaller_pieces(session_of, monkeypatch):
    without_dropout = {"word_dropout": 0.0, "dropout": 0.0}
    plenty = train(session_of(**MIXED, **without_dropout))
    scarce, forward = session_of(folder="scarce", **MIXED, **without_dropout), LMLSTM.forward

    def limited(self, tokens, lengths, perturbation=0.0):
        if self.training and len(tokens) > 5:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return forward(self, tokens, lengths, perturbation)

    monkeypatch.setattr(LMLSTM, "forward", limited)
    assert np.allclose(train(scarce).test, plenty.test, atol=1e-4) and scarce.micro_batch_size == 4


# ------------------------------------------------------------------------------------------------------- options and runs


def test_a_run_with_unlabeled_reviews_has_a_name_of_its_own_and_weights_have_bounds():
    names = {}
    for option in ("vat", "adversarial", "entropy", "epsilon"):
        config = Config(**{option: 0.5})
        config.prepare("lm_lstm")
        names[option] = config.name
        with pytest.raises(UserError, match=f"--{option} is -1"):
            Config(**{option: -1.0})
    assert names == {"vat": "lm_lstm-unlabeled", "adversarial": "lm_lstm", "entropy": "lm_lstm-unlabeled", "epsilon": "lm_lstm"}
    with pytest.raises(UserError, match="--epsilon is 0"):
        Config(epsilon=0.0)
    config = Config(vat=1.0, pseudo_labels="nbsvm")
    config.prepare("lm_lstm")
    assert config.name == "lm_lstm-unlabeled-pseudo-labels"
    assert run_here("lm_lstm.py", "--entropy", "-1", code=2).splitlines()[-1].startswith("error: --entropy is -1.0")


class SoftLabels:
    """A teacher that gives every unlabeled review 0.7."""

    def add(self, split):
        return add_unlabeled(split, LABELS, np.full(80, 0.7))


def test_the_unlabeled_reviews_of_a_task():
    def task(with_unlabeled: bool, **options) -> LanguageModelTask:
        made = LanguageModelTask(LMLSTM, LanguageModel, Config(**options), with_unlabeled)
        made.train, made.labels = made_reviews(), LABELS
        return made

    split, targets = task(True).with_pseudo_labels(SPLIT)
    assert split.train.tolist() == [*range(40), *range(60, 140)] and np.array_equal(split.validation, SPLIT.validation)
    assert np.array_equal(targets[:60], LABELS) and np.isnan(targets[60:]).all() and len(targets) == 140
    split, targets = task(True, max_train_samples=30).with_pseudo_labels(SPLIT)
    assert split.train.tolist() == [*range(40), *range(60, 90)] and len(targets) == 90
    split, targets = task(False).with_pseudo_labels(SPLIT)
    assert split is SPLIT and targets is LABELS
    taught = task(True)
    taught.pseudo_labels = SoftLabels()  # which labels them
    assert np.array_equal(taught.with_pseudo_labels(SPLIT)[1][60:], np.full(80, 0.7))


@pytest.mark.parametrize(
    ("option", "unlabeled", "name"),
    [("vat", 60, "lm_lstm-unlabeled"), ("adversarial", 0, "lm_lstm"), ("entropy", 60, "lm_lstm-unlabeled")],
)
def test_a_whole_run_has_the_unlabeled_reviews_where_they_have_a_loss(
    option, unlabeled, name, competition, glove, tmp_path, monkeypatch
):
    """Begun by the script's own lines. Its model is loaded and predicts what it submitted."""
    sizes, init = [], Session.__init__

    def counted(self, task, split, *more):
        sizes.append(len(split.train))
        init(self, task, split, *more)

    monkeypatch.setattr(Session, "__init__", counted)
    run_here(
        "lm_lstm.py", "--data-dir", competition, "--word-vectors", glove, "--output-dir", tmp_path, "--hidden", 4, "--epochs", 1,
        "--pretrain-epochs", 1, "--no-validation", "--precision", "fp32", f"--{option}", 1,
    )  # fmt: skip
    assert sizes == [400 + unlabeled]
    submitted = pd.read_csv(tmp_path / "submissions" / f"{name}.proba.csv", quoting=3).set_index("id")["sentiment"]
    test = find_competition(competition).read(TEST)
    found = load(tmp_path / "runs" / name / "seed-1").probability(test.texts)
    assert np.allclose(found, submitted[test.ids], atol=2e-6)
