"""`python -m popcorn predict --unlabeled`: predicts the competition's unlabeled reviews, for `--pseudo-labels`."""

import json
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from popcorn.data.competition import TRAIN, UNLABELED, Competition, Reviews
from popcorn.data.splits import refit_split, split_checksum, validation_splits
from popcorn.data.submission import write_probabilities
from popcorn.errors import UserError, log
from popcorn.inference.load import load
from popcorn.inference.predictors import Stacked
from popcorn.models.saved import ENSEMBLE, Recipe, finished_splits, load_recipe
from popcorn.models.stacker import load_ensemble
from popcorn.models.unlabeled import ORIGIN, UnlabeledPredictions, load_predictions, save_predictions
from popcorn.runs.run_dir import SETTINGS


def predict_unlabeled(folder: Path, competition: Competition, output: Path) -> None:
    """Writes id and probability of each unlabeled review, by a run's model or an ensemble.

    A neural run's folder also gets the probabilities by the models of all its splits, for students that are validated.
    """
    train, unlabeled, start = competition.read(TRAIN), competition.read(UNLABELED), time.monotonic()
    if not unlabeled.texts:
        raise UserError(f"{competition.path(UNLABELED)} has no reviews: put the competition's file there")
    if (folder / ENSEMBLE).is_file():
        ensemble = load_ensemble(folder)
        members = [_predict_run(folder.parent / run, train, unlabeled) for run in ensemble.runs]
        probability = Stacked([], ensemble.coef, ensemble.intercept).combine(members)
    else:
        probability = _predict_run(folder, train, unlabeled)
    write_probabilities(output, unlabeled.ids, probability)
    seconds = time.monotonic() - start
    log(f"{output}: {len(unlabeled.ids):,} reviews in {seconds:.1f} s, for --pseudo-labels {output} or {folder}")


def _predict_run(folder: Path, train: Reviews, unlabeled: Reviews) -> np.ndarray:
    """The probability of each unlabeled review by a run's model, (unlabeled,)."""
    recipe = load_recipe(folder)
    if recipe.kind == "linear":  # a student's run trains it anew
        return load(folder).probability(unlabeled.texts)
    settings = _settings(folder)
    names = finished_splits(folder)
    trained_on = _trained_on(folder, recipe, settings, names, train)
    log(f"Predicting {len(unlabeled.texts):,} unlabeled reviews with each model of {folder}: {', '.join(names)}")
    found = _interrupted(folder, names, train, unlabeled)
    device = torch.device("cuda") if torch.cuda.is_available() else None
    for name in [name for name in names if name not in found]:
        found[name] = load(folder, [name], device).probability(unlabeled.texts)
        done = [each for each in names if each in found]
        predictions = UnlabeledPredictions(
            done, np.array([found[each] for each in done]), trained_on[np.isin(names, done)], is_known=ORIGIN not in settings
        )
        save_predictions(folder, predictions, train.ids, unlabeled.ids)
    return predictions.all


def _interrupted(folder: Path, names: list[str], train: Reviews, unlabeled: Reviews) -> dict[str, np.ndarray]:
    """The predictions of an interrupted earlier call, by the names of the splits."""
    with suppress(UserError):
        saved = load_predictions(folder, train.ids, unlabeled.ids)
        if set(saved.splits) < set(names):
            return dict(zip(saved.splits, saved.probability, strict=True))
    return {}


def _settings(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as problem:
        raise UserError(f"{folder / SETTINGS} cannot be read ({problem}): copy the run's whole folder") from problem


def _trained_on(folder: Path, recipe: Recipe, settings: dict[str, str], names: list[str], train: Reviews) -> np.ndarray:
    """Whether each split's model was trained on each review of the training file, bool (splits, train).

    Raises `UserError` where the run was trained on other splits than its options give now.
    """
    splits = validation_splits(recipe.config, train.ids, train.labels)
    checksum = split_checksum(train.ids, [split.held_out for split in splits])
    rows = {split.name: split.train for split in [refit_split(recipe.config, train.labels, None), *splits]}
    if not names or settings.get("split") != checksum or not rows.keys() >= set(names):
        raise UserError(
            f"{folder} has no finished model, or was trained on another split of the training reviews (checksum "
            f"{settings.get('split')} instead of {checksum}): run {recipe.script}.py again on these data"
        )
    trained_on = np.zeros((len(names), len(train.ids)), bool)
    for number, name in enumerate(names):
        trained_on[number, rows[name]] = True
    return trained_on
