"""A scikit-learn pipeline on the texts of the reviews."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path
from sklearn.pipeline import Pipeline

from popcorn.config import STARTED, RunConfig
from popcorn.data.competition import READING, TEST, TRAIN, UNLABELED, Competition, find_competition
from popcorn.data.splits import Split, limited
from popcorn.data.word_tokenizer import TOKENIZER, clean, enough_terms
from popcorn.errors import log
from popcorn.metrics import compute_metrics
from popcorn.models.saved import get_state, save_metadata, save_state, set_state
from popcorn.training.fit_result import FitResult
from popcorn.training.task import Task
from popcorn.utils.cache import cached
from popcorn.utils.files import fingerprint
from popcorn.utils.machine import cpu_name, process_peak_memory

PARAMETERS = "vectors_", "coef_", "intercept_"
"""fitted attributes that count as parameters; counts of terms do not, like a vocabulary"""


class TextTask(Task):
    """The reviews as cleaned texts, and a scikit-learn pipeline with `predict_proba`."""

    def __init__(
        self,
        build_pipeline: Callable[[RunConfig], Pipeline],
        config: RunConfig,
        unsupervised: int = 0,
        transductive: bool = False,
    ):
        """The first `unsupervised` steps are fitted once, on all training reviews, without labels.

        `transductive`: on the texts of the test reviews too.
        """
        super().__init__(config)
        self.build_pipeline, self.unsupervised, self.transductive = build_pipeline, unsupervised, transductive
        self.provenance = {}

    def load(self) -> None:
        """Reads and cleans the texts, and fits the unsupervised steps."""
        config, competition = self.config, find_competition(self.config.data_dir)
        train, test = competition.read(TRAIN), competition.read(TEST)
        self.competition, self.train_ids, self.test_ids, self.labels = competition, train.ids, test.ids, train.labels
        self.texts = np.array([clean(text) for text in train.texts], dtype=object)
        self.test_texts = [clean(text) for text in test.texts]
        self.shared, self.seconds, self.earlier_seconds, self.peak_memory = {}, 0.0, 0.0, 0
        if self.unsupervised:
            start = time.monotonic()
            steps = self.build_pipeline(config)[: self.unsupervised]
            labeled = self.texts[limited(self.labels, config.max_train_samples)]
            unseen = self.test_texts if self.transductive else []
            common, seconds, self.peak_memory = _fitted_once(steps, competition, labeled, unseen, config.max_train_samples)
            # fitting time of an earlier run counts for this run too
            self.earlier_seconds = max(0.0, seconds - (time.monotonic() - start))
            self.shared = get_state(common)
            self.texts, self.test_texts = common.transform(self.texts), common.transform(self.test_texts)
            self.seconds = self.earlier_seconds + time.monotonic() - start

    def save_artifacts(self, run_dir: Path) -> None:
        """Saves the options; fitted arrays are saved after the submissions."""
        save_metadata(run_dir, self.build_pipeline, self.config, "linear")


class SklearnTrainer:
    """Fits the pipeline on one split after another."""

    def start(self, config: RunConfig) -> None:
        """Does nothing: there is one process."""

    def set_up(self, task: TextTask, run_dir: Path, deadline: float) -> None:
        """Receives the task and the run's folder."""
        self.task, self.run_dir, self.state_by_split, self.parameters = task, run_dir, {}, 0

    def fit(self, split: Split) -> FitResult:
        """Fits a new pipeline and predicts; skips the test set if a refit follows."""
        task, config, start = self.task, self.task.config, time.monotonic()
        with enough_terms():
            pipeline = task.build_pipeline(config)[task.unsupervised :].fit(task.texts[split.train], task.labels[split.train])
        seconds = task.seconds + time.monotonic() - start
        self.state_by_split[split.name] = state = get_state(pipeline, first=task.unsupervised)
        self.parameters = sum(array.size for name, array in (task.shared | state).items() if name.endswith(PARAMETERS))
        validation, test, metrics = np.zeros(0), np.zeros(0), {}
        if len(split.validation):
            validation = pipeline.predict_proba(task.texts[split.validation])[:, 1]
            metrics = compute_metrics(task.labels[split.validation], validation)
        measured = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items()]
        log(", ".join([f"{split.name}: {len(split.train):,} reviews in {seconds:.0f} s", *measured]))
        if not (len(split.validation) and config.refit) or config.folds:
            test = pipeline.predict_proba(task.test_texts)[:, 1]
        return FitResult(validation, test, 1, [{"epoch": 1} | metrics], len(split.train) / seconds)

    def summary(self) -> dict:
        """For the saved results: parameters, time and memory."""
        return {
            "parameters": self.parameters, "machine": cpu_name(), "processes": 1,
            "peak_memory": max(process_peak_memory(), self.task.peak_memory),
            "precision": "fp32" if self.task.unsupervised else "fp64",
            "seconds": self.task.earlier_seconds + time.monotonic() - STARTED,
        }  # fmt: skip

    def finish(self) -> None:
        """Saves the fitted arrays for `predict`, after the submissions are written."""
        if self.task.unsupervised:
            save_state(self.run_dir, self.task.shared)
        for name, arrays in self.state_by_split.items():
            save_state(self.run_dir / name, arrays)


def _fitted_once(
    steps: Pipeline, competition: Competition, labeled: np.ndarray, test: list[str], max_train_samples: int | None
) -> tuple[Pipeline, float, int]:
    """Fits the unsupervised steps, or loads an earlier fit.

    They are fitted on the labeled texts, at most `max_train_samples` unlabeled ones, and the given texts of the test. Returns the
    steps, and the seconds and bytes of memory that fitting took, now or earlier.
    """

    def make() -> dict[str, np.ndarray]:
        start = time.monotonic()
        unlabeled = competition.read(UNLABELED).texts if competition.path(UNLABELED) else []
        with enough_terms():
            steps.fit([*labeled, *(clean(text) for text in unlabeled[:max_train_samples]), *test])
        cost = np.array([time.monotonic() - start, process_peak_memory()])
        return get_state(steps) | {"cost": cost, "unlabeled": np.array(len(unlabeled))}

    files = [path for name in (TRAIN, UNLABELED) if (path := competition.path(name))]
    scripts = {file for _, step in steps.steps if (file := _script_of(step))}  # a changed script fits anew
    key = fingerprint(*files, TOKENIZER, READING, max_train_samples, str(steps.get_params()), *test, *sorted(scripts))[:24]
    arrays = cached(user_cache_path("popcorn") / f"unsupervised-{key}.npz", make)
    if competition.path(UNLABELED):
        competition.count(UNLABELED, int(arrays["unlabeled"]))
    seconds, peak_memory = arrays.pop("cost").tolist()
    set_state(steps, arrays)
    return steps, seconds, int(peak_memory)


def _script_of(step: object) -> Path | None:
    """The script that defines a step's class; None for a step of scikit-learn, and in a notebook, which has no file."""
    module = sys.modules[type(step).__module__]
    return None if type(step).__module__.startswith("sklearn.") or not hasattr(module, "__file__") else Path(module.__file__)
