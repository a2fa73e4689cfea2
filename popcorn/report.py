"""`python -m popcorn report`: one page about all recorded models, which needs no network to be read."""

import json
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from popcorn import charts, data
from popcorn.data import Reviews
from popcorn.ensemble import SUREST
from popcorn.errors import UserError, say
from popcorn.files import whole
from popcorn.leaderboard import HEADINGS, cells
from popcorn.loading import load
from popcorn.predict import run_of
from popcorn.results import Row, rows
from popcorn.score import true_labels
from popcorn.split import validation_parts
from popcorn.text import plain

BINS, SHOWN, LONGEST = 8, 10, 400


@dataclass
class Model:
    """What is known of one recorded model."""

    row: Row
    curve: list[float]
    """the validation's ROC AUC after each epoch; empty where there was no validation"""
    test: np.ndarray | None
    """probabilities (test,), where a submission is at hand"""
    held: np.ndarray | None
    """probabilities of the films held out of the training file, where the run is at hand"""


def write(output_dir: Path, results: Path, data_dir: Path | None) -> None:
    """Writes `report/index.html`. What has no submission or no run at hand is left out of the parts that need it."""
    competition = data.find(data_dir)
    train, test = competition.read(data.TRAIN), competition.read(data.TEST)
    models = [_model(row, output_dir, results, test.ids) for row in rows(results)]
    if not models:
        raise UserError(f"{results} holds no recorded results on the competition's data: run a script with --record first")
    labels = true_labels(test.ids)
    parts = {
        "headings": HEADINGS, "lines": [cells(model.row) for model in models],
        "time": charts.accuracy_against_time(
            [(each.row.name, each.row.seconds, each.row.accuracy, each.row.interval) for each in models]
        ),
        "curves": _curves(models),
    }  # fmt: skip
    predicted = [model for model in models if model.test is not None]
    if predicted and labels is not None:
        parts |= _calibration(predicted, labels, train)
        parts |= _by_length(predicted, labels, test)
        parts |= {"agreement": _agreement(predicted), "wrong": _wrong(predicted, labels, test, output_dir)}
    template = jinja2.Environment(autoescape=True).from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    drawn = ("time", "curves", "calibration", "lengths", "agreement")
    page = template.render({name: _safe(value) if name in drawn else value for name, value in parts.items()})
    path = output_dir / "report" / "index.html"
    with whole(path, "w") as file:
        file.write(page)
    say(f"{path}: {len(models)} models, {len(predicted)} of them with their predictions")


def _safe(drawing: str) -> Markup:
    return Markup(drawing)  # ours, and not to be escaped as texts are


def _model(row: Row, output_dir: Path, results: Path, test_ids: list[str]) -> Model:
    first = json.loads((results / f"{row.name}.json").read_text(encoding="utf-8"))["runs"][0]
    fits = [fit for name, fit in first["fits"].items() if name != "refit"]
    curve = [entry["validation_auc"] for entry in fits[0]["history"]] if fits else []
    submission = output_dir / "submissions" / f"{row.name}.proba.csv"
    test = None
    if submission.is_file():
        table = pd.read_csv(submission, quoting=3, index_col="id")["sentiment"]
        test = table.reindex(test_ids).to_numpy() if len(table) == len(test_ids) else None
    outcomes = sorted((output_dir / "runs" / row.name).glob("seed-?/validated/outcome.npz"))
    held = np.load(outcomes[0], allow_pickle=False)["validation"] if outcomes else None
    return Model(row, curve, test if test is None or not np.isnan(test).any() else None, held)


def _curves(models: list[Model]) -> str:
    curves = {model.row.name: model.curve for model in models if len(model.curve) > 1}
    return charts.learning_curves(curves) if curves else ""


def _calibration(models: list[Model], labels: np.ndarray, train: Reviews) -> dict:
    """Reliability of each model's probabilities, and what a temperature makes of its log loss (Guo et al. 2017)."""
    curves, lines = {}, []
    held_out = validation_parts(train.ids, train.labels, "film", None)[0]
    for model in models:
        happened, said = calibration_curve(labels, model.test, n_bins=BINS)
        curves[model.row.name] = said, happened
        loss = log_loss(labels, np.clip(model.test, SUREST, 1 - SUREST))
        if model.held is None or len(model.held) != len(held_out):
            lines.append((model.row.name, "-", f"{loss:.4f}", "-"))
            continue
        temperature = fitted_temperature(model.held, train.labels[held_out])
        lines.append((model.row.name, f"{temperature:.2f}", f"{loss:.4f}",
                      f"{log_loss(labels, at_temperature(model.test, temperature)):.4f}"))  # fmt: skip
    return {"calibration": charts.reliability(curves), "temperatures": lines}


def at_temperature(probability: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities with their log-odds divided by the temperature."""
    return expit(logit(np.clip(probability, SUREST, 1 - SUREST)) / temperature)


def fitted_temperature(probability: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least log loss."""
    found = minimize_scalar(
        lambda exponent: log_loss(labels, at_temperature(probability, np.exp(exponent))), bounds=(-3, 3), method="bounded"
    )
    return float(np.exp(found.x))


def _by_length(models: list[Model], labels: np.ndarray, test: Reviews) -> dict:
    words = np.array([len(text.split()) for text in test.texts])
    edges = np.unique(np.quantile(words, np.linspace(0, 1, BINS + 1)).astype(int))
    if len(edges) < 3:
        return {}
    place = np.clip(np.searchsorted(edges, words, side="right") - 1, 0, len(edges) - 2)
    curves = {
        model.row.name: [float(((model.test > 0.5) == labels)[place == bin].mean()) for bin in range(len(edges) - 1)]
        for model in models
    }
    return {"lengths": charts.accuracy_by_length(edges.tolist(), curves)}


def _agreement(models: list[Model]) -> str:
    verdicts = np.array([model.test > 0.5 for model in models])
    share = (verdicts[:, None] == verdicts).mean(-1)
    return charts.agreement([model.row.name for model in models], share) if len(models) > 1 else ""


def _wrong(models: list[Model], labels: np.ndarray, test: Reviews, output_dir: Path) -> dict | None:
    """The reviews that every model gets wrong, those first on which they are surest."""
    probability = np.array([model.test for model in models])
    all_wrong = ((probability > 0.5) != labels).all(0)
    mean = probability.mean(0)
    order = np.argsort(-np.abs(mean - 0.5) * all_wrong)[: min(SHOWN, int(all_wrong.sum()))]
    if not len(order):
        return None
    judge, name = _judge(models, output_dir)
    reviews = []
    for row in order:
        text = plain(test.texts[row])
        words = judge.words(text) if judge else [(word, 0.0) for word in text.split()]
        strongest = max((abs(weight) for _, weight in words), default=0.0) or 1.0
        reviews.append({
            "id": test.ids[row].strip('"'), "label": "positive" if labels[row] else "negative", "probability": f"{mean[row]:.3f}",
            "words": [(word, weight / strongest) for word, weight in words[:LONGEST]],
        })  # fmt: skip
    return {"count": int(all_wrong.sum()), "of": len(labels), "models": len(models), "reviews": reviews, "judge": name}


def _judge(models: list[Model], output_dir: Path):
    """The best of the models whose run is at hand, to say which words carried its verdict."""
    for model in models:
        try:
            return load(run_of(model.row.name, output_dir)), model.row.name
        except UserError:
            continue
    return None, ""
