"""Runs a scikit-learn pipeline over the reviews' text: the linear models' counterpart of `word_model`."""

import time
from collections.abc import Callable

import numpy as np
from platformdirs import user_cache_path
from sklearn.pipeline import Pipeline

from popcorn import metrics
from popcorn.config import STARTED, RunConfig
from popcorn.data import competition as competition_data
from popcorn.data.splits import Split, limited
from popcorn.data.submission import require_same_ids
from popcorn.data.word_tokenizer import TOKENIZER, clean, enough_terms
from popcorn.errors import exit_on_user_error, log
from popcorn.models.saved import keep_learned, learned, restore, save_metadata
from popcorn.runs.cross_validation import cross_validate, finish_run, require_learnable, split_of
from popcorn.runs.run_dir import run_folder, save_fit_result, sole_owner, start_or_resume
from popcorn.training.fit_result import FitResult
from popcorn.utils import hardware
from popcorn.utils.cache import cached
from popcorn.utils.files import fingerprint, require_writable

PARAMETERS = "vectors_", "coef_", "intercept_"
"""of what the steps learn, that which is counted as the model's; the counts of terms are none, as a vocabulary is none"""


def run(build: Callable[[RunConfig], Pipeline], config: RunConfig, unsupervised: int = 0) -> None:
    """Fits `build(config)`, a pipeline from texts to `predict_proba`, and writes its submissions.

    Its first `unsupervised` steps learn once from the texts of all training reviews, labeled or not, and never a label.
    """
    with exit_on_user_error():
        require_writable(config.output_dir / "submissions")
        with sole_owner(config):
            _run(build, config, unsupervised)


def _run(build: Callable[[RunConfig], Pipeline], config: RunConfig, unsupervised: int) -> None:
    """All of it that other runs of the same folder must not meet."""
    competition = competition_data.find(config.data_dir)
    train, test = competition.read(competition_data.TRAIN), competition.read(competition_data.TEST)
    require_same_ids(competition.sample_ids(), test.ids)  # now, not after the training
    require_learnable(config, train.ids, train.labels)
    texts = np.array([clean(text) for text in train.texts], dtype=object)
    test_texts = [clean(text) for text in test.texts]
    before, earlier_run, peak_memory, shared = 0.0, 0.0, 0, {}
    if unsupervised:
        start = time.monotonic()
        rows = limited(train.labels, config.max_train_samples)
        common, seconds, peak_memory = _fitted_once(
            build(config)[:unsupervised], competition, texts[rows], config.max_train_samples
        )
        earlier_run = max(0.0, seconds - (time.monotonic() - start))
        shared = learned(common)
        texts, test_texts = common.transform(texts), common.transform(test_texts)
        before = earlier_run + time.monotonic() - start
    parameters, learned_by = 0, {}
    folder = run_folder(config)
    split = split_of(config, train.ids, train.labels)
    start_or_resume(config, data=competition.checksum, split=split)
    save_metadata(folder, build, config, "linear")

    def fit(part: Split) -> FitResult:
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
            history[0] |= metrics.compute_metrics(train.labels[part.validation], held)
        learned_by[part.name] = own
        measured = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in history[0].items() if name != "epoch"]
        log(", ".join([f"{part.name}: {len(part.train):,} reviews in {seconds:.0f} s", *measured]))
        if not (len(part.validation) and config.refit) or config.folds:  # else the refit predicts
            positive = model.predict_proba(test_texts)[:, 1]
        return FitResult(held, positive, 1, history, len(part.train) / seconds)

    done = cross_validate(config, train.ids, train.labels, fit)
    finish_run(
        config, competition, train.ids, test.ids, done, split=split,
        parameters=parameters, machine=hardware.cpu_name(), peak_memory=max(hardware.process_peak_memory(), peak_memory),
        processes=1,
        precision="fp32" if unsupervised else "fp64", seconds=earlier_run + time.monotonic() - STARTED,
    )  # fmt: skip
    # the submission is safe: now what predict and the report need
    if unsupervised:
        keep_learned(folder, shared)
    for name, outcome in done.outcomes.items():
        keep_learned(folder / name, learned_by[name])
        save_fit_result(folder / name, outcome)


def _fitted_once(
    steps: Pipeline, competition: competition_data.Competition, labeled: np.ndarray, max_train_samples: int | None
) -> tuple[Pipeline, float, int]:
    """Fits the steps to the labeled texts and at most `limit` others, or restores what an earlier run has learned from them.

    Returns what it took too, this time or then: seconds, and bytes of memory.
    """

    def make() -> dict[str, np.ndarray]:
        start = time.monotonic()
        unlabeled = competition.read(competition_data.UNLABELED).texts if competition.path(competition_data.UNLABELED) else []
        with enough_terms():
            steps.fit([*labeled, *(clean(text) for text in unlabeled[:max_train_samples])])
        cost = np.array([time.monotonic() - start, hardware.process_peak_memory()])
        return learned(steps) | {"cost": cost, "pseudo_labels": np.array(len(unlabeled))}

    files = [path for name in (competition_data.TRAIN, competition_data.UNLABELED) if (path := competition.path(name))]
    key = fingerprint(*files, TOKENIZER, competition_data.READING, max_train_samples, str(steps.get_params()))[:24]
    arrays = cached(user_cache_path("popcorn") / f"unsupervised-{key}.npz", make)
    if competition.path(competition_data.UNLABELED):
        competition.count(competition_data.UNLABELED, int(arrays["pseudo_labels"]))
    seconds, peak_memory = arrays.pop("cost").tolist()
    restore(steps, arrays)
    return steps, seconds, int(peak_memory)
