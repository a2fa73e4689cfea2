"""Document vectors by cosine similarity against their definition, and what they may not depend on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.special import expit

import dv_cosine
from dv_cosine import Config, CosineVectors, NaiveBayesWeights, build_pipeline, infer, loss_of
from nbsvm import LogCountRatio
from popcorn.inference.predictors import Linear
from popcorn.runs.run import run
from popcorn.training.sklearn_pipeline import SklearnTrainer, TextTask

TOPICS, TERMS, WIDTH = 4, 60, 8


@pytest.fixture(scope="module")
def features():
    """400 reviews, each of 12 of its topic's 15 terms and 3 of any: (reviews, terms) of 0 and 1."""
    generator = np.random.default_rng(0)
    rows = np.zeros((400, TERMS), np.float32)
    for number, row in enumerate(rows):
        row[generator.choice(15, 12, replace=False) * TOPICS + number % TOPICS] = 1
        row[generator.choice(TERMS, 3)] = 1
    return csr_matrix(rows)


def fitted(features, **options):
    recipe = {
        "vector_size": WIDTH, "epochs": 8, "batch_size": 16, "learning_rate": 0.1, "scale": 6.0, "negative": 5.0, "sample": 0.0,
        "seed": 1,
    }  # fmt: skip
    return CosineVectors(**recipe | options).fit(features)


@pytest.fixture(scope="module")
def vectors(features):
    return fitted(features[:200])


def review_vectors(vectors, features):
    return vectors.transform(features)[:, :WIDTH].toarray()


def test_reviews_of_one_topic_lie_together(features, vectors):
    seen, unseen = np.split(review_vectors(vectors, features), 2)
    nearest = (unseen @ seen.T).argmax(1)
    assert np.mean(nearest % TOPICS == np.arange(200) % TOPICS) > 0.95


def test_the_loss_is_that_of_the_paper():
    generator = np.random.default_rng(0)
    reviews, terms = generator.normal(size=(3, 5)), generator.normal(size=(4, 5))
    counts, negatives = generator.random((3, 4)), generator.random((3, 4))
    cosine = (reviews @ terms.T) / np.linalg.norm(reviews, axis=1)[:, None] / np.linalg.norm(terms, axis=1)
    expected = -(counts * np.log(expit(6 * cosine)) + negatives * np.log(expit(-6 * cosine))).sum()
    unit = torch.nn.functional.normalize(torch.tensor(terms))
    found = loss_of(torch.tensor(reviews), unit, torch.tensor(counts), torch.tensor(negatives), 6.0)
    assert found.item() == pytest.approx(expected)


def test_inference_lowers_the_loss_towards_the_best(features, vectors):
    """From the sum of the terms at least a third of the way to what a thousand small steps reach."""
    terms = torch.from_numpy(vectors.vectors_).float()
    counts = torch.from_numpy(features[200:216].toarray())
    negatives = 5 * counts.sum(1, keepdim=True) * torch.full((1, TERMS), 1 / TERMS)
    found = infer(terms, counts, negatives, 6.0)
    assert torch.allclose(found.norm(dim=1), torch.ones(16))
    best = found.clone().requires_grad_()
    optimizer = torch.optim.Adam([best], 0.02)
    for _ in range(1_000):
        optimizer.zero_grad()
        loss_of(best, terms, counts, negatives, 6.0).backward()
        optimizer.step()
    start = torch.nn.functional.normalize(counts @ terms)
    losses = [loss_of(each, terms, counts, negatives, 6.0).item() for each in (start, found, best)]
    assert losses[0] > losses[1] > losses[2] and losses[0] - losses[1] > (losses[0] - losses[2]) / 3


def test_a_vector_depends_on_its_own_review_alone(features, vectors):
    """Not on the others in its batch; a review without a known term has zeros."""
    rows = features.toarray()
    rows[5] = 0
    together = review_vectors(vectors, csr_matrix(rows))
    assert np.allclose(together[7:8], review_vectors(vectors, features[7]), atol=1e-5)
    assert not together[5].any() and np.allclose(np.linalg.norm(together[6]), 1)


def test_the_same_seed_gives_the_same_vectors(features, vectors):
    assert np.array_equal(fitted(features[:200]).vectors_, vectors.vectors_)
    assert not np.array_equal(fitted(features[:200], seed=2).vectors_, vectors.vectors_)


def test_frequent_terms_count_less(features):
    counts, terms = fitted(features, epochs=1, sample=0.001)._batch_terms(features[:3])
    share = np.asarray(features.sum(0)).ravel() / features.sum()
    kept = np.minimum(1, np.sqrt(0.001 / share) + 0.001 / share)
    assert np.allclose(counts.numpy(), (features[:3].toarray() * kept)[:, terms]) and kept.min() < 1


def test_terms_have_the_ratios_of_the_nbsvm_and_the_vector_its_weight(features, vectors):
    labels = np.arange(400) % 2
    both = vectors.transform(features)
    weighted = NaiveBayesWeights(WIDTH, 3.0, 1.0).fit(both, labels).transform(both)
    assert np.allclose(weighted[:, :WIDTH].toarray(), 3 * both[:, :WIDTH].toarray())
    assert np.allclose(weighted[:, WIDTH:].toarray(), LogCountRatio(1.0).fit(features, labels).transform(features).toarray())


def test_words_are_shown_by_what_their_absence_changes():
    good, bad = "good film and plot", "bad film and plot"
    config = Config(ngrams=1, min_df=1, vector_size=4, epochs=2, sample=0)
    pipeline = build_pipeline(config).fit([good, bad] * 20, np.array([1, 0] * 20))
    shown = dict(Linear(pipeline[:2], [pipeline[2:]]).explain("good film"))
    log_odds = {text: pipeline.decision_function([text])[0] for text in ("good film", "film", "good")}
    assert shown["good"] == pytest.approx(log_odds["good film"] - log_odds["film"], abs=1e-4) and shown["good"] > 0
    assert shown["film"] == pytest.approx(log_odds["good film"] - log_odds["good"], abs=1e-4)


def test_a_changed_script_trains_its_vectors_anew(competition, tmp_path, monkeypatch):
    """Not an unchanged one; otherwise its user would see the results of the code before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls, fit = [], CosineVectors.fit
    monkeypatch.setattr(CosineVectors, "fit", lambda self, rows, labels=None: (calls.append(1), fit(self, rows))[1])
    changed = tmp_path / "dv_cosine.py"
    changed.write_text(Path(dv_cosine.__file__).read_text().replace("STEPS, RATE = 5, 0.1", "STEPS, RATE = 9, 0.1"))
    for number, file in enumerate((dv_cosine.__file__, dv_cosine.__file__, str(changed))):
        monkeypatch.setattr(dv_cosine, "__file__", file)
        config = Config(
            data_dir=competition, output_dir=tmp_path, name=f"it{number}", ngrams=1, vector_size=8, epochs=1, no_validation=True
        )
        run(TextTask(build_pipeline, config, unsupervised=2), SklearnTrainer())
    assert len(calls) == 2


@pytest.mark.parametrize("transductive", [False, True])
def test_texts_of_the_test_are_read_in_a_transductive_run_alone(transductive, competition, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # other tests learn the same
    sizes, fit = [], CosineVectors.fit
    monkeypatch.setattr(CosineVectors, "fit", lambda self, rows, labels=None: (sizes.append(rows.shape[0]), fit(self, rows))[1])
    config = Config(
        data_dir=competition, output_dir=tmp_path, ngrams=1, vector_size=8, epochs=1, refit=False, transductive=transductive
    )
    config.prepare("dv_cosine")
    assert config.name == ("dv_cosine-transductive" if transductive else "dv_cosine")
    run(TextTask(build_pipeline, config, unsupervised=2, transductive=transductive), SklearnTrainer())
    assert sizes == [560 if transductive else 460]
