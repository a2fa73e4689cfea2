"""Runs a scikit-learn pipeline over the reviews' text: the linear models' counterpart of `word_model`."""

import time
from collections.abc import Callable

import numpy as np
from platformdirs import user_cache_path
from sklearn.pipeline import Pipeline

from popcorn import data, figures
from popcorn.config import STARTED, RunConfig
from popcorn.errors import one_sentence, say
from popcorn.experiment import (
    Outcome,
    Part,
    begin,
    conclude,
    fit_all,
    folder_of,
    keep_outcome,
    require_learnable,
    sole_owner,
    split_of,
)
from popcorn.files import cached, fingerprint, require_writable
from popcorn.saved import keep_about, keep_learned, learned, restore
from popcorn.split import limited
from popcorn.submission import require_same_ids
from popcorn.text import TOKENISER, clean, enough_terms

PARAMETERS = "vectors_", "coef_", "intercept_"
"""of what the steps learn, that which is counted as the model's; the counts of terms are none, as a vocabulary is none"""


def run(build: Callable[[RunConfig], Pipeline], config: RunConfig, unsupervised: int = 0) -> None:
    """Fits `build(config)`, a pipeline from texts to `predict_proba`, and writes its submissions.

    Its first `unsupervised` steps learn once from the texts of all training reviews, labelled or not, and never a label.
    """
    with one_sentence():
        require_writable(config.output_dir / "submissions")
        with sole_owner(config):
            _run(build, config, unsupervised)


def _run(build: Callable[[RunConfig], Pipeline], config: RunConfig, unsupervised: int) -> None:
    """All of it that other runs of the same folder must not meet."""
    competition = data.find(config.data_dir)
    train, test = competition.read(data.TRAIN), competition.read(data.TEST)
    require_same_ids(competition.sample_ids(), test.ids)  # now, not after the training
    require_learnable(config, train.ids, train.labels)
    texts = np.array([clean(text) for text in train.texts], dtype=object)
    test_texts = [clean(text) for text in test.texts]
    before, earlier_run, peak_memory, shared = 0.0, 0.0, 0, {}
    if unsupervised:
        start = time.monotonic()
        rows = limited(train.labels, config.limit)
        common, seconds, peak_memory = _fitted_once(build(config)[:unsupervised], competition, texts[rows], config.limit)
        earlier_run = max(0.0, seconds - (time.monotonic() - start))
        shared = learned(common)
        texts, test_texts = common.transform(texts), common.transform(test_texts)
        before = earlier_run + time.monotonic() - start
    parameters, learned_by = 0, {}
    folder = folder_of(config)
    split = split_of(config, train.ids, train.labels)
    begin(config, data=competition.checksum, split=split)
    keep_about(folder, build, config, "linear")

    def fit(part: Part) -> Outcome:
        nonlocal parameters
        start = time.monotonic()
        with enough_terms():
            model = build(config)[unsupervised:].fit(texts[part.train], train.labels[part.train])
        seconds = before + time.monotonic() - start
        own = learned(model, first=unsupervised)
        parameters = sum(array.size for name, array in (shared | own).items() if name.endswith(PARAMETERS))
        history, held, positive = [{"epoch": 1}], np.zeros(0), np.zeros(0)
        if len(part.validation):
            held = model.predict_proba(texts[part.validation])[:, 1]
            history[0] |= figures.validation_figures(train.labels[part.validation], held)
        learned_by[part.name] = own
        measured = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in history[0].items() if name != "epoch"]
        say(", ".join([f"{part.name}: {len(part.train):,} reviews in {seconds:.0f} s", *measured]))
        if not (len(part.validation) and config.refit) or config.folds:  # else the refit predicts
            positive = model.predict_proba(test_texts)[:, 1]
        return Outcome(held, positive, 1, history, len(part.train) / seconds)

    done = fit_all(config, train.ids, train.labels, fit)
    conclude(
        config, competition, train.ids, test.ids, done, split=split,
        parameters=parameters, machine=figures.processor(), peak_memory=max(figures.peak_memory(), peak_memory), processes=1,
        precision="fp32" if unsupervised else "fp64", seconds=earlier_run + time.monotonic() - STARTED,
    )  # fmt: skip
    # the submission is safe: now what predict and the report need
    if unsupervised:
        keep_learned(folder, shared)
    for name, outcome in done.outcomes.items():
        keep_learned(folder / name, learned_by[name])
        keep_outcome(folder / name, outcome)


def _fitted_once(
    steps: Pipeline, competition: data.Competition, labelled: np.ndarray, limit: int | None
) -> tuple[Pipeline, float, int]:
    """Fits the steps to the labelled texts and at most `limit` others, or restores what an earlier run has learned from them.

    Returns what it took too, this time or then: seconds, and bytes of memory.
    """

    def make() -> dict[str, np.ndarray]:
        start = time.monotonic()
        unlabelled = competition.read(data.UNLABELLED).texts if competition.path(data.UNLABELLED) else []
        with enough_terms():
            steps.fit([*labelled, *(clean(text) for text in unlabelled[:limit])])
        cost = np.array([time.monotonic() - start, figures.peak_memory()])
        return learned(steps) | {"cost": cost, "unlabelled": np.array(len(unlabelled))}

    files = [path for name in (data.TRAIN, data.UNLABELLED) if (path := competition.path(name))]
    key = fingerprint(*files, TOKENISER, data.READING, limit, str(steps.get_params()))[:24]
    arrays = cached(user_cache_path("popcorn") / f"unsupervised-{key}.npz", make)
    if competition.path(data.UNLABELLED):
        competition.count(data.UNLABELLED, int(arrays["unlabelled"]))
    seconds, peak_memory = arrays.pop("cost").tolist()
    restore(steps, arrays)
    return steps, seconds, int(peak_memory)
