"""Runs a scikit-learn pipeline over the reviews' text: the linear models' counterpart of `word_model`."""

import shutil
import time
from collections.abc import Callable

import numpy as np
from platformdirs import user_cache_path
from sklearn.pipeline import Pipeline

from popcorn import data, figures
from popcorn.config import RunConfig
from popcorn.errors import one_sentence, say
from popcorn.experiment import Outcome, Part, conclude, fit_all, folder_of, keep_outcome
from popcorn.files import cached, fingerprint, require_writable
from popcorn.saved import ARRAYS, keep_about, keep_learned, learned, restore
from popcorn.submission import require_same_ids
from popcorn.text import clean

PARAMETERS = "vectors_", "coef_", "intercept_"
"""of what the steps learn, that which is counted as the model's; the counts of terms are none, as a vocabulary is none"""


def run(build: Callable[[RunConfig], Pipeline], config: RunConfig, unsupervised: int = 0) -> None:
    """Fits `build(config)`, a pipeline from texts to `predict_proba`, and writes its submissions.

    So many first steps are `unsupervised`: they learn once from all training reviews, labelled or not, and never a label.
    """
    with one_sentence():
        require_writable(config.output_dir / "submissions")
        competition = data.find(config.data_dir)
        train, test = competition.read(data.TRAIN), competition.read(data.TEST)
        require_same_ids(competition.sample_ids(), test.ids)  # now, not after the training
        texts = np.array([clean(text) for text in train.texts], dtype=object)
        test_texts = [clean(text) for text in test.texts]
        parameters = 0
        folder = folder_of(config)
        for earlier in folder.glob("*/"):  # a fit of other options may have had other parts
            shutil.rmtree(earlier)
        (folder / ARRAYS).unlink(missing_ok=True)
        keep_about(folder, build, config, "linear")
        start, shared = time.monotonic(), {}
        if unsupervised:
            common = _fitted_once(build(config)[:unsupervised], competition, texts)
            shared = learned(common)
            keep_learned(folder, shared)
            texts, test_texts = common.transform(texts), common.transform(test_texts)
        before = time.monotonic() - start

        def fit(part: Part) -> Outcome:
            nonlocal parameters
            start = time.monotonic()
            model = build(config)[unsupervised:].fit(texts[part.train], train.labels[part.train])
            seconds = before + time.monotonic() - start
            own = learned(model, first=unsupervised)
            parameters = sum(array.size for name, array in (shared | own).items() if name.endswith(PARAMETERS))
            history, held, positive = [{"epoch": 1}], np.zeros(0), np.zeros(0)
            if len(part.validation):
                held = model.predict_proba(texts[part.validation])[:, 1]
                history[0] |= figures.validation_figures(train.labels[part.validation], held)
            keep_learned(folder / part.name, own)
            say(f"{part.name}: {seconds:.0f} s, " + ", ".join(f"{name} {value:.4f}" for name, value in history[0].items()))
            if not (len(part.validation) and config.refit) or config.folds:  # else the refit predicts
                positive = model.predict_proba(test_texts)[:, 1]
            outcome = Outcome(held, positive, 1, history, len(part.train) / seconds)
            keep_outcome(folder / part.name, outcome)
            return outcome

        done = fit_all(config, train.ids, train.labels, fit)
        conclude(
            config, competition, train.ids, test.ids, done,
            parameters=parameters, machine=figures.processor(), peak_memory=figures.peak_memory(), precision="fp64", processes=1,
        )  # fmt: skip


def _fitted_once(steps: Pipeline, competition: data.Competition, labelled: np.ndarray) -> Pipeline:
    """Fits the steps to the texts of the training files, or restores what an earlier run has learned from the same files."""

    def make() -> dict[str, np.ndarray]:
        others = competition.read(data.UNLABELLED).texts if competition.path(data.UNLABELLED) else []
        return learned(steps.fit([*labelled, *(clean(text) for text in others)]))

    files = [path for name in (data.TRAIN, data.UNLABELLED) if (path := competition.path(name))]
    key = fingerprint(*files, str(steps.get_params()))[:24]
    restore(steps, cached(user_cache_path("popcorn") / f"unsupervised-{key}.npz", make))
    return steps
