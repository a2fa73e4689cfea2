"""Runs a scikit-learn pipeline over the reviews' text: the linear models' counterpart of `word_model`."""

import shutil
import time
from collections.abc import Callable

import numpy as np
from sklearn.pipeline import Pipeline

from popcorn import data, figures
from popcorn.config import RunConfig
from popcorn.errors import one_sentence, say
from popcorn.experiment import Outcome, Part, conclude, fit_all, folder_of, keep_outcome
from popcorn.files import require_writable
from popcorn.saved import keep_about, keep_pipeline
from popcorn.submission import require_same_ids
from popcorn.text import clean


def run(build: Callable[[RunConfig], Pipeline], config: RunConfig) -> None:
    """Fits `build(config)`, a pipeline from texts to `predict_proba`, and writes its submissions."""
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
        keep_about(folder, build, config, "linear")

        def fit(part: Part) -> Outcome:
            nonlocal parameters
            start = time.monotonic()
            model = build(config).fit(texts[part.train], train.labels[part.train])
            seconds = time.monotonic() - start
            parameters = sum(weights.size for weights in (model[-1].coef_, model[-1].intercept_))
            history, held, positive = [{"epoch": 1}], np.zeros(0), np.zeros(0)
            if len(part.validation):
                held = model.predict_proba(texts[part.validation])[:, 1]
                history[0] |= figures.validation_figures(train.labels[part.validation], held)
            keep_pipeline(folder / part.name, model)
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
