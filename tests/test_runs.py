"""Whole commands, as a user types them, on the small competition."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, SMALL, run, run_here, run_kernel, some_fast
from preloaded import PreloadedProcess

import lstm
from popcorn.data.splits import split_checksum
from popcorn.option_groups import grouped

# in so few reviews every word is frequent
SHORT_VECTORS = "--sample", "0", "--vector-size", "20", "--ngrams", "1"
LINEAR = {"tfidf.py": [], "nbsvm.py": [], "paragraph_vectors.py": SHORT_VECTORS, "dv_cosine.py": SHORT_VECTORS}
WORD_MODELS = {  # and lstm, which the rest is about
    "gru": ["--hidden", "32"], "cnn": [], "cnn_lstm": [], "attention_lstm": [], "capsule_lstm": [],
    "transformer": ["--d-model", "32", "--d-ff", "64"], "lm_lstm": ["--hidden", "32", "--pretrain-epochs", "1"],
}  # fmt: skip


def submissions(folder, name="lstm"):
    return [(folder / "submissions" / f"{name}{kind}.csv").read_bytes() for kind in ("", ".proba")]


@pytest.fixture(scope="module")
def options(competition, glove):
    return ("--data-dir", competition, "--word-vectors", glove, *SMALL)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, options):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run("lstm.py", *options, "--output-dir", folder, "--save-results")
    return folder, done


def test_a_run_leaves_all_that_it_promises(undisturbed):
    folder, done = undisturbed
    assert "Test: accuracy" in done.stdout and "submissions/lstm.csv" in done.stdout
    result = json.loads((folder / "results" / "lstm.json").read_text())
    (entry,) = result["runs"]
    assert entry["accuracy"] > 0.8 and entry["auc"] > 0.9  # words of praise are five to one
    assert entry["seed"] == 1 and entry["parameters"] > 0 and entry["peak_memory"] > 0 and entry["vectors"].endswith("16d")
    assert set(entry["fits"]) == {"validated", "refit"}
    assert entry["fits"]["refit"]["epoch"] == entry["fits"]["validated"]["epoch"]
    run_folder = folder / "runs" / "lstm" / "seed-1"
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert any("validated/validation_accuracy" in line for line in lines) and any("refit/loss" in line for line in lines)
    assert list(run_folder.glob("tensorboard/**/events*"))
    assert (run_folder / "refit" / "best.safetensors").is_file()


def test_its_kernel_is_the_same_command_and_gives_the_same_bytes(undisturbed, competition, glove, tmp_path):
    assert run_kernel("lstm", ["--word-vectors", glove, *SMALL], competition, tmp_path) == submissions(undisturbed[0])


def test_killed_in_mid_epoch_and_resumed_gives_the_same_bytes(undisturbed, options, tmp_path):
    process = PreloadedProcess("lstm.py", *options, "--output-dir", tmp_path)
    folder = tmp_path / "runs" / "lstm" / "seed-1" / "validated"
    while process.is_running() and not (folder.parent / "cost.json").is_file():  # written after the checkpoint
        time.sleep(0.005)
    assert process.kill() == -signal.SIGKILL
    (checkpoint, *_) = sorted(folder.glob("step-*"))
    assert json.loads((checkpoint / "position.json").read_text())["step"] > 0  # in the middle of an epoch
    assert not (tmp_path / "submissions" / "lstm.csv").exists()
    (killed,) = json.loads((folder.parent / "cost.json").read_text()).values()
    assert "Resuming the run" in run("lstm.py", *options, "--output-dir", tmp_path, "--resume", "--save-results").stdout
    assert submissions(tmp_path) == submissions(undisturbed[0])
    first, second = json.loads((folder.parent / "cost.json").read_text()).values()
    (entry,) = json.loads((tmp_path / "results" / "lstm.json").read_text())["runs"]
    assert first == killed and entry["seconds"] == first["seconds"] + second["seconds"]


def test_the_time_budget_ends_in_a_submission_and_a_resume(undisturbed, options, tmp_path):
    # too short for any training: the submission is valid all the same
    done = run("lstm.py", *options, "--output-dir", tmp_path, "--time-budget", "1s", "--save-results")
    assert "The time budget is spent" in done.stdout and "Results not saved" in done.stdout
    ids = pd.read_csv(tmp_path / "submissions" / "lstm.csv")["id"]
    assert len(ids) == 100 and not (tmp_path / "results").exists()
    run("lstm.py", *options, "--output-dir", tmp_path, "--resume")
    assert submissions(tmp_path) == submissions(undisturbed[0])


@pytest.mark.parametrize("script", some_fast(["lm_lstm"], WORD_MODELS))
def test_every_other_script_runs_and_learns(script, competition, glove, tmp_path):
    """Without validation, on fewer steps than any user takes."""
    recipe = ["--epochs", 4, "--batch-size", 16, "--learning-rate", 0.01, "--embedding-lr-scale", 1, "--word-dropout", 0]
    recipe += WORD_MODELS[script]
    recipe = ["--word-vectors", glove, *recipe, "--no-validation"]
    done = run(f"{script}.py", "--data-dir", competition, *recipe, "--output-dir", tmp_path, "--save-results")
    assert len(submissions(tmp_path, script)) == 2 and "refit" in done.stderr and "validated" not in done.stderr
    (entry,) = json.loads((tmp_path / "results" / f"{script}.json").read_text())["runs"]
    assert entry["accuracy"] > 0.8 and set(entry["fits"]) == {"refit"}
    assert run_kernel(script, recipe, competition, tmp_path) == submissions(tmp_path, script)


def test_without_validation_a_run_is_the_refit_of_a_whole_one(options, tmp_path):
    """Where validation takes the last epoch, what comes after it is what --no-validation does at once; the two are one recipe."""
    recipe = (*options, "--output-dir", tmp_path, "--patience", "9", "--epochs", "1", "--save-results")
    run("lstm.py", *recipe)
    whole = submissions(tmp_path)
    run("lstm.py", *recipe, "--no-validation")
    assert submissions(tmp_path) == whole
    run("lstm.py", *recipe, "--no-validation", "--seed", 2)
    assert len(json.loads((tmp_path / "results" / "lstm.json").read_text())["runs"]) == 2


def test_a_finished_run_is_resumed_without_training(undisturbed, options):
    folder = undisturbed[0]
    before = submissions(folder)
    done = run("lstm.py", *options, "--output-dir", folder, "--resume")
    assert "batch/s" not in done.stderr and submissions(folder) == before


@pytest.mark.parametrize("other", [("--hidden", "9"), ("--learning-rate", "0.01"), ("--max-train-samples", "300")])
def test_a_checkpoint_of_other_options_is_refused(undisturbed, options, other):
    done = run("lstm.py", *options, "--output-dir", undisturbed[0], "--resume", *other, code=2)
    assert "is of another run" in done.stderr and "settings.json" in done.stderr


def test_a_run_of_another_split_is_not_resumed(undisturbed, options):
    """It would be validated on what it has trained on."""
    settings = undisturbed[0] / "runs" / "lstm" / "seed-1" / "settings.json"
    whole, content = settings.read_text(), json.loads(settings.read_text())
    (entry,) = json.loads((undisturbed[0] / "results" / "lstm.json").read_text())["runs"]
    assert content["split"] == entry["split"] and len(entry["split"]) == 64
    for split in ("0" * 64, None):
        settings.write_text(json.dumps({name: value for name, value in (content | {"split": split}).items() if value}))
        done = run("lstm.py", *options, "--output-dir", undisturbed[0], "--resume", code=2)
        assert "is of another run: its split is" in done.stderr
    settings.write_text(whole)


def test_a_damaged_checkpoint_is_refused(options, tmp_path):
    run("lstm.py", *options, "--output-dir", tmp_path, "--time-budget", "1s")
    (weights,) = tmp_path.glob("runs/lstm/seed-1/validated/step-*/pytorch_model.bin")
    for damaged in (weights.read_bytes()[:100], b"something else"):
        weights.write_bytes(damaged)
        done = run("lstm.py", *options, "--output-dir", tmp_path, "--resume", code=2)
        assert f"{weights.parent.name} is damaged" in done.stderr and "--resume" in done.stderr
    (tmp_path / "runs" / "lstm" / "seed-1" / "settings.json").write_text('{"name": ')
    assert "settings.json is damaged" in run("lstm.py", *options, "--output-dir", tmp_path, "--resume", code=2).stderr


def test_two_processes_train_as_one_does(options, tmp_path):
    """Without dropout, which draws other numbers in each, to the same submission, validated and fitted again."""
    launch = "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"
    steady = *options, "--precision", "fp32", "--dropout", "0", "--word-dropout", "0", "--epochs", "1", "--save-results"
    submitted = {}
    for name, start in (("alone", ()), ("together", launch)):
        done = run(*start, "lstm.py", *steady, "--output-dir", tmp_path / name)
        assert done.stdout.count("Test: accuracy") == 1
        submitted[name] = pd.read_csv(tmp_path / name / "submissions" / "lstm.proba.csv", index_col="id")["sentiment"]
    assert submitted["together"].to_numpy() == pytest.approx(submitted["alone"].to_numpy(), abs=1e-3)
    assert submitted["alone"].std() > 0.05 and submitted["alone"].index.equals(submitted["together"].index)
    (entry,) = json.loads((tmp_path / "together" / "results" / "lstm.json").read_text())["runs"]
    assert entry["processes"] == 2


def test_folds_save_out_of_fold_probabilities(competition, tmp_path):
    done = run("tfidf.py", "--data-dir", competition, "--output-dir", tmp_path, "--folds", "4", "--save-results")
    table = pd.read_csv(tmp_path / "submissions" / "tfidf.oof.csv")
    assert sorted(table["fold"].unique()) == [1, 2, 3, 4] and len(table) == 400 and table["id"].is_unique
    labels = table["id"].str.split("_").str[1].astype(int) >= 5
    assert ((table["sentiment"] > 0.5) == labels).mean() > 0.8
    assert "out-of-fold" in done.stdout
    parts = [np.flatnonzero(table["fold"] == fold) for fold in (1, 2, 3, 4)]
    (entry,) = json.loads((tmp_path / "results" / "tfidf.json").read_text())["runs"]
    assert entry["split"] == split_checksum(table["id"].tolist(), parts)  # an ensemble records the same of its members
    assert set(json.loads((tmp_path / "results" / "tfidf.json").read_text())["runs"][0]["fits"]) == {
        f"fold-{k}" for k in range(1, 5)
    }


def test_a_full_disk_at_a_checkpoint_is_told(undisturbed, options, tmp_path):
    """The caches are filled, so that the first file of any size is a checkpoint."""
    done = limited_files("lstm.py", *options, "--output-dir", tmp_path)
    assert done.returncode == 2 and "--resume" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: the checkpoint in ")


@pytest.mark.parametrize("script", LINEAR)
def test_linear_models_learn_and_repeat(competition, tmp_path, script, monkeypatch):
    """On one processor, where no thread is faster than another; and the kernel finds nothing that the script has cached."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    name = script.removesuffix(".py")
    run(script, "--data-dir", competition, "--output-dir", tmp_path, "--save-results", *LINEAR[script])
    first = submissions(tmp_path, name)
    assert json.loads((tmp_path / "results" / f"{name}.json").read_text())["runs"][0]["accuracy"] > 0.9
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run_kernel(name, LINEAR[script], competition, tmp_path) == first


def test_seeds_gather_in_one_result_until_the_recipe_changes(competition, tmp_path):
    def seeds(*extra):
        run("tfidf.py", "--data-dir", competition, "--output-dir", tmp_path, "--save-results", *extra)
        return [entry["seed"] for entry in json.loads((tmp_path / "results" / "tfidf.json").read_text())["runs"]]

    assert seeds() == [1]
    assert seeds("--seed", "2") == [1, 2]
    assert seeds("--seed", "1") == [1, 2]
    assert seeds("--seed", "3", "--c", "0.5") == [3]


@pytest.mark.parametrize("script", ["lstm.py", *LINEAR, *(f"{name}.py" for name in WORD_MODELS)])
def test_help_explains_every_field(script):
    shown = run_here(script, "--help")
    assert "--data-dir" in shown and "folder with the competition's files" in shown
    options = [line for line in shown.splitlines() if line.lstrip("│| ").startswith("--")]
    assert len(options) > 8
    assert "model options" in shown and "run options" in shown


def test_help_has_every_option_once_in_the_group_of_its_class():
    groups = {group.name: group.type.__origin__ for group in fields(grouped(lstm.Config))}
    shown = {name: {option.name: option for option in fields(group)} for name, group in groups.items()}
    assert sorted(name for group in shown.values() for name in group) == sorted(option.name for option in fields(lstm.Config))
    assert list(shown["model"]) == ["hidden", "word_dropout", "dropout"] and "seed" in shown["run"]
    batch_size = shown["training"]["batch_size"]
    assert batch_size.default == lstm.Config.batch_size
    assert batch_size.type.__metadata__[-1].help == "reviews per optimizer step, over all processes"


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--max-train-samples", "0"), "--max-train-samples is 0"),
        (("--max-train-samples", "100", "--save-results"), "--save-results with --max-train-samples"),
        (("--epochs", "0"), "--epochs is 0"),
        (("--folds", "1"), "--folds is 1"),
        (("--no-validation", "--folds", "2"), "leave --folds out"),
        (("--no-validation", "--no-refit"), "leave --no-refit out"),
        (("--precision", "fp16"), "--precision is fp16: this processor"),
        (("--time-budget", "soon"), "--time-budget is 'soon'"),
        (("--time-budget", "90"), "--time-budget is '90'"),
        (("--word-vectors", "/nowhere/glove.txt"), "there is no file /nowhere/glove.txt"),
        (("--vector-size", "300"), "16 wide where --vector-size asks for 300"),
        (("--data-dir", "/nowhere"), "there is no folder /nowhere"),
        (("--output-dir", "/proc/nowhere"), "cannot be written"),
        (("--max-train-samples", "3"), "give a larger number"),
    ],
)
def test_mistakes_are_told_in_one_sentence(options, tmp_path, extra, said):
    last = run_here("lstm.py", *options, "--output-dir", tmp_path, *extra, code=2).splitlines()[-1]
    assert said in last and last.startswith("error: ")
    assert not list((tmp_path / "submissions").glob("*")) if (tmp_path / "submissions").exists() else True


@pytest.mark.parametrize(
    ("script", "extra", "said"),
    [
        ("nbsvm.py", ("--c", "0"), "--c is 0.0: give a number above 0"),
        ("nbsvm.py", ("--alpha", "0"), "--alpha is 0.0: give a number above 0"),
        ("tfidf.py", ("--ngrams", "0"), "--ngrams is 0"),
        ("paragraph_vectors.py", ("--sample", "1"), "--sample is 1.0: give a number from 0 to less than 1"),
    ],
)
def test_mistakes_of_the_linear_models(tmp_path, script, extra, said):
    assert said in run_here(script, "--output-dir", tmp_path, *extra, code=2) and not list(tmp_path.iterdir())


def test_terms_of_more_reviews_than_there_are(competition, tmp_path):
    done = run("tfidf.py", "--data-dir", competition, "--output-dir", tmp_path, "--min-df", 500, code=2)
    assert "give a smaller number" in done.stderr


def test_ids_that_the_sample_lacks(competition, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for path in competition.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    sample = folder / "sampleSubmission.csv"
    sample.write_text("\n".join(sample.read_text().split("\n")[:-2]) + "\n")
    done = run("tfidf.py", "--data-dir", folder, "--output-dir", tmp_path, code=2)
    assert "the sample submission lacks 1 ids" in done.stderr
    assert not list((tmp_path / "submissions").iterdir())


def test_a_full_disk_leaves_nothing_half_written(competition, tmp_path):
    """The submissions, which are small here, come first and are whole; the model is not there."""
    done = limited_files("tfidf.py", "--data-dir", competition, "--output-dir", tmp_path)
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert [len(file.splitlines()) for file in submissions(tmp_path, "tfidf")] == [101, 101]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "tfidf.csv", "tfidf.proba.csv", "settings.json", "model.json", "seed-1.lock", "predictions.npz",
    }  # fmt: skip


def limited_files(*command):
    """Runs `python <command>` where no file may grow past 3,000 bytes, as a model and a checkpoint do."""

    def limit_file_size():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))

    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=os.environ, capture_output=True, text=True,
        preexec_fn=limit_file_size,
    )  # fmt: skip
