import numpy as np
import pytest
from conftest import run

from popcorn.data.submission import write_out_of_fold, write_submissions
from popcorn.errors import UserError
from popcorn.metrics import half_width, true_labels
from popcorn.reporting.score import score_file

SAMPLE = ['"12_10"', '"5_2"', '"7_7"', '"9_4"']
TEST = ['"9_4"', '"7_7"', '"12_10"', '"5_2"']


def test_both_files_follow_the_sample(tmp_path):
    write_submissions(tmp_path, "model", SAMPLE, TEST, np.array([0.1, 0.4, 0.9, 0.6]))
    assert (tmp_path / "model.csv").read_text() == 'id,sentiment\n"12_10",1\n"5_2",1\n"7_7",0\n"9_4",0\n'
    assert (tmp_path / "model.proba.csv").read_text().split("\n")[1] == '"12_10",0.900000'


@pytest.mark.parametrize(
    ("sample", "test", "values", "said"),
    [
        (SAMPLE[:3], TEST, [0.1] * 4, 'sample submission lacks 1 ids of the other, for example "9_4"'),
        (SAMPLE, TEST[:3], [0.1] * 3, 'test file lacks 1 ids of the other, for example "5_2"'),
        (SAMPLE, TEST, [0.1, float("nan"), 0.2, 0.3], 'review "7_7" is nan'),
        (SAMPLE, TEST, [0.1, 0.2, 1.2, 0.3], 'review "12_10" is 1.2'),
    ],
)
def test_nothing_is_written_of_a_wrong_submission(tmp_path, sample, test, values, said):
    with pytest.raises(UserError, match=said):
        write_submissions(tmp_path, "model", sample, test, np.array(values))
    assert list(tmp_path.iterdir()) == []


def test_out_of_fold_leaves_out_what_no_fold_had(tmp_path):
    write_out_of_fold(tmp_path, "model", SAMPLE, np.array([0.1, 0.2, np.nan, 0.4]), np.array([1, 2, 0, 1]))
    assert (
        tmp_path / "model.oof.csv"
    ).read_text() == 'id,fold,sentiment\n"12_10",1,0.100000\n"5_2",2,0.200000\n"9_4",1,0.400000\n'


def test_labels_come_from_the_rating():
    assert true_labels(SAMPLE).tolist() == [1, 0, 1, 0] == true_labels([id.strip('"') for id in SAMPLE]).tolist()
    assert true_labels(["12", "5_2"]) is None and true_labels([]) is None


def test_half_width_of_the_known_case():
    assert half_width(0.91, 25_000) == pytest.approx(0.0035, abs=5e-5)
    assert half_width(0.95, 25_000) == pytest.approx(0.0027, abs=5e-5)


def written(tmp_path, text):
    path = tmp_path / "file.csv"
    path.write_text(text)
    return path


def test_any_order_quotes_or_none_labels_or_probabilities(tmp_path):
    for text in (
        'id,sentiment\n"9_4",0\n"12_10",1\n"7_7",0\n"5_2",0\n',
        "id,sentiment\n5_2,0.2\n9_4,0.1\n12_10,0.9\n7_7,0.45\n",
    ):
        score = score_file(written(tmp_path, text), TEST)
        assert score.accuracy == 0.75 and score.reviews == 4
    assert score.auc == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,sentiment\n5_2,0\n9_4,0\n12_10,1\n", "1 missing ids, for example 7_7"),
        ("id,sentiment\n5_2,0\n9_4,0\n12_10,1\n7_7,1\n5_2,1\n", "row 6: 1 doubled ids, for example 5_2"),
        ("id,sentiment\n5_2,0\n9_4,0\n12_10,1\n8_8,1\n7_7,1\n", "row 5: 1 unknown ids, for example 8_8"),
        ("id,sentiment\n5_2,0\n9_4,0\n12_10,1\n7_7,yes\n", "row 5: the sentiment is yes"),
        ("id,sentiment\n5_2,0\n9_4,0\n12_10,1\n7_7,\n", "row 5: the sentiment is nan"),
        ("id,sentiment\n5_2,0\n9_4,0\n12_10,1\n7_7,1.5\n", "row 5: the sentiment is 1.5"),
        ("id,label\n5_2,0\n", "row 1: the columns are"),
        ("", "cannot be read as a submission"),
    ],
)
def test_a_wrong_submission_is_refused(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as refusal:
        score_file(path, TEST)
    assert said in str(refusal.value) and str(path) in str(refusal.value)


def test_command_scores_several_files_or_none(tmp_path, competition):
    ids = [line.split(",")[0] for line in (competition / "sampleSubmission.csv").read_text().split("\n")[1:-1]]
    labels = true_labels(ids)
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("id,sentiment\n" + "".join(f"{id},{label}\n" for id, label in zip(ids, labels, strict=True)))
    bad.write_text("id,sentiment\n" + "".join(f"{id},{label}\n" for id, label in zip(ids[1:], labels[1:], strict=True)))
    folds = tmp_path / "good.oof.csv"  # a run with --folds leaves it beside them, and *.csv names it too
    folds.write_text("id,fold,sentiment\n12_9,1,0.5\n")
    unlabeled = tmp_path / "good.unlabeled.csv"  # so does predict --unlabeled
    unlabeled.write_text("id,probability\n12_0,0.5\n")
    shown = run("-m", "popcorn", "score", good, folds, unlabeled, good, "--data-dir", competition).stdout
    assert shown.count("1.00000") == 4
    assert "id,sentiment are expected" in run("-m", "popcorn", "score", folds, "--data-dir", competition, code=2).stderr
    refused = run("-m", "popcorn", "score", good, bad, "--data-dir", competition, code=2)
    assert "missing ids" in refused.stderr and "1.00000" not in refused.stdout
