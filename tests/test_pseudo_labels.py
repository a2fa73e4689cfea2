import shutil

import numpy as np
import pytest
from conftest import SMALL, run

from popcorn.data import competition as competition_data
from popcorn.data.splits import Split
from popcorn.errors import UserError
from popcorn.training.pseudo_labels import Teacher


def teach(folder, part, max_train_samples=None):
    return Teacher(competition_data.Competition(folder, "--data-dir"), max_train_samples).with_pseudo_labels(part)


def test_the_teacher_knows_the_unlabeled_and_leaves_the_labels(competition):
    part, targets = teach(competition, Split("validated", np.arange(300), np.arange(300, 400)))
    assert targets.shape == (460,) and part.train.tolist() == [*range(300), *range(400, 460)]
    labels = competition_data.Competition(competition, "--data-dir").read(competition_data.TRAIN).labels
    assert np.array_equal(targets[:400], labels) and np.array_equal(part.validation, np.arange(300, 400))
    soft = targets[400:]
    assert ((soft > 0) & (soft < 1)).all()
    truth = np.arange(60) % 2  # how conftest writes them; the file itself does not tell
    assert ((soft > 0.5) == truth).mean() > 0.8


def test_the_teacher_never_sees_what_is_validated_on(competition, tmp_path):
    """Other labels and other words in the held-out rows change nothing that it says of the unlabeled."""
    folder = tmp_path / "other"
    shutil.copytree(competition, folder)
    lines = (folder / competition_data.TRAIN).read_text().splitlines()
    for row in range(301, 401):
        id, label, _ = lines[row].split("\t")
        lines[row] = f'{id}\t{1 - int(label)}\t"something else entirely"'
    (folder / competition_data.TRAIN).write_text("\n".join(lines) + "\n")
    part = Split("validated", np.arange(300), np.arange(300, 400))
    assert np.array_equal(teach(competition, part)[1][400:], teach(folder, part)[1][400:])


def test_a_quick_try_takes_as_many_unlabeled_as_labeled_reviews(competition):
    part, targets = teach(competition, Split("refit", np.arange(40), np.arange(0)), max_train_samples=40)
    assert len(part.train) == 80 and len(targets) == 440


def test_without_unlabeled_reviews_it_says_so(competition, tmp_path):
    folder = tmp_path / "less"
    shutil.copytree(competition, folder)
    (folder / competition_data.UNLABELED).write_text("id\treview\n")
    for _ in range(2):  # an empty file, then none
        with pytest.raises(UserError, match="leave the option out"):
            teach(folder, Split("refit", np.arange(400), np.arange(0)))
        (folder / competition_data.UNLABELED).unlink(missing_ok=True)


def test_the_run_has_a_name_of_its_own(competition, glove, tmp_path):
    done = run("lstm.py", "--data-dir", competition, "--word-vectors", glove, *SMALL, "--pseudo-labels", "--output-dir", tmp_path)
    assert "the teacher is trained on 400 labeled reviews" in done.stdout  # the refit's; the validated part's before
    assert {path.name for path in (tmp_path / "submissions").iterdir()} == {
        "lstm-pseudo-labels.csv",
        "lstm-pseudo-labels.proba.csv",
    }
