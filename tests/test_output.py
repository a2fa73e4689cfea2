"""What is printed never decides what is kept; what a run computed is written before what it can do without."""

import errno
import io
import json
import subprocess
import sys

import numpy as np
import pretrained
import pytest
import torch
from conftest import ROOT, reviews
from rich.console import Console
from tqdm import tqdm
from transformers import BertForSequenceClassification

import bert_trainer
import nbsvm
import tfidf
from popcorn.data import stanford
from popcorn.errors import TrainingDivergedError, UserError, exit_on_user_error, log
from popcorn.metrics import compute_metrics
from popcorn.runs import run_dir
from popcorn.runs.run import run
from popcorn.training import sklearn_pipeline
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.hf_trainer import HFTrainer
from popcorn.training.review_trainer import ReviewTrainer
from popcorn.training.sklearn_pipeline import SklearnTrainer, TextTask


class Failing(io.StringIO):
    """A stream whose reader is gone, or whose disk is full."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, "cannot print")

    def flush(self):
        self.write("")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {
    "ascii": lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"),
    "code page": lambda: io.TextIOWrapper(io.BytesIO(), encoding="cp1251"),  # which has the sign, and not all others
    "broken pipe": lambda: Failing(errno.EPIPE),
    "full disk": lambda: Failing(errno.ENOSPC),
    "closed": closed,
    "none": lambda: None,
}


def run_linear(script, **options):
    run(TextTask(script.build_pipeline, script.Config(**options)), SklearnTrainer())


def run_tfidf(competition, folder, **more):
    run_linear(tfidf, data_dir=competition, output_dir=folder, name="tfidf", **more)


@pytest.mark.parametrize("stream", STREAMS)
def test_results_are_recorded_whatever_becomes_of_what_is_printed(stream, competition, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", STREAMS[stream]())
    monkeypatch.setattr(sys, "stderr", STREAMS[stream]())
    run_tfidf(competition, tmp_path, save_results=True)
    with exit_on_user_error():
        log("± \udcff ☺")
        Console().print("± ☺")
        Console(stderr=True).print("± ☺")
        for _ in tqdm(range(2), desc="± ☺"):
            tqdm.write("± ☺")
    assert (tmp_path / "submissions" / "tfidf.proba.csv").is_file()
    (entry,) = json.loads((tmp_path / "results" / "tfidf.json").read_text(encoding="utf-8"))["runs"]
    assert entry["accuracy"] > 0.8
    if stream == "ascii":
        sys.stdout.flush()
        printed = sys.stdout.buffer.getvalue()
        assert rb"Test: accuracy" in printed and rb"\xb1" in printed


def test_the_record_is_there_before_the_score_is_said(competition, tmp_path, capsys):
    run_tfidf(competition, tmp_path, save_results=True)
    said = capsys.readouterr().out
    assert said.index("recorded, 1 run(s)") < said.index("Test: accuracy")
    assert "validated: 3" in said and " reviews in " in said and "validation accuracy " in said and "epoch" not in said


def test_a_command_whose_reader_is_gone_ends_well():
    """The interpreter flushes at its end too."""
    program = "from popcorn.errors import exit_on_user_error, log\nwith exit_on_user_error(): log('a line'), print('one more')"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("module", "what"), [(sklearn_pipeline, "save_state"), (run_dir, "save_fit_result")])
@pytest.mark.parametrize("script", [tfidf, nbsvm])
def test_a_linear_models_submission_comes_first(script, module, what, competition, tmp_path, monkeypatch, capsys):
    """Before what is optional, and fails."""

    def full(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr(module, what, full)
    with pytest.raises(SystemExit) as ended:
        run_linear(script, data_dir=competition, output_dir=tmp_path, name="run", save_results=True)
    assert ended.value.code == 2 and capsys.readouterr().err == "error: the disk is full\n"
    assert len((tmp_path / "submissions" / "run.csv").read_text().splitlines()) == 101
    assert (tmp_path / "results" / "run.json").is_file()


@pytest.mark.parametrize("way", [{"no_validation": True}, {"folds": 2}, {"refit": False}])
def test_a_fine_tuned_models_submission_comes_before_the_model(way, competition, tmp_path, monkeypatch, capsys):
    save = BertForSequenceClassification.save_pretrained

    def full(self, folder, *arguments, **options):
        if "checkpoint-" not in str(folder):
            raise FULL
        return save(self, folder, *arguments, **options)

    monkeypatch.setattr(BertForSequenceClassification, "save_pretrained", full)
    torch.manual_seed(0)
    config = bert_trainer.Config(
        model=str(pretrained.write(tmp_path / "bert", "bert")), data_dir=competition, output_dir=tmp_path, name="run", epochs=1,
        batch_size=16, max_length=16, precision="fp32", max_train_samples=None if "folds" in way else 40, **way,
    )  # fmt: skip
    if "folds" in way:
        config.max_train_samples = 40
    for _ in range(2):
        with pytest.raises(SystemExit) if not config.resume else exit_on_user_error():
            run(FinetuningTask(bert_trainer.build, config), HFTrainer(bert_trainer.training_arguments))
        submission = (tmp_path / "submissions" / "run.csv").read_text()
        assert len(submission.splitlines()) == 101
        if not config.resume:
            said = capsys.readouterr().err.splitlines()[-1]
            assert said.startswith("error: the trained model in ") and "No space left" in said and "is safe" in said
        finished = [path.parent for path in (tmp_path / "runs" / "run" / "seed-1").glob(f"*/{run_dir.PREDICTIONS}")]
        assert finished and not any(list(fit_dir.glob("model*")) for fit_dir in finished)
        monkeypatch.setattr(ReviewTrainer, "training_step", None)  # it is not trained again
        config.resume = True


# degenerate data


def competition_of(folder, texts=None, labels=None):
    """The small competition with other texts or labels in the training file."""
    train = reviews(40, 1)
    if texts is not None:
        train = [(name, label, texts) for name, label, _ in train]
    if labels is not None:
        train = [
            (name.split("_")[0] + f"{number}_{9 if labels else 2}", labels, text) for number, (name, _, text) in enumerate(train)
        ]
    stanford.write_competition(folder, train, reviews(20, 2), reviews(10, 3, labeled=False))
    return folder


@pytest.mark.parametrize("script", [tfidf, nbsvm])
@pytest.mark.parametrize(
    ("texts", "said"),
    [("", "has empty reviews alone"), (" ", "has empty reviews alone"), ("<br />", "no training review has a word in it")],
)
def test_reviews_without_a_word(script, texts, said, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(SystemExit) as ended:
        run_linear(script, data_dir=competition_of(folder, texts), output_dir=tmp_path, name="run", split_by="random")
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("way", [{"no_validation": True}, {}, {"folds": 2}, {"no_validation": True, "max_train_samples": 1}])
@pytest.mark.parametrize("script", [tfidf, bert_trainer])
def test_training_reviews_of_one_class(script, way, tmp_path, capsys):
    """The run before it keeps its place."""
    folder, earlier = tmp_path / "data", tmp_path / "runs" / "run" / "seed-1"
    folder.mkdir()
    competition_of(folder, labels=None if "max_train_samples" in way else 1)
    earlier.mkdir(parents=True)
    (earlier / "settings.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        options = {"data_dir": folder, "output_dir": tmp_path, "name": "run", "split_by": "random"} | way
        if script is tfidf:
            run_linear(tfidf, **options)
        else:
            config = bert_trainer.Config(model=str(pretrained.write(tmp_path / "bert", "bert")), **options)
            run(FinetuningTask(bert_trainer.build, config), HFTrainer(bert_trainer.training_arguments))
    said = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and said.startswith("error: ")
    assert ("are of one class" if "max_train_samples" in way else "every sentiment is 1") in said
    assert "max_train_samples" not in way or said.endswith("--max-train-samples is 1: give a larger number")
    assert (earlier / "settings.json").read_text() == "{}"


@pytest.mark.parametrize("labels", [[1], [0, 0], [1, 1, 1]])
def test_a_validation_part_of_one_class(labels):
    with pytest.raises(UserError, match="one class only"):
        compute_metrics(np.array(labels), np.full(len(labels), 0.5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_probabilities_that_are_no_numbers(bad):
    with pytest.raises(TrainingDivergedError, match="not numbers"):
        compute_metrics(np.array([0, 1]), np.array([0.5, bad]))
