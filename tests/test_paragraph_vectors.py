"""Paragraph vectors against their definition, and what they may not depend on."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import expit

from paragraph_vectors import Config, ParagraphVectors, build_pipeline
from popcorn.runs.run import run
from popcorn.training.sklearn_pipeline import SklearnTrainer, TextTask

TOPICS, TERMS = 4, 40


@pytest.fixture(scope="module")
def counts():
    """400 reviews, each of 30 terms of one of the topics, to which ten terms belong, and 10 of any: (reviews, terms)."""
    generator = np.random.default_rng(0)
    rows = np.zeros((400, TERMS), np.int32)
    for number, row in enumerate(rows):
        own = generator.integers(0, 10, 30) * TOPICS + number % TOPICS
        np.add.at(row, np.concatenate([own, generator.integers(0, TERMS, 10)]), 1)
    return csr_matrix(rows)


def fitted(counts, **options):
    recipe = {"vector_size": 8, "epochs": 30, "learning_rate": 0.05, "negative": 5, "sample": 0.0, "seed": 1}
    return ParagraphVectors(**recipe | options).fit(counts)


@pytest.fixture(scope="module")
def vectors(counts):
    return fitted(counts[:200])


def test_reviews_of_one_topic_lie_together(counts, vectors):
    seen, unseen = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in np.split(vectors.transform(counts), 2))
    nearest = (unseen @ seen.T).argmax(1)
    assert np.mean(nearest % TOPICS == np.arange(200) % TOPICS) > 0.95


def test_a_vector_is_where_the_objective_is_largest(counts, vectors):
    """Against gradient ascent on the objective's expectation, where noise is drawn by counts to the power of 3/4."""
    noise = vectors.counts_**0.75 / np.sum(vectors.counts_**0.75)
    terms, there = vectors.vectors_.astype(float), counts[:8].toarray().astype(float)
    # a term that is drawn as noise for itself is passed over
    drawn = 5 * (there.sum(1, keepdims=True) - there) * noise
    best = np.zeros((8, 8))
    for _ in range(5_000):
        best += 0.002 * (there * expit(-best @ terms.T) - drawn * expit(best @ terms.T)) @ terms
    slow = ParagraphVectors(8, 2_000, 0.01, 5, 0.0, 1)  # so slow that chance evens out
    slow.vectors_, slow.counts_ = vectors.vectors_, vectors.counts_
    found = slow.transform(counts[:8])
    assert np.linalg.norm(found - best, axis=1).max() < 0.03 * np.linalg.norm(best, axis=1).mean()


def test_a_vector_depends_on_its_own_review_alone(counts, vectors):
    """Not on its neighbors, nor on how the reviews are shared out among threads; and one without a known term has none."""
    rows = np.tile(counts.toarray(), (2, 1))
    rows[5] = 0
    many = csr_matrix(rows)
    together = vectors.transform(many)
    assert np.array_equal(together[6:9], vectors.transform(counts[6:9]))
    assert np.array_equal(together[400:], vectors.transform(counts))
    assert not together[5].any() and together[6].any()


def test_frequent_terms_are_skipped_as_often_as_gensim_skips_them(counts):
    """In the model that is made anew too, and in the words that are shown, which pull by their chance to be read."""
    frequent = counts.copy()
    frequent.data[frequent.indices == 3] += 40
    vectors = fitted(frequent, sample=0.02, epochs=1)
    share = vectors.counts_ / vectors.counts_.sum()
    chance = np.minimum(1, (np.sqrt(share / 0.02) + 1) * 0.02 / share)
    wv = vectors._model.wv
    kept = np.array([wv.get_vecattr(str(term), "sample_int") for term in range(TERMS)]) / 2**32
    assert np.allclose(kept, chance, atol=1e-6) and chance[3] < 0.5 < chance[0]
    terms = vectors.vectors_.astype(float)
    noise = (vectors.counts_**0.75 @ terms) / np.sum(vectors.counts_**0.75)
    assert np.allclose(vectors.term_weights(np.array([3, 0])), chance[[3, 0], None] * (terms[[3, 0]] - 5 * noise), atol=1e-4)


def test_counts_weigh_and_rare_terms_are_left_out():
    pipeline = build_pipeline(Config(min_df=2, ngrams=2, vector_size=4, epochs=1))
    found = pipeline[0].fit_transform(["good good film !", "a good film", "good film , awful"])
    terms = dict(zip(pipeline[0].get_feature_names_out(), found.toarray().T.tolist(), strict=True))
    assert terms == {"film": [1, 1, 1], "good": [2, 1, 1], "good film": [1, 1, 1]}


def test_terms_are_learned_once_from_the_training_files_and_no_label(competition, tmp_path, monkeypatch):
    """400 labeled and 60 unlabeled reviews, and none of the test's; a later run takes what was learned."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # other tests learn the same
    calls, fit = [], ParagraphVectors.fit

    def spied(self, counts, labels=None):
        calls.append((counts.shape[0], labels))
        return fit(self, counts, labels)

    monkeypatch.setattr(ParagraphVectors, "fit", spied)
    for options in ({"folds": 3}, {}, {"epochs": 2}, {"max_train_samples": 50}):
        options = {"output_dir": tmp_path, "name": "it", "sample": 0, "vector_size": 20, "ngrams": 1, "epochs": 3} | options
        config = Config(no_validation="folds" not in options, data_dir=competition, **options)
        run(TextTask(build_pipeline, config, unsupervised=2), SklearnTrainer())
    assert calls == [(460, None), (460, None), (100, None)]
    folder = tmp_path / "runs" / "it" / "seed-1"
    assert {path.name for path in folder.iterdir()} == {"model.json", "model.npz", "refit", "settings.json"}


def test_an_earlier_run_stays_until_the_terms_are_learned(competition, tmp_path, monkeypatch):
    def start(**options):
        config = Config(
            output_dir=tmp_path, data_dir=competition, name="it", sample=0, vector_size=4, ngrams=1, no_validation=True, **options
        )
        run(TextTask(build_pipeline, config, unsupervised=2), SklearnTrainer())

    def stopped(*_):
        raise KeyboardInterrupt

    start(epochs=1)
    folder = tmp_path / "runs" / "it" / "seed-1"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(ParagraphVectors, "fit", stopped)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        start(epochs=2)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
