"""`python -m popcorn report`: one offline HTML page about all saved results."""

from dataclasses import dataclass
from math import isclose
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score

from popcorn.data import competition as competition_data
from popcorn.data.competition import FALLBACK, Reviews
from popcorn.data.splits import validation_folds
from popcorn.data.submission import RunFiles, own_files, published_files, read_probabilities
from popcorn.data.word_tokenizer import plain
from popcorn.errors import UserError, log
from popcorn.inference.load import load
from popcorn.metrics import SELECTION_METRIC, score_test, true_labels
from popcorn.models.saved import ENSEMBLE, run_of
from popcorn.models.stacker import EPS
from popcorn.reporting import plots
from popcorn.reporting.leaderboard import FORMER_NOTE, HEADINGS, cells
from popcorn.reporting.paired import compare
from popcorn.runs.results import Row, find_run, read_runs, rows
from popcorn.runs.run_dir import load_fit_result
from popcorn.utils.files import atomic_write
from popcorn.utils.packages import needs

with needs("jinja2", "the report"):
    import jinja2
    from markupsafe import Markup
BINS, SHOWN, LONGEST = 8, 10, 400


@dataclass
class Model:
    """Saved results and predictions of one model."""

    row: Row
    curve: list[float]
    """validation ROC AUC after each epoch; empty without validation"""
    test: np.ndarray | None
    """test probabilities (test,), if there is a submission of a saved run"""
    temperature: float | None
    """temperature fitted on validation probabilities, if they are available"""


def write(output_dir: Path, results: Path, data_dir: Path | None) -> None:
    """Writes `report/index.html`; a chart omits models without the files it needs."""
    competition = competition_data.find_competition(data_dir)
    train, test = competition.read(competition_data.TRAIN), competition.read(competition_data.TEST)
    folder = output_dir / "submissions"
    # published are the competition's reviews, which the fallback data are not
    places = [own_files] if competition.source == FALLBACK else [own_files, published_files]
    models = [
        _model(row, [files(folder, row.name) for files in places], output_dir, results, train, test.ids) for row in rows(results)
    ]
    if not models:
        raise UserError(f"{results} holds no recorded results on the competition's data: run a script with --save-results first")
    labels = true_labels(test.ids)
    parts = {
        "headings": HEADINGS, "lines": [cells(model.row) for model in models],
        "former_note": FORMER_NOTE if any(model.row.is_former_split for model in models) else "",
        "time": plots.accuracy_against_time(
            [(each.row.name, each.row.seconds, each.row.accuracy, each.row.interval) for each in models]
        ),
        "curves": _curves(models),
    }  # fmt: skip
    predicted = [model for model in models if model.test is not None]
    if predicted and labels is not None:
        parts |= _calibration(predicted, labels)
        parts |= _by_length(predicted, labels, test)
        if len(predicted) > 1:
            parts |= {
                "best": predicted[0].row.name,
                "comparison": _comparison(predicted, labels),
                "agreement": _agreement(predicted),
            }
        parts["wrong"] = _wrong(predicted, labels, test, output_dir)
    template = jinja2.Environment(autoescape=True).from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    drawn = ("time", "curves", "calibration", "lengths")
    page = template.render({name: _safe(value) if name in drawn else value for name, value in parts.items()})
    path = output_dir / "report" / "index.html"
    with atomic_write(path, "w") as file:
        file.write(page)
    log(f"{path}: {len(models)} models, {len(predicted)} of them with their predictions")


def _safe(drawing: str) -> Markup:
    return Markup(drawing)  # ours, and not to be escaped as texts are


def _model(row: Row, sources: list[RunFiles], output_dir: Path, results: Path, train: Reviews, test_ids: list[str]) -> Model:
    """The row's model, with the predictions of the first source that is a saved run."""
    again = f"give the competition's files, or remove this file and run the script of {row.name} again"
    path = results / f"{row.name}.json"
    runs = read_runs(path)
    histories = [fit["history"] for run in runs for name, fit in run["fits"].items() if name != "refit"]
    curve = [entry["validation_auc"] for entry in histories[0]] if histories else []
    for files in sources:
        if not files.test.is_file():
            continue
        test = read_probabilities(files.test, test_ids, again)["sentiment"].to_numpy()
        if find_run(path, score_test(test_ids, test)) is None:
            log(f"{files.test} is of another run than those in {path}, and is left out")
            continue
        if files.out_of_fold.is_file():
            probability = read_probabilities(files.out_of_fold, train.ids, again)["sentiment"].to_numpy()
            return Model(row, curve, test, fitted_temperature(probability, train.labels))
        return Model(row, curve, test, _temperature(row.name, runs, output_dir, train))
    return Model(row, curve, None, None)


def _temperature(name: str, runs: list[dict], output_dir: Path, train: Reviews) -> float | None:
    """The temperature of the first saved run with validation whose folder is available.

    It stands for the recipe, whichever seed is submitted.
    """
    for run in runs:
        path = output_dir / "runs" / name / f"seed-{run['seed']}"
        fit = run["fits"].get("validated")
        result = load_fit_result(path / "validated") if fit else None
        if result is None:
            continue
        val_idx = validation_folds(train.ids, train.labels, "movie", None)[0]
        recorded = fit["history"][fit["epoch"] - 1][SELECTION_METRIC]
        labels = train.labels[val_idx]
        # the run in the folder may have had other reviews than the saved results
        if len(result.validation) == len(val_idx) and isclose(roc_auc_score(labels, result.validation), recorded):
            return fitted_temperature(result.validation, labels)
    return None


def _curves(models: list[Model]) -> str:
    curves = {model.row.name: model.curve for model in models if len(model.curve) > 1}
    return plots.learning_curves(curves) if curves else ""


def _calibration(models: list[Model], labels: np.ndarray) -> dict:
    """Reliability and log loss of each model, with and without temperature (Guo et al. 2017)."""
    before, after, lines = {}, {}, []
    for model in models:
        before[model.row.name] = _reliability(labels, model.test)
        loss = f"{log_loss(labels, np.clip(model.test, EPS, 1 - EPS)):.4f}"
        if model.temperature is None:
            lines.append((model.row.name, "-", loss, "-"))
            continue
        scaled = at_temperature(model.test, model.temperature)
        after[model.row.name] = _reliability(labels, scaled)
        lines.append((model.row.name, f"{model.temperature:.2f}", loss, f"{log_loss(labels, scaled):.4f}"))
    panels = {"predicted": before} | ({"with temperature scaling": after} if after else {})
    return {"calibration": plots.reliability(panels), "temperatures": lines}


def _reliability(labels: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    prob_true, prob_pred = calibration_curve(labels, probability, n_bins=BINS)
    return prob_pred, prob_true


def at_temperature(probability: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities with their log-odds divided by the temperature."""
    return expit(logit(np.clip(probability, EPS, 1 - EPS)) / temperature)


def fitted_temperature(probability: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the lowest log loss."""
    minimum = minimize_scalar(
        lambda exponent: log_loss(labels, at_temperature(probability, np.exp(exponent))), bounds=(-3, 3), method="bounded"
    )
    return float(np.exp(minimum.x))


def _by_length(models: list[Model], labels: np.ndarray, test: Reviews) -> dict:
    words = np.array([len(text.split()) for text in test.texts])
    edges = np.unique(np.quantile(words, np.linspace(0, 1, BINS + 1)).astype(int))
    if len(edges) < 3:
        return {}
    bins = np.clip(np.searchsorted(edges, words, side="right") - 1, 0, len(edges) - 2)
    curves = {
        model.row.name: [float(((model.test > 0.5) == labels)[bins == bin].mean()) for bin in range(len(edges) - 1)]
        for model in models
    }
    return {"lengths": plots.accuracy_by_length(edges.tolist(), curves)}


def _comparison(models: list[Model], labels: np.ndarray) -> list[list[str]]:
    """Each model's row against the first one: accuracy and ROC AUC with difference, interval and p-value."""
    best, lines = models[0], []
    for model in models[1:]:
        comparison = compare(labels, best.test, model.test)
        lines.append([model.row.name, f"{comparison.accuracy[1]:.4f}", *comparison.accuracy_difference.cells()])
        if comparison.auc is not None:
            lines[-1] += [f"{comparison.auc[1]:.4f}", *comparison.auc_difference.cells()]
    return lines


def _agreement(models: list[Model]) -> list[tuple[str, list[tuple[str, float]]]]:
    """Name and cells of each row: the percentage of equal labels, and its shade from 0 to 1."""
    predictions = np.array([model.test > 0.5 for model in models])
    fraction = (predictions[:, None] == predictions).mean(-1)
    others = fraction[~np.eye(len(models), dtype=bool)]
    shade = (fraction - others.min()) / max(np.ptp(others), EPS)
    return [
        (model.row.name, [("", 0.0) if i == j else (f"{100 * fraction[i, j]:.1f}", shade[i, j]) for j in range(len(models))])
        for i, model in enumerate(models)
    ]


def _wrong(models: list[Model], labels: np.ndarray, test: Reviews, output_dir: Path) -> dict | None:
    """The reviews that every model misclassifies, the most confident predictions first."""
    probability = np.array([model.test for model in models])
    all_wrong = ((probability > 0.5) != labels).all(0)
    mean = probability.mean(0)
    order = np.argsort(-np.abs(mean - 0.5) * all_wrong)[: min(SHOWN, int(all_wrong.sum()))]
    if not len(order):
        return None
    predictor, name = _best_predictor(models, output_dir)
    reviews = []
    for row in order:
        text = plain(test.texts[row])
        words = predictor.explain(text) if predictor else [(word, 0.0) for word in text.split()]
        strongest = max((abs(weight) for _, weight in words), default=0.0) or 1.0
        reviews.append({
            "id": test.ids[row].strip('"'), "label": "positive" if labels[row] else "negative", "probability": f"{mean[row]:.3f}",
            "words": [(word, weight / strongest) for word, weight in words[:LONGEST]],
        })  # fmt: skip
    return {"count": int(all_wrong.sum()), "of": len(labels), "models": len(models), "reviews": reviews, "predictor": name}


def _best_predictor(models: list[Model], output_dir: Path):
    """The best model whose run is available, to explain its predictions by words."""
    for model in models:
        try:
            folder = run_of(model.row.name, output_dir)
            if not (folder / ENSEMBLE).is_file():  # which could explain one of its members only
                return load(folder), model.row.name
        except UserError:
            continue
    return None, ""
