"""Several runs at once, and several processes of one run: who owns a folder, and who waits for whom."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pretrained
import pytest
import torch
from conftest import ROOT
from two_processes import mixed_training

import lstm
import nbsvm
import tfidf
from popcorn.errors import UserError
from popcorn.models.saved import run_of
from popcorn.runs.run import run
from popcorn.runs.run_dir import folder_of, start_or_resume
from popcorn.training.fit_result import FitResult
from popcorn.training.sklearn_pipeline import SklearnTrainer, TextTask
from popcorn.training.word_model import WordModelTask
from popcorn.utils.cache import file_lock


class NoTraining:
    """A trainer that predicts 0.5; `before_fit` is called first."""

    def __init__(self, before_fit=lambda: None):
        self.before_fit = before_fit

    def start(self, config):
        pass

    def set_up(self, task, run_dir, deadline):
        self.before_fit()
        self.task = task

    def fit(self, split):
        validation, test = (np.full(length, 0.5) for length in (len(split.validation), len(self.task.test)))
        return FitResult(validation, test, epoch=1, history=[{"epoch": 1}])

    def summary(self):
        return {}

    def finish(self):
        pass


def run_linear(build_pipeline, config):
    run(TextTask(build_pipeline, config), SklearnTrainer())


def options(competition, folder, **more):
    return {"data_dir": competition, "output_dir": folder, "name": "shared"} | more


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("second", ["tfidf", "nbsvm", "lstm", "lstm --resume"])
@pytest.mark.parametrize("first", ["tfidf", "lstm"])
def test_a_second_run_into_the_folder_of_one_that_is_alive_is_refused(first, second, competition, glove, tmp_path, capsys):
    """It is begun in the middle of the first one, and touches nothing."""
    lstm_config = lstm.Config(**options(competition, tmp_path, word_vectors=glove, hidden=4, resume=second.endswith("resume")))

    def start_second():
        before = files(tmp_path)
        with pytest.raises(SystemExit) as ended:
            if second.startswith("lstm"):
                run(WordModelTask(lstm.LSTM, lstm_config), NoTraining())
            else:
                script = {"tfidf": tfidf, "nbsvm": nbsvm}[second]
                run_linear(script.build_pipeline, script.Config(**options(competition, tmp_path)))
        assert ended.value.code == 2 and files(tmp_path) == before
        assert "another run is at work in" in capsys.readouterr().err

    def start_second_once():
        if not done:
            done.append(1)
            start_second()

    def build_pipeline(config):
        start_second_once()
        return tfidf.build_pipeline(config)

    done = []
    if first == "lstm":
        config = lstm.Config(**options(competition, tmp_path, word_vectors=glove, hidden=4))
        run(WordModelTask(lstm.LSTM, config), NoTraining(start_second_once))
    else:
        run_linear(build_pipeline, tfidf.Config(**options(competition, tmp_path)))
    assert done and (tmp_path / "submissions" / "shared.csv").is_file()
    assert [path.name for path in (tmp_path / "runs" / "shared").glob("seed-*") if path.is_dir()] == ["seed-1"]
    assert run_of("shared", tmp_path).name == "seed-1"


@pytest.mark.parametrize("other", [{"seed": 2}, {"name": "other"}, {}])
def test_other_folders_are_free_and_so_is_ones_own_afterwards(other, competition, tmp_path):
    """As in a notebook, whose one process runs a script twice."""

    def build_pipeline(config):
        if config.max_train_samples:
            config.max_train_samples = None  # once
            if other:
                run_linear(tfidf.build_pipeline, tfidf.Config(**options(competition, tmp_path) | other))
        return tfidf.build_pipeline(config)

    for _ in range(2):
        run_linear(build_pipeline, tfidf.Config(**options(competition, tmp_path, max_train_samples=300)))
    assert len(list((tmp_path / "runs").glob("*/seed-*/model.json"))) == (4 if other else 2)  # each with one earlier run


def test_a_lock_outlives_the_renaming_and_not_its_process(tmp_path):
    config = tfidf.Config(output_dir=tmp_path, name="shared")
    hold = (
        "from pathlib import Path; from popcorn.utils.cache import file_lock; "
        f"held = file_lock(Path({str(folder_of(config))!r}), waits=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", f"{hold}\nheld.__enter__(); print('held', flush=True); input()"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        process.stdout.readline()
        for _ in range(3):  # as runs do that know of no lock
            start_or_resume(config)
            with pytest.raises(UserError), file_lock(folder_of(config), waits=False):
                pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with file_lock(folder_of(config), waits=False):
        pass


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What `two_processes.py` predicts."""
    tmp_path = tmp_path_factory.mktemp("two_processes")
    torch.manual_seed(0)
    checkpoint = pretrained.write(tmp_path / "bert", "bert", initializer_range=0.4, hidden_dropout_prob=0.0)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    command = (*launch, "tests/two_processes.py", checkpoint, tmp_path)
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    )
    try:
        assert process.wait(timeout=200) == 0
    finally:
        process.terminate()  # which ends both
        process.wait()
    return json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["native", "trainer"])
def test_one_process_without_memory_makes_both_go_on_in_smaller_pieces(name, two_processes):
    """Only the second one runs out of it. Predictions after two steps are those of an undisturbed training."""
    (trained,), (limited,) = two_processes[f"{name} trained"].values(), two_processes[f"{name} limited"].values()
    assert limited[1] == pytest.approx(trained[1], abs=1e-6)
    assert np.abs(np.array(trained[1]) - two_processes[name]["1"][1]).max() > 1e-4


def test_gradients_are_averaged_although_a_process_has_none(two_processes):
    assert two_processes["gradients"] == [1.5, 0.5, None]


def test_two_processes_predict_fewer_reviews_than_they_are(two_processes):
    """One, two and three of them, with two trainers: a process without a batch must not keep the other waiting."""
    for name in ("native", "trainer"):
        found = two_processes[name]
        all_three = found["3"][1]
        assert np.std(all_three) > 1e-3
        for size, (validation, test) in found.items():
            assert test == pytest.approx(all_three[: int(size)], abs=1e-6)
            assert validation == pytest.approx(test if int(size) > 1 else [], abs=1e-6)


def test_two_processes_share_the_mixed_objective(two_processes, tmp_path):
    """They have other labeled reviews each, and train the model of a single process."""
    alone = mixed_training(tmp_path)
    for metric, values in two_processes["mixed"].items():
        assert values == pytest.approx(alone[metric], abs=1e-5), metric
    assert alone["loss"][0] > alone["loss"][-1] + 0.05
