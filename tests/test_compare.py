"""Whether a change is better than chance: the statistics against other libraries', and what is compared with what."""

import itertools

import numpy as np
import pandas as pd
import pytest
from conftest import run_here
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar

from popcorn.config import RunConfig
from popcorn.data import competition as competition_data
from popcorn.data.splits import split_checksum, validation_splits
from popcorn.data.submission import write_out_of_fold, write_submissions
from popcorn.metrics import true_labels
from popcorn.reporting.paired import accuracy_difference, auc_difference, compare
from popcorn.runs.run_dir import save_fit_result, settings_of
from popcorn.training.fit_result import FitResult
from popcorn.utils.files import write_json


def correct_and_wrong(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the reviews two models get right: both of them, only one, or neither."""
    counts = both, first, second, neither
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize("counts", [(80, 5, 12, 3), (80, 12, 5, 3), (22_000, 880, 1_020, 1_100), (90, 0, 6, 4), (10, 3, 3, 0)])
def test_the_p_value_is_that_of_statsmodels(counts):
    difference = accuracy_difference(*correct_and_wrong(*counts))
    both, first, second, neither = counts
    assert difference.p == pytest.approx(mcnemar([[both, first], [second, neither]], exact=True).pvalue, rel=1e-9)
    assert difference.value == pytest.approx((second - first) / sum(counts))


def test_two_equal_models_are_not_distinguishable_and_the_interval_has_a_width():
    difference = accuracy_difference(*correct_and_wrong(90, 0, 0, 10))
    assert difference.p == 1 and difference.relation == "not distinguishable from"
    assert difference.low == pytest.approx(-difference.high) and 0.01 < difference.high < 0.05


def test_the_interval_of_the_accuracies_holds_the_true_difference_as_often_as_it_says():
    """Two models with 3% and 5% of the reviews to themselves."""
    generator, hits, rounds = np.random.default_rng(0), 0, 1_000
    for _ in range(rounds):
        counts = generator.multinomial(500, [0.80, 0.03, 0.05, 0.12])
        difference = accuracy_difference(*correct_and_wrong(*counts))
        hits += difference.low <= 0.02 <= difference.high
    assert 0.93 <= hits / rounds <= 0.97


def delong_by_pairs(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """DeLong et al. 1988 as it is written there: every positive review with every negative one; both areas and the error."""
    wins = []
    for values in (first, second):
        pairs = itertools.product(values[labels == 1], values[labels == 0])
        wins.append(np.array([(x > y) + (x == y) / 2 for x, y in pairs]).reshape((labels == 1).sum(), -1))
    variance = 0.0
    for axis in (1, 0):
        covariance = np.cov([matrix.mean(axis) for matrix in wins])
        variance += (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) / wins[0].shape[1 - axis]
    return wins[0].mean(), wins[1].mean(), variance**0.5


@pytest.mark.parametrize("decimals", [6, 1])
def test_the_areas_and_their_interval_are_those_of_all_pairs(decimals):
    """With ties too, as a submission's digits bring them."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 120)
    first = (labels + generator.normal(0, 1, 120)).round(decimals)
    second = (first + generator.normal(0, 0.7, 120)).round(decimals)
    auc, difference = auc_difference(labels, first, second)
    expected_first, expected_second, error = delong_by_pairs(labels, first, second)
    assert auc == pytest.approx((expected_first, expected_second))
    assert auc == pytest.approx((roc_auc_score(labels, first), roc_auc_score(labels, second)))
    value = expected_second - expected_first
    assert (difference.low, difference.high) == pytest.approx((value - 1.96 * error, value + 1.96 * error))
    assert difference.p == pytest.approx(2 * (1 - norm.cdf(abs(value) / error)))


def test_a_model_compared_with_itself_and_with_its_opposite():
    labels, values = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    _, same = auc_difference(labels, values, values)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    _, opposite = auc_difference(labels, values, 1 - values)
    assert opposite.value == -1 and opposite.p == 0 and opposite.relation == "worse than"


def test_labels_alone_have_no_roc_curve():
    labels, values = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.8, 0.9])
    comparison = compare(labels, values, (values > 0.5).astype(float))
    assert comparison.auc is None and comparison.agreement == 1 and comparison.accuracy == (0.75, 0.75)


@pytest.fixture
def runs(competition, tmp_path):
    """Two runs, `weak` and `strong`, that were validated on the same hold-out; and what they predict for it."""
    its = competition_data.find_competition(competition)
    train, test = its.read(competition_data.TRAIN), its.read(competition_data.TEST)
    (split,) = validation_splits(RunConfig(), train.ids, train.labels)
    for name, seed, noise in (("weak", 0, 1.5), ("strong", 1, 0.4)):
        generator = np.random.default_rng(seed)
        predicted = [
            1 / (1 + np.exp(-(2.0 * labels - 1 + generator.normal(0, noise, len(labels)))))
            for labels in (train.labels[split.validation], true_labels(test.ids))
        ]
        keep_run(tmp_path, RunConfig(name=name), train, split, *predicted)
        write_submissions(tmp_path / "submissions", name, its.sample_ids(), test.ids, predicted[1])
    return tmp_path


def keep_run(folder, config, train, split, validation, test):
    """The folder of a finished run, with its hold-out predictions and its refit."""
    run = folder / "runs" / config.name / f"seed-{config.seed}"
    write_json(run / "settings.json", settings_of(config) | {"split": split_checksum(train.ids, [split.validation])})
    for name, result in (("validated", FitResult(validation, test[:0])), ("refit", FitResult(validation[:0], test))):
        (run / name).mkdir(parents=True)
        save_fit_result(run / name, result)


def compared(competition, folder, *arguments, code=0):
    options = "--output-dir", folder, "--data-dir", competition
    return " ".join(run_here("popcorn/__main__.py", "compare", *arguments, *options, code=code).split())


def test_runs_are_compared_on_their_validation_reviews_first(runs, competition):
    """And the reviews that only one gets right are written for both."""
    shown = compared(competition, runs, "weak", "strong", "--output", runs / "reviews.csv")
    validation, _, test = shown.partition("Choose between your own changes by these reviews")
    assert "40 validation reviews" in validation and "100 test reviews" in test
    assert "By accuracy, strong is better than weak." in test
    assert "By ROC AUC, strong is better than weak." in test
    table = pd.read_csv(runs / "reviews.csv")
    assert set(table["reviews"]) == {"validation", "test"}
    assert (((table["A"] > 0.5) == table["sentiment"]) == (table["correct"] == "A")).all()
    assert (((table["B"] > 0.5) == table["sentiment"]) == (table["correct"] == "B")).all()
    only_test = table[table["reviews"] == "test"]
    count = int((only_test["correct"] == "A").sum()), int((only_test["correct"] == "B").sum())
    assert f"Only weak is right about {count[0]}" in test and f"Only strong is right about {count[1]}, for example" in test
    assert "By accuracy, weak is worse than strong." in compared(competition, runs, "strong", "weak")


def test_the_validation_predictions_are_those_of_the_submissions_own_seed(runs, competition):
    """A run of another seed, or of other options in the same folder, has nothing to do with the submission."""
    path = runs / "runs" / "weak"
    (path / "seed-1").rename(path / "seed-2")
    its = competition_data.find_competition(competition)
    train = its.read(competition_data.TRAIN)
    (split,) = validation_splits(RunConfig(), train.ids, train.labels)
    wrong = 1.0 - train.labels[split.validation]
    keep_run(runs, RunConfig(name="weak", seed=1), train, split, wrong * 0.9, np.full(100, 0.3))
    shown = compared(competition, runs, "weak", "strong")
    assert "validation reviews" in shown and "0.00000" not in shown
    (path / "seed-2" / "refit" / "predictions.npz").unlink()  # then no run is that of the submission
    assert "no validation predictions on the same reviews" in compared(competition, runs, "weak", "strong")


def test_runs_on_other_splits_are_compared_on_the_test_reviews_alone(runs, competition):
    settings = runs / "runs" / "weak" / "seed-1" / "settings.json"
    its = competition_data.find_competition(competition)
    train, test = its.read(competition_data.TRAIN), its.read(competition_data.TEST)
    config = RunConfig(name="random", split_by="random")
    (split,) = validation_splits(config, train.ids, train.labels)
    keep_run(runs, config, train, split, np.full(len(split.validation), 0.4), np.full(100, 0.4))
    write_submissions(runs / "submissions", "random", its.sample_ids(), test.ids, np.full(100, 0.4))
    shown = compared(competition, runs, "random", "strong")
    assert "validation reviews" not in shown and "100 test reviews" in shown
    assert "run both on the same data with the same --folds or --split-by" in shown
    settings.write_text("{")
    assert "settings.json is damaged" in compared(competition, runs, "weak", "strong", code=2)


def test_out_of_fold_predictions_are_compared_where_both_runs_have_the_same_folds(runs, competition):
    train = competition_data.find_competition(competition).read(competition_data.TRAIN)
    fold, half = np.arange(400) % 5 + 1, np.where(train.labels == 1, 0.6, 0.4)
    write_out_of_fold(runs / "submissions", "strong", train.ids, half, fold)
    assert "no validation predictions on the same reviews" in compared(competition, runs, "weak", "strong")
    write_out_of_fold(runs / "submissions", "weak", train.ids, 1 - half, fold)
    assert "400 validation reviews" in compared(competition, runs, "weak", "strong")
    files = [runs / "submissions" / f"{name}.oof.csv" for name in ("weak", "strong")]
    assert "By accuracy, " in compared(competition, runs, *files)
    write_out_of_fold(runs / "submissions", "weak", train.ids, 1 - half, np.arange(400) % 4 + 1)
    assert "no validation predictions on the same reviews" in compared(competition, runs, "weak", "strong")
    assert "weak.oof.csv and" in (refused := compared(competition, runs, *files, code=2)) and "folds of" in refused


def test_files_need_neither_a_run_nor_the_data(runs, tmp_path):
    first, second = runs / "submissions" / "weak.csv", tmp_path / "any order.csv"
    header, *rows = (runs / "submissions" / "strong.proba.csv").read_text().replace('"', "").splitlines()
    second.write_text("\n".join([header, *reversed(rows)]) + "\n")
    shown = compared(tmp_path / "missing", tmp_path / "nowhere", first, second)
    assert "100 reviews" in shown and "needs probabilities of both" in shown
    assert shown.endswith("any order.csv is better than " + str(first) + ".")


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("id,sentiment\n1_9,0.5\n2_1,0.5\n", "have different reviews: 2 ids are in one of them only, for example 3_9"),
        ("id,sentiment\n1_9,0.5\n1_9,0.5\n", "row 3: 1 doubled ids, for example 1_9"),
        ("id,sentiment\n1_9,5\n", "row 2: the sentiment is 5"),
        ("id,label\n1_9,5\n", "id,sentiment or id,fold,sentiment are expected"),
        (None, "there is no file"),
    ],
)
def test_what_cannot_be_compared_is_refused(second, said, tmp_path, competition):
    first, other = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("id,sentiment\n1_9,0.5\n2_1,0.5\n3_9,0.5\n4_1,0.5\n")
    if second is not None:
        other.write_text(second)
    shown = compared(competition, tmp_path, first, other, "--output", tmp_path / "reviews.csv", code=2)
    assert said in shown and not (tmp_path / "reviews.csv").exists()


def test_ids_without_ratings_are_refused_and_no_input_is_replaced(tmp_path, competition):
    plain = tmp_path / "plain.csv"
    plain.write_text("id,sentiment\n1,0.5\n2,0.5\n")
    assert "plain.csv: the ids, such as 1, do not have ratings" in compared(competition, tmp_path, plain, plain, code=2)
    rated = tmp_path / "rated.csv"
    rated.write_text("id,sentiment\n1_9,0.5\n2_1,0.5\n3_9,0.5\n4_1,0.5\n")
    before = rated.read_text()
    assert "is one of the compared files" in compared(competition, tmp_path, rated, rated, "--output", rated, code=2)
    assert rated.read_text() == before
