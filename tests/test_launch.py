"""The part of a kernel that starts the scripts: processes, exit codes, the end of the session, and the next one."""

import json
import os
import time

import psutil
import pytest
from conftest import ROOT

from popcorn.config import STARTED
from popcorn.errors import UserError
from popcorn.kaggle import launch
from popcorn.runs import run as run_flow
from popcorn.utils import kaggle

SCRIPT = """import os, sys
rank, size, end = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "POPCORN_SESSION_END"))
sys.stdout.write(f"rank {rank} of {size} {sys.argv[1:]} {end}\\n")  # at once, since two processes write
open(f"process-{os.getpid()}", "w").close()
"""
OUTPUT = "results/a.json", "submissions/a.csv", "log.txt", "finished.json"
SAVES = "import os, time\nos.makedirs('results', exist_ok=True)\nopen('results/saves.json', 'w').write(str(time.time()))\n"


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A folder of scripts, and a working folder without a GPU."""
    folder, working = tmp_path / "scripts", tmp_path / "working"
    folder.mkdir()
    working.mkdir()
    (folder / "script.py").write_text(SCRIPT)
    (folder / "saves.py").write_text(SAVES)
    (folder / "fails.py").write_text("import sys\nprint('error: a mistake')\nsys.exit(2)\n")
    (folder / "dies.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.chdir(working)
    monkeypatch.setattr(kaggle, "INPUT", tmp_path / "input")
    for name in (kaggle.RUN_TYPE, kaggle.SESSION_END, launch.PROCESSES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)  # in a kernel, the package is in the scripts' folder
    return folder


def test_a_script_runs_in_a_process_of_its_own(scripts, tmp_path, capsys):
    launch.launch(scripts, ["script.py --epochs 2 --name 'a b'"], ["script.py"])
    assert "rank None of None ['--epochs', '2', '--name', 'a b']" in capsys.readouterr().out
    (process,) = (tmp_path / "working").glob("process-*")
    assert process.name != f"process-{os.getpid()}" and "rank None" in (tmp_path / "working" / launch.LOG).read_text()


def test_each_gpu_gets_a_process(scripts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    launch.launch(scripts, ["script.py --epochs 2"], ["script.py"])
    out = capsys.readouterr().out
    assert "rank 0 of 2 ['--epochs', '2']" in out and "rank 1 of 2" in out
    assert len({*(tmp_path / "working").glob("process-*")} - {f"process-{os.getpid()}"}) == 2
    launch.launch(scripts, ["script.py"], [])  # a linear model
    assert "rank None of None" in capsys.readouterr().out


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(("script", "code"), [("fails.py", 2), ("dies.py", 137)])
def test_the_exit_code_is_passed_on(processes, script, code, scripts, monkeypatch, capsys):
    monkeypatch.setenv(launch.PROCESSES, processes)
    with pytest.raises(SystemExit) as ended:
        launch.launch(scripts, [script], [script])
    assert ended.value.code == code and "Traceback" not in capsys.readouterr().out


def test_a_script_that_fails_does_not_stop_the_others(scripts, tmp_path, capsys):
    launch.launch(scripts, ["fails.py", "saves.py", "script.py"], [])
    out = capsys.readouterr().out
    assert "error: a mistake" in out and "Failed with code 2: fails.py" in out and "Finished: 1 of 3" in out
    assert json.loads((tmp_path / "working" / launch.FINISHED).read_text()) == {"commands": ["saves.py"]}


def test_the_next_session_continues_what_is_not_finished(scripts, tmp_path, capsys):
    previous = tmp_path / "input" / "notebooks" / "me" / "popcorn-table"
    for name in ("runs/a/settings.json", "other/large.bin", *OUTPUT):
        (previous / name).parent.mkdir(parents=True, exist_ok=True)
        (previous / name).write_text("earlier\n")
    (previous / launch.FINISHED).write_text('{"commands": ["fails.py --epochs 2"]}')
    launch.launch(scripts, ["fails.py --epochs 2 --resume", "saves.py"], [], "me/popcorn-table")
    out = capsys.readouterr().out
    assert "Finished in an earlier session: fails.py --epochs 2" in out and "Finished: 2 of 2" in out
    copied = {str(path.relative_to(tmp_path / "working")) for path in (tmp_path / "working").rglob("*") if path.is_file()}
    assert copied == {
        "runs/a/settings.json",
        "results/a.json",
        "results/saves.json",
        "submissions/a.csv",
        "log.txt",
        "finished.json",
    }
    assert (tmp_path / "working" / "log.txt").read_text().startswith("earlier\n")
    (previous / "runs" / "a" / "settings.json").write_text("other")
    launch.launch(scripts, ["saves.py"], [], "me/popcorn-table")  # again in the same session
    assert (tmp_path / "working" / "runs" / "a" / "settings.json").read_text() == "earlier\n"


@pytest.mark.parametrize("is_attached", [False, True])
def test_a_missing_output_is_refused_before_anything_runs(is_attached, scripts, tmp_path, capsys):
    if is_attached:  # of a version that ended before any training
        (tmp_path / "input" / "popcorn-lstm").mkdir(parents=True)
    with pytest.raises(SystemExit) as ended:
        launch.launch(scripts, ["script.py --resume"], [], "me/popcorn-lstm")
    assert ended.value.code == 2 and "there is no output of me/popcorn-lstm" in capsys.readouterr().err
    assert not list((tmp_path / "working").iterdir())


def test_no_script_starts_at_the_end_of_the_session(scripts, monkeypatch, capsys):
    end = time.time() + 60
    monkeypatch.setenv(kaggle.SESSION_END, str(end))
    launch.launch(scripts, ["script.py 1", "script.py 2"], [])
    out = capsys.readouterr().out
    assert f"['1'] {end}" in out and "['2']" not in out and "Finished: 0 of 2" in out


@pytest.mark.parametrize(("hours", "left"), [(2, 10), (11, 1), (500, 12)])
def test_a_session_ends_after_twelve_hours(hours, left, monkeypatch):
    monkeypatch.delenv(kaggle.SESSION_END, raising=False)
    monkeypatch.delenv(kaggle.RUN_TYPE, raising=False)
    assert kaggle.session_end() is None
    monkeypatch.setenv(kaggle.RUN_TYPE, "Batch")
    first = []
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: first.append(process.pid) or time.time() - hours * 3600)
    assert kaggle.session_end() - time.time() == pytest.approx(left * 3600 - kaggle.MARGIN, abs=5) and first == [1]


def test_the_time_budget_is_what_is_left_of_the_session(monkeypatch, capsys):
    import lstm
    import tfidf

    monkeypatch.setenv(kaggle.SESSION_END, str(time.time() + 3 * 3600 + 30))
    assert run_flow.deadline_of(lstm.Config()) - time.monotonic() == pytest.approx(3 * 3600 + 30, abs=5)
    assert "Time budget: 0 days 03:00" in capsys.readouterr().out
    assert run_flow.deadline_of(lstm.Config(time_budget="20m")) - STARTED == pytest.approx(1200)
    assert run_flow.deadline_of(tfidf.Config()) == float("inf") and not capsys.readouterr().out
    monkeypatch.delenv(kaggle.SESSION_END)
    monkeypatch.delenv(kaggle.RUN_TYPE, raising=False)
    assert run_flow.deadline_of(lstm.Config()) == float("inf")


def test_a_damaged_list_of_finished_commands_is_refused(scripts, tmp_path):
    (tmp_path / "working" / launch.FINISHED).write_text("{")
    with pytest.raises(UserError, match=r"finished\.json is damaged"):
        launch.read_finished()
