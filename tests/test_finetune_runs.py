"""Whole commands of the fine-tuning scripts, as a user types them, from tiny checkpoints on the small competition."""

import dataclasses
import json
import runpy
import shutil
import signal
import sys
import time
from importlib import import_module

import numpy as np
import pandas as pd
import pretrained
import pytest
from conftest import ROOT, run, run_here, run_in_two_processes, run_kernel, some_fast
from preloaded import PreloadedProcess
from test_runs import submissions
from transformers import RobertaConfig, RobertaForSequenceClassification

from popcorn.runs import run as run_flow
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.fit_result import FitResult
from popcorn.training.processes import start_processes

SCRIPTS = {
    "bert_native": "bert", "bert_scratch": "bert", "bert_trainer": "bert", "distilbert_native": "distilbert",
    "distilbert_trainer": "distilbert", "roberta_trainer": "roberta", "deberta_trainer": "deberta-v2",
    "modernbert_trainer": "modernbert",
}  # fmt: skip
RECIPE = "--epochs", "2", "--batch-size", "16", "--learning-rate", "0.005", "--checkpoint-every", "5"
FURTHER = "--further-pretrain", "--pretrain-epochs", "1", "--no-validation"


@pytest.fixture(scope="module")
def options(competition, tmp_path_factory):
    """The options of a script's run, from the tiny checkpoint of its family, under the script's own name."""
    folder = tmp_path_factory.mktemp("tiny")

    def make(script):
        family = SCRIPTS[script]
        checkpoint = folder / family
        if not checkpoint.is_dir():
            pretrained.write(checkpoint, family)
        return f"{script}.py", "--model", checkpoint, "--data-dir", competition, *RECIPE, "--name", script

    return make


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, options):
    folder = tmp_path_factory.mktemp("undisturbed")
    run(*options("bert_trainer"), "--output-dir", folder, "--save-results")
    return folder


@pytest.mark.parametrize("script", some_fast(["bert_native"], SCRIPTS))
def test_every_script_runs_and_learns_and_so_does_its_kernel(script, options, competition, tmp_path, monkeypatch):
    # in this process, which has loaded the libraries already; its kernel does it as a command
    monkeypatch.setattr(
        sys, "argv", [*map(str, options(script)), "--output-dir", str(tmp_path), "--save-results", "--no-validation"]
    )
    runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
    (entry,) = json.loads((tmp_path / "results" / f"{script}.json").read_text())["runs"]
    assert entry["auc"] > 0.9 and entry["weights"] == SCRIPTS[script] and len(entry["weights_sha256"]) == 64
    given = [option for option in options(script)[1:] if option not in ("--data-dir", competition)]
    assert run_kernel(script, [*given, "--no-validation"], competition, tmp_path) == submissions(tmp_path, script)


def test_a_run_leaves_all_that_it_promises(undisturbed):
    result = json.loads((undisturbed / "results" / "bert_trainer.json").read_text())
    (entry,) = result["runs"]
    assert entry["auc"] > 0.9 and set(entry["fits"]) == {"validated", "refit"} and "transformers" in entry["versions"]
    assert result["config"]["model"] == "bert"  # not a path of somebody's machine
    refit = undisturbed / "runs" / "bert_trainer" / "seed-1" / "refit"
    assert (refit / "model" / "model.safetensors").is_file() and not list(refit.glob("checkpoint-*"))


def test_killed_in_mid_epoch_and_resumed_gives_the_same_bytes(undisturbed, options, tmp_path):
    process = PreloadedProcess(*options("bert_trainer"), "--output-dir", tmp_path)
    folder = tmp_path / "runs" / "bert_trainer" / "seed-1" / "validated"
    while process.is_running() and not (folder.parent / "cost.json").is_file():  # written after the checkpoint
        time.sleep(0.005)
    assert process.kill() == -signal.SIGKILL
    assert not (tmp_path / "submissions" / "bert_trainer.csv").exists()
    (folder / "checkpoint-9999").mkdir()  # what a kill in the middle of writing leaves
    (killed,) = json.loads((folder.parent / "cost.json").read_text()).values()
    done = run(*options("bert_trainer"), "--output-dir", tmp_path, "--resume", "--save-results")
    (entry,) = json.loads((tmp_path / "results" / "bert_trainer.json").read_text())["runs"]
    first, second = json.loads((folder.parent / "cost.json").read_text()).values()
    assert first == killed and entry["seconds"] == first["seconds"] + second["seconds"]
    assert "Resuming the run" in done.stdout and "it/s" in done.stderr  # the Trainer shows how far it is
    assert submissions(tmp_path, "bert_trainer") == submissions(undisturbed, "bert_trainer")


def test_two_processes_train_alike(undisturbed, options, tmp_path):
    printed = run_in_two_processes(*options("bert_trainer"), "--output-dir", tmp_path, "--save-results")
    assert printed.count("Test: accuracy") == 1
    (entry,) = json.loads((tmp_path / "results" / "bert_trainer.json").read_text())["runs"]
    (alone,) = json.loads((undisturbed / "results" / "bert_trainer.json").read_text())["runs"]
    assert entry["processes"] == 2 and entry["auc"] > 0.9
    # the pieces drop out other numbers than the whole, and are as large together: a loss taken twice would show here
    losses = [each["fits"]["validated"]["history"][0]["loss"] for each in (entry, alone)]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert len(pd.read_csv(tmp_path / "submissions" / "bert_trainer.csv")) == 100


@pytest.fixture(scope="module")
def pretrained_further(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained_further")
    return folder, run(*options("bert_native"), *FURTHER, "--output-dir", folder)


def test_the_language_model_is_trained_once_and_used_again(pretrained_further, options):
    output, first = pretrained_further
    assert "Training a language model on 460 reviews" in first.stdout  # 400 labeled, 60 unlabeled
    (folder,) = (output / "runs" / "further-pretrained").glob("*/")
    from safetensors.torch import load_file

    before, after = (load_file(each / "model.safetensors") for each in (options("bert_native")[2], folder))
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert "embeddings.word_embeddings.weight" in changed and not any(name.startswith("pooler") for name in changed)
    again = run(*options("bert_scratch"), *FURTHER, "--output-dir", output)
    assert "Reusing the language model" in again.stdout and "Training a language model" not in again.stdout


def test_a_time_budget_that_ends_in_the_pretraining_is_reported_and_nothing_is_lost(pretrained_further, options, tmp_path):
    further = (*options("bert_native"), *FURTHER, "--output-dir", tmp_path)
    done = run(*further, "--time-budget", "1s", code=2)
    assert "the time budget ended in the training of the language model, after 1 of 29 steps" in done.stderr
    run(*further)
    assert submissions(tmp_path, "bert_native") == submissions(pretrained_further[0], "bert_native")


def test_a_kill_in_the_refit_leaves_the_validated_models_submission(options, competition, tmp_path):
    class KilledTrainer:
        start = staticmethod(start_processes)

        def set_up(self, task, run_dir, deadline):
            self.task = task

        def fit(self, split):
            if split.name == "refit":
                raise KeyboardInterrupt
            test = np.linspace(0, 1, len(self.task.test))
            return FitResult(np.zeros(len(split.validation)), test, epoch=1, history=[{"epoch": 1}])

    script = import_module("bert_native")
    config = script.Config(model=str(options("bert_native")[2]), data_dir=competition, output_dir=tmp_path, name="killed")
    with pytest.raises(SystemExit):
        run_flow.run(FinetuningTask(script.BERT, config), KilledTrainer())
    assert pd.read_csv(tmp_path / "submissions" / "killed.proba.csv")["sentiment"].nunique() == 100


def test_another_checkpoint_gives_the_run_another_name(options, tmp_path):
    checkpoint = options("bert_native")[2]
    mounted = shutil.copytree(checkpoint, tmp_path / "kaggle" / "input" / "small" / "transformers" / "uncased" / "1")
    configs = [import_module("bert_native").Config(model=str(model)) for model in (checkpoint, mounted)]
    for config in configs:
        config.prepare("bert_native")
    assert [config.name for config in configs] == ["bert_native-bert", "bert_native-small-transformers-uncased-1"]
    further = import_module("bert_native").Config(model=str(checkpoint), further_pretrain=True)
    further.prepare("bert_native")  # it learns from more, and is no seed of the plain run
    assert further.name == "bert_native-further-pretrained-bert"


def test_a_checkpoint_with_more_classes_is_refused(options, tmp_path):
    script, _, checkpoint, *rest = options("roberta_trainer")
    config = RobertaConfig.from_pretrained(checkpoint, num_labels=3)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "three")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, tmp_path / "three")
    done = run(script, "--model", tmp_path / "three", *rest, "--output-dir", tmp_path, code=2)
    assert "take a model with two classes, or one without a classifier" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_field(script):
    shown = run_here(f"{script}.py", "--help")
    for field in dataclasses.fields(import_module(script).Config):
        assert f"--{field.name.replace('_', '-')}" in shown


def test_mistakes_are_reported_in_one_sentence(options, tmp_path):
    for script, extra, said in (
        ("bert_trainer", ("--max-length", "900"), "allows at most 512"),
        ("bert_scratch", ("--last-layers", "0"), "--last-layers is 0: "),
    ):
        done = run(*options(script), "--output-dir", tmp_path, *extra, code=2)
        assert said in done.stderr.splitlines()[-1] and done.stderr.splitlines()[-1].startswith("error: ")
