"""Kernels in a simulated Kaggle: in both layouts of its input, on two processes, and over several sessions."""

import subprocess
import sys
import time

import pretrained
import pytest
import torch
from conftest import ROOT, SMALL
from kaggle_session import Session
from test_runs import submissions

TINY = "--epochs", "8", "--batch-size", "8", "--checkpoint-every", "5", "--no-validation", "--precision", "fp32", "--name"
LORA = "--max-length", "64", "--bits", "32", "--learning-rate", "0.01", "--head-learning-rate", "0.01"
BERT = "--learning-rate", "0.005", "--max-length", "64"
TRAINING = 3.0
"""seconds of training in a short session"""
START = 0.8
"""assumed part of the measured start-up time: on a busy machine the next start may be faster than the measured one"""


@pytest.fixture(scope="module")
def options(glove, tmp_path_factory):
    """The options of each script, without the data's folder."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    bert = pretrained.write(folder / "bert", "bert")
    wider = {"hidden_size": 32, "pooler_hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.1}
    deberta = pretrained.write(folder / "deberta", "deberta-v2", **wider)
    return {
        "tfidf": [],
        "lstm": ["--word-vectors", glove, *SMALL],
        "bert_trainer": ["--model", bert, *BERT, *TINY, "bert_trainer"],
        "deberta_lora": ["--model", deberta, *LORA, *TINY, "deberta_lora"],
    }


def run_script(script: str, options: list, competition, folder, processes: int = 1) -> list[bytes]:
    """Both submissions of the script, run in the repository."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes] if processes > 1 else []
    command = [sys.executable, *several, f"{script}.py", "--data-dir", competition, *options, "--output-dir", folder]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return submissions(folder, script)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "processes"), [("old", 1), ("new", 2)])  # the new one is in each script's own tests
@pytest.mark.parametrize("script", ["lstm", "bert_trainer", "deberta_lora"])
def test_a_kernel_gives_the_scripts_bytes(script, layout, processes, options, competition, tmp_path):
    session = Session(tmp_path, competition, layout)
    done = session.run(script, options[script], processes=processes)
    assert done.returncode == 0 and done.stdout.count("Test: accuracy") == 1, done.stdout + done.stderr
    assert "(Kaggle input)" in done.stdout and "Time budget: 0 days 00:59" in done.stdout
    assert session.submissions(script) == run_script(script, options[script], competition, tmp_path / "script", processes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "layout", "epochs"), [("lstm", "old", 60), ("bert_trainer", "new", 40), ("deberta_lora", "new", 30)]
)
def test_three_sessions_give_the_bytes_of_one(script, layout, epochs, options, competition, tmp_path):
    longer = [*options[script], "--epochs", epochs, "--patience", 99]
    undisturbed = Session(tmp_path / "undisturbed", competition, layout)
    assert undisturbed.run(script, longer).returncode == 0
    start = time.monotonic()
    untrained = Session(tmp_path / "untrained", competition, layout).run(script, longer, seconds=1)
    assert "The time budget is spent" in untrained.stdout
    shortest = time.monotonic() - start
    session = Session(tmp_path / "sessions", competition, layout)
    for number in range(2):
        done = session.run(script, longer, continues=number > 0, seconds=START * shortest + TRAINING)
        assert done.returncode == 0 and "The time budget is spent" in done.stdout, done.stdout + done.stderr
        assert len(session.submissions(script)[0].splitlines()) == 101
    done = session.run(script, longer, continues=True)
    assert done.returncode == 0 and "Resuming the run" in done.stdout and "The time budget is spent" not in done.stdout
    assert session.submissions(script) == undisturbed.submissions(script)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_table_is_filled_over_several_sessions(processes, options, competition, tmp_path):
    scripts = "tfidf", "lstm", "bert_trainer"
    table = ",".join(" ".join(map(str, [script, *options[script]])) for script in scripts)
    session = Session(tmp_path, competition)
    # time for the first script and the start of the second
    first = session.run("table", scripts=table, seconds=1, processes=processes)
    assert "Finished: 1 of 3" in first.stdout and not (session.working / "results" / "lstm.json").exists()
    second = session.run("table", scripts=table, seconds=1, processes=processes, continues=True)
    assert "Finished in an earlier session: tfidf.py" in second.stdout and "The time budget is spent" in second.stdout
    assert "Finished: 1 of 3" in second.stdout and "$ bert_trainer.py" not in second.stdout
    last = session.run("table", scripts=table, processes=processes, continues=True)
    assert "Finished: 3 of 3" in last.stdout and last.returncode == 0, last.stdout + last.stderr
    for script in scripts:
        alone = run_script(script, options[script], competition, tmp_path / script, processes if script != "tfidf" else 1)
        assert session.submissions(script) == alone
        assert (session.working / "results" / f"{script}.json").is_file()
    assert (session.working / "log.txt").read_text().count("Test: accuracy") == 4  # the second session's lstm has a score too
