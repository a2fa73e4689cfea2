"""A small competition that has what the real one has: quotes, ratings in the ids, movies, line breaks, unlabeled reviews."""

import gc
import io
import os
import runpy
import socket
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

# the models here are tiny: a second thread only waits for the first; torch reads this as it is imported
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from kaggle_session import Session
from preloaded import ROOT, PreloadedProcess, stop_server

from popcorn.data import stanford

PRAISE = "superb moving delightful brilliant touching masterful charming gripping".split()
BLAME = "dull awful tedious clumsy pointless boring wretched lifeless".split()
FILLER = "the a film story it was and with actor scene plot of in this that one script camera music end".split()
COSTLY = "undisturbed", "pretrained_further", "task", "finished", "page", "two_processes"
"""fixtures of a module that take long: the tests that share one run in one process"""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Groups for pytest-xdist's `--dist loadgroup`, so that no such fixture is made twice."""
    for item in items:
        if shared := [name for name in COSTLY if name in item.fixturenames]:
            item.add_marker(pytest.mark.xdist_group(f"{item.module.__name__}.{shared[0]}"))


def pytest_collection_finish():
    """Leaves the libraries out of every later garbage collection, which would take most of a second with them."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    stop_server()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache, and find no competition files of this machine."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    patch.delenv("POPCORN_DATA", raising=False)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def own_accelerate():
    """Accelerate keeps the first precision that a process asks for; tests in one process ask for several."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def reviews(count: int, seed: int, labeled: bool = True) -> list[stanford.Row]:
    """`count` reviews, half of them positive, in which words of praise or of blame are five to one."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count // 2):
        for label in (0, 1):
            words = list(generator.choice(FILLER, generator.integers(5, 40)))
            mine, other = (PRAISE, BLAME) if label else (BLAME, PRAISE)
            words += [*generator.choice(mine, 5), *generator.choice(other, 1)]
            generator.shuffle(words)
            words[0] = f'"{words[0]}"'
            rating = (9 if label else 2) if labeled else label
            # ids spread over the range that Stanford's have, so that there are many blocks of movies
            rows.append((f"{number * 12_500 // (count // 2)}_{rating}", label, " ".join(words) + ".<br />"))
    return rows


@pytest.fixture(scope="session")
def competition(tmp_path_factory) -> Path:
    """A folder with the four files: 400 training, 100 test and 60 unlabeled reviews."""
    folder = tmp_path_factory.mktemp("competition")
    stanford.write_competition(folder, reviews(400, 1), reviews(100, 2), reviews(60, 3, labeled=False))
    return folder


@pytest.fixture(scope="session")
def glove(tmp_path_factory) -> Path:
    """A GloVe file, 16 wide, of the small competition's words and of words that hold blanks."""
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("glove") / "glove.small.16d.txt"
    with path.open("w") as file:
        for word in [*FILLER, *PRAISE, *BLAME, ". . .", ".", '"', "``", "''", "at name@domain.com", "unseen"]:
            file.write(word + "".join(f" {number:.5f}" for number in generator.normal(size=16)) + "\n")
    return path


def some_fast(fast: list, scripts) -> list:
    """Parameters of a long test, names or tuples: the `fast` scripts for `make test`, the others for `make test-all`."""
    return [
        script if script in fast else pytest.param(*(script if isinstance(script, tuple) else [script]), marks=pytest.mark.slow)
        for script in scripts
    ]


def zipped(path: Path) -> Path:
    """The file as the only member of `<path>.zip`."""
    archive = path.with_name(path.name + ".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(path, path.name)
    return archive


def run(*command: object, code: int = 0, **variables: str) -> subprocess.CompletedProcess:
    """Runs `python <command>` in the repository, and expects an exit code and, where that is not 0, a sentence.

    With variables, which libraries read as they are imported, it takes the seconds that their import takes.
    """
    if variables:
        done = subprocess.run(
            [sys.executable, *map(str, command)], cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
        )
    else:
        done = PreloadedProcess(*command).wait()
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def run_in_two_processes(*command: object) -> str:
    """Runs `python <command>` twice, as torchrun does for one process on each of two GPUs; what both printed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    processes = [PreloadedProcess(*command, RANK=rank, LOCAL_RANK=rank, **job) for rank in "01"]
    done = [process.wait() for process in processes]
    assert [each.returncode for each in done] == [0, 0], "".join(each.stdout + each.stderr for each in done)
    return "".join(each.stdout for each in done)


def run_here(script: str, *arguments: object, code: int = 0) -> str:
    """Runs a script in this process, for what ends before any training; what it printed, and expects an exit code."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.setattr(sys, "excepthook", sys.excepthook)
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as exit:
            assert (exit.code or 0) == code, printed.getvalue()
        else:
            assert code == 0, printed.getvalue()
    assert "Traceback" not in printed.getvalue()
    return printed.getvalue()


def run_kernel(script: str, options: list, competition: Path, folder: Path) -> list[bytes]:
    """Both submissions of the script's kernel: one file, alone, in a simulated session of Kaggle."""
    session = Session(folder, competition)
    done = session.run(script, options)
    assert done.returncode == 0 and "(Kaggle input)" in done.stdout, done.stdout + done.stderr
    return session.submissions(script)


SMALL = (
    "--hidden", "16", "--epochs", "3", "--batch-size", "16", "--learning-rate", "0.03", "--embedding-lr-scale", "1",
    "--dropout", "0.1", "--word-dropout", "0.1", "--checkpoint-every", "3",
)  # fmt: skip
"""options that make a run of lstm.py take seconds"""
