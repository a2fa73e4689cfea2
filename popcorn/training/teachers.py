"""Teachers: models whose probabilities of the unlabeled reviews are soft labels for another model, the student.

A teacher was not trained on reviews that its student is validated on. Otherwise the student's validation metrics would be too
high. For a file of probabilities, the training reviews are unknown, so the run warns.

A scikit-learn model, alone or in an ensemble, is trained anew on each split's training reviews, with the options of its run. Of a
neural run, only those saved models predict that were not trained on the split's validation reviews. Their epoch may have been
selected on these reviews, like the student's own. An ensemble's weights are fitted without the validation reviews. They still
depend on them a little: the members' other out-of-fold probabilities come from models that were trained on them. The out-of-fold
metrics of every stacked ensemble have the same limit.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from popcorn.config import NBSVM, TEACHER_FILES, TrainingConfig
from popcorn.data.competition import TRAIN, UNLABELED, Competition
from popcorn.data.splits import Split
from popcorn.data.submission import read_probabilities
from popcorn.data.word_tokenizer import clean, enough_terms
from popcorn.errors import UserError, log
from popcorn.models.saved import (
    ARRAYS,
    ENSEMBLE,
    METADATA,
    Recipe,
    finished_splits,
    load_recipe,
    load_state,
    num_steps,
    run_of,
    set_state,
)
from popcorn.models.stacker import SavedEnsemble, ids_checksum, load_ensemble, log_odds, new_stacker
from popcorn.models.unlabeled import load_predictions
from popcorn.utils.files import fingerprint
from popcorn.utils.scripts import load_script


class Reviews:
    """The labeled reviews of the competition, and at most `max_unlabeled` of the unlabeled ones."""

    def __init__(self, competition: Competition, max_unlabeled: int | None):
        """Raises `UserError` where there are no unlabeled reviews."""
        unlabeled = competition.read(UNLABELED) if competition.path(UNLABELED) else None
        if unlabeled is None or not unlabeled.texts:
            raise UserError(
                f"--pseudo-labels: there are no reviews in {UNLABELED} (or its zip) of {competition.folder}; "
                "put the competition's file there, or give --pseudo-labels None"
            )
        train = competition.read(TRAIN)
        self.labels, self.train_ids = train.labels, train.ids
        self.unlabeled_ids = unlabeled.ids
        """of the whole file"""
        self._texts, self._unlabeled = train.texts, unlabeled.texts[:max_unlabeled]
        self.count = len(self._unlabeled)

    @cached_property
    def texts(self) -> np.ndarray:
        """The cleaned labeled texts, object (train,)."""
        return np.array([clean(text) for text in self._texts], dtype=object)

    @cached_property
    def unlabeled(self) -> list[str]:
        """The cleaned unlabeled texts."""
        return [clean(text) for text in self._unlabeled]


class Teacher(Protocol):
    """Probabilities of the unlabeled reviews for each split."""

    checksum: str
    """of everything that the probabilities depend on, apart from the data"""
    is_known: bool
    """whether it is known what it was trained on"""

    def require_unseen(self, validation: np.ndarray) -> None:
        """Raises `UserError` where the teacher was trained on some of these rows of the training file."""

    def probability(self, split: Split) -> np.ndarray:
        """float64 (unlabeled,), by models that were not trained on `split.validation`, as far as that is known."""


class RefitTeacher:
    """A scikit-learn pipeline, trained anew for every split, on its training reviews alone."""

    is_known = True

    def __init__(self, recipe: Recipe, reviews: Reviews, state: dict[str, np.ndarray], checksum: str):
        """`state`: of the first steps, which were fitted without labels; may be empty."""
        self.recipe, self.labels, self.checksum = recipe, reviews.labels, checksum
        self.texts, self.unlabeled, self.num_fitted = reviews.texts, reviews.unlabeled, num_steps(state)
        if state:
            steps = recipe.build(recipe.config)[: self.num_fitted]
            set_state(steps, state)
            self.texts, self.unlabeled = steps.transform(self.texts), steps.transform(self.unlabeled)

    def require_unseen(self, validation: np.ndarray) -> None:
        """Does nothing: each split has a teacher of its own."""

    def probability(self, split: Split) -> np.ndarray:
        log(f"{split.name}: the teacher is trained on {len(split.train):,} labeled reviews")
        with enough_terms():
            pipeline = self.recipe.build(self.recipe.config)[self.num_fitted :]
            pipeline.fit(self.texts[split.train], self.labels[split.train])
        return pipeline.predict_proba(self.unlabeled)[:, 1]


class PredictedTeacher:
    """The saved models of a run, by what they predicted beforehand."""

    def __init__(self, folder: Path, reviews: Reviews):
        """Raises `UserError` where `predict --unlabeled` did not predict these reviews with all models of the run."""
        self.predictions = predictions = load_predictions(folder, reviews.train_ids, reviews.unlabeled_ids)
        if predictions.splits != (finished := finished_splits(folder)):
            raise UserError(
                f"{folder} has the models {', '.join(finished)}, and only {', '.join(predictions.splits)} predicted the "
                f"unlabeled reviews: run python -m popcorn predict --unlabeled --model {folder}"
            )
        self.folder, self.is_known, self.count = folder, predictions.is_known, reviews.count
        self.checksum = fingerprint(predictions.probability.tobytes())

    def require_unseen(self, validation: np.ndarray) -> None:
        if len(validation) and not self.predictions.unseen(validation).any():
            raise UserError(
                f"--pseudo-labels: each model in {self.folder} ({', '.join(self.predictions.splits)}) was trained on reviews "
                "that this run is validated on: train both with the same --folds and --split-by, or give --no-validation"
            )

    def probability(self, split: Split) -> np.ndarray:
        if not len(split.validation):
            return self.predictions.all[: self.count]
        self.require_unseen(split.validation)
        return self.predictions.probability[self.predictions.unseen(split.validation), : self.count].mean(0)


class FileTeacher:
    """A file of probabilities, of which nothing else is known.

    It may be from a model that never saw a label, such as one that classifies by a prompt. So it is allowed with validation. But
    the run warns, and its results say so.
    """

    is_known = False

    def __init__(self, path: Path, reviews: Reviews):
        """Raises `UserError` for other ids than the unlabeled reviews', or a value that is not a probability."""
        fix = f"python -m popcorn predict --unlabeled makes such a file, with id and probability of each review of {UNLABELED}"
        values = read_probabilities(path, reviews.unlabeled_ids, fix, "probability")["probability"].to_numpy(float)
        self.checksum, self.values = fingerprint(values.tobytes()), values[: reviews.count]

    def require_unseen(self, validation: np.ndarray) -> None:
        """Does nothing: the training reviews are unknown."""

    def probability(self, split: Split) -> np.ndarray:
        return self.values


@dataclass(frozen=True)
class EnsembleTeacher:
    """The members' log-odds, weighed by a logistic regression on the out-of-fold ones outside the validation set."""

    members: list[Teacher]
    features: np.ndarray
    """out-of-fold log-odds, (train, members)"""
    labels: np.ndarray
    checksum: str

    @property
    def is_known(self) -> bool:
        """Whether it is known for all members what they were trained on."""
        return all(member.is_known for member in self.members)

    def require_unseen(self, validation: np.ndarray) -> None:
        for member in self.members:
            member.require_unseen(validation)

    def probability(self, split: Split) -> np.ndarray:
        rows = np.setdiff1d(np.arange(len(self.labels)), split.validation)
        stacker = new_stacker().fit(self.features[rows], self.labels[rows])
        return stacker.predict_proba(log_odds([member.probability(split) for member in self.members]))[:, 1]


def find_teacher(name: str, reviews: Reviews, config: TrainingConfig) -> Teacher:
    """The teacher of `--pseudo-labels`: nbsvm, a file of probabilities, or a run or ensemble in the output folder.

    Raises `UserError` where it is missing, does not fit these reviews, or would be replaced by the student.
    """
    if name == NBSVM:
        module = load_script(NBSVM)
        return RefitTeacher(Recipe(NBSVM, "linear", module.build_pipeline, module.Config()), reviews, {}, NBSVM)
    if name.lower().endswith(TEACHER_FILES):
        return FileTeacher(Path(name), reviews)
    folder = run_of(name, config.output_dir)
    ensemble = load_ensemble(folder) if (folder / ENSEMBLE).is_file() else None
    runs = [folder, *(folder.parent / run for run in (ensemble.runs if ensemble else []))]
    if any(run.resolve().is_relative_to((config.output_dir / "runs" / config.name).resolve()) for run in runs):
        raise UserError(f"--name {config.name} is that of the teacher, whose run this one would replace: give another name")
    return _ensemble(folder, ensemble, reviews) if ensemble else _run(folder, reviews)


def _run(folder: Path, reviews: Reviews) -> Teacher:
    recipe, state = load_recipe(folder), folder / ARRAYS
    if recipe.kind == "linear":
        files = [path for path in (folder / METADATA, state) if path.is_file()]
        return RefitTeacher(recipe, reviews, load_state(state) if state in files else {}, fingerprint(*files))
    return PredictedTeacher(folder, reviews)


def _ensemble(folder: Path, ensemble: SavedEnsemble, reviews: Reviews) -> EnsembleTeacher:
    if ensemble.train_sha256 != ids_checksum(reviews.train_ids):
        raise UserError(f"the ensemble {folder} is of other training reviews: make it again on these")
    members = [_run(folder.parent / run, reviews) for run in ensemble.runs]
    checksum = fingerprint(ensemble.out_of_fold.tobytes(), *(member.checksum for member in members))
    return EnsembleTeacher(members, log_odds(ensemble.out_of_fold), reviews.labels, checksum)
