"""What several runs share: a folder that one of them fills."""

import threading
import time
from types import SimpleNamespace

import pytest
from filelock import FileLock

from popcorn.config import TrainingConfig
from popcorn.errors import UserError
from popcorn.runs.run import run
from popcorn.training import pretraining, processes
from popcorn.training.loop import train
from popcorn.training.model_task import ModelTask
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.utils.cache import file_lock


def test_a_run_waits_for_another_that_trains_the_same(tmp_path, capsys):
    """Two scripts of a family, each on a GPU of its own, ask for one language model."""

    def train(*_):
        raise AssertionError("it was trained a second time")

    folder = tmp_path / "made"
    with FileLock(tmp_path / "made.lock"):
        second = threading.Thread(target=pretraining.train_once, args=(folder, 9, train, TrainingConfig(), train))
        second.start()
        said, ends = "", time.monotonic() + 10
        while "waiting for it" not in said and time.monotonic() < ends:
            time.sleep(0.02)
            said += capsys.readouterr().out
        folder.mkdir()  # as the first run does at its end
    second.join(10)
    assert not second.is_alive() and "waiting for it" in said and "Reusing the language model" in capsys.readouterr().out


def test_several_processes_do_not_wait(tmp_path):
    again = file_lock(tmp_path / "made", waits=False)
    with FileLock(tmp_path / "made.lock"), pytest.raises(UserError, match="start this one when that has ended"), again:
        pass
    with file_lock(tmp_path / "made", waits=False):
        pass


def test_more_processes_than_reviews_a_step_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "PartialState", lambda **_: SimpleNamespace(num_processes=2))
    with pytest.raises(SystemExit) as left:
        run(ModelTask(TrainingConfig(output_dir=tmp_path, batch_size=2, name="test")), PyTorchTrainer(train))
    assert left.value.code == 2 and "--batch-size is 2 for 2 processes" in capsys.readouterr().err
