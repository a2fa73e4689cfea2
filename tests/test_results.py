import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, run

import cnn
from benchmarks import leaderboard as leaderboard_runs
from popcorn.data import competition as competition_data
from popcorn.data.splits import SPLIT, split_checksum, validation_splits
from popcorn.errors import UserError
from popcorn.metrics import Score
from popcorn.reporting.leaderboard import END, begin, markdown, update
from popcorn.reporting.script_table import script_rows
from popcorn.runs.results import RunResult, command_line, data_of, is_recorded, recipe_of, rows, save_results
from popcorn.runs.run_dir import start_or_resume

BEGIN = begin("results")


def entry(seed, accuracy):
    history = [{"validation_accuracy": 0.9}, {"validation_accuracy": accuracy - 0.01}]
    return {
        "seed": seed, "accuracy": accuracy, "auc": 0.97, "test_reviews": 25_000, "seconds": 60.0 * seed, "peak_memory": 2**30,
        "parameters": 5, "machine": "m", "command": "c",
        "fits": {
            "validated": {"epoch": 2, "history": history, "reviews_per_second": 100},
            "refit": {"epoch": 2, "history": [{}, {}], "reviews_per_second": 90},
        },
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    def write(name, source, *runs):
        content = {"name": name, "config": {}, "data": {"source": source, "sha256": "0"}, "runs": runs}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    write("low", "competition", entry(1, 0.8))
    write("high", "competition", entry(1, 0.90), entry(2, 0.92), entry(3, 0.91))
    write("toy", competition_data.FALLBACK, entry(1, 0.99))
    return tmp_path


def test_rows_are_means_over_seeds_and_only_of_the_competition(folder):
    high, low = rows(folder)
    assert (high.name, low.name) == ("high", "low")
    assert high.accuracy == pytest.approx(0.91) and high.spread == pytest.approx(0.01) and high.seeds == 3
    assert high.validation == pytest.approx(0.90) and high.seconds == 120 and low.spread is None


def test_a_script_without_a_row_of_its_name_has_its_best_row_of_one_model_by_validation(folder):
    """cnn-64 has the best test accuracy of the three, and the worst validation accuracy."""

    def scripts() -> str:
        return "\n".join("|".join(line) for line in script_rows(list(rows(folder)), folder, "English"))

    for name, accuracy in {"cnn-64": 0.92, "cnn-128": 0.90, "cnn-256": 0.91, "cnn-folds": 0.95, "cnn_lstm-folds": 0.94}.items():
        run_result = entry(1, accuracy)
        if name == "cnn-64":
            run_result["fits"]["validated"]["history"][1]["validation_accuracy"] = 0.5
        content = {"name": name, "config": {}, "data": {"source": "competition", "sha256": "0"}, "runs": [run_result]}
        (folder / f"{name}.json").write_text(json.dumps(content))
    text = scripts()
    assert re.search(r"^\[cnn\]\(cnn\.py\) `cnn-256`\|.*\|0\.9100\|", text, re.MULTILINE)
    assert re.search(r"^\[cnn_lstm\]\(cnn_lstm\.py\) `cnn_lstm-folds`\|.*\|0\.9400\|", text, re.MULTILINE)
    for name in ("cnn-64", "cnn-128", "cnn-256"):
        (folder / f"{name}.json").unlink()
    assert "[cnn](cnn.py) `cnn-folds`|" in scripts()
    assert "[lstm](lstm.py)|" in scripts()  # not measured


def test_results_on_the_fallback_data_replace_none_on_the_competitions(folder, competition, tmp_path, capsys):
    """A student tries a script before there are Kaggle's files."""
    folder.joinpath("results").mkdir()
    for name in ("high", "toy"):
        (folder / f"{name}.json").rename(folder / "results" / f"{name}.json")
    (folder / "low.json").unlink()
    before = (folder / "results" / "high.json").read_bytes()
    fallback = competition_data.Competition(competition, competition_data.FALLBACK)
    result = RunResult(np.zeros(2), {}, None, complete=True)
    for name in ("high", "toy"):
        save_results(cnn.Config(name=name, output_dir=folder), fallback, result, Score(0.5, 0.5, 2))
    assert (folder / "results" / "high.json").read_bytes() == before
    assert json.loads((folder / "results" / "toy.json").read_text())["runs"][0]["accuracy"] == 0.5
    printed = capsys.readouterr().out
    assert "high.json: kept" in printed and "toy.json: recorded" in printed and "these are on the fallback data" in printed


def test_a_validation_on_the_former_split_is_marked(folder):
    high, low = rows(folder)
    text = markdown([high, low])
    assert text.count("0.9000†") == 1 and text.rstrip().endswith("on which this model has not been trained yet.")
    content = json.loads((folder / "high.json").read_text()) | {"split": SPLIT}
    (folder / "high.json").write_text(json.dumps(content))
    high, low = rows(folder)
    assert "0.9000 |" in markdown([high, low]) and "†" not in markdown([high])


def test_runs_without_validation_count_for_the_test_alone(folder):
    final = entry(2, 0.94)
    del final["fits"]["validated"]
    final["seconds"] = 5.0
    cases = ("mixed", [entry(1, 0.92), final], 0.91, 60, 100), ("unvalidated", [final], None, 5, 90)
    for name, runs, validation, seconds, speed in cases:
        content = {"name": name, "config": {}, "data": {"source": "competition", "sha256": "0"}, "runs": runs}
        (folder / f"{name}.json").write_text(json.dumps(content))
        (row,) = (row for row in rows(folder) if row.name == name)
        assert row.seconds == seconds and row.reviews_per_second == speed
        assert row.validation == (validation and pytest.approx(validation))
    assert "†" not in markdown([row])  # nothing was validated
    update_row = markdown([row])
    assert "| - | 1 | 0.1 min |" in update_row


def test_update_writes_between_the_markers_only(folder, capsys):
    readme = folder / "README.md"
    readme.write_text(f"before\n{BEGIN}\nthe table before\n{END}\nafter\n")
    update(folder, (readme,))
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n") and "the table before" not in text
    assert "| high | 0.9100 ± 0.0100 |" in text and "toy" not in text
    assert (folder / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    assert "high" in capsys.readouterr().out
    update(folder, (readme,))
    assert readme.read_text() == text


def test_what_is_no_result_is_refused(folder):
    (folder / "broken.json").write_text('{"name": "x"}')
    with pytest.raises(UserError, match=r"broken\.json"):
        rows(folder)
    (folder / "high.json").rename(folder / "broken.json")
    with pytest.raises(UserError, match=r"broken\.json is not a recorded result .*of high"):
        rows(folder)
    (folder / "broken.json").unlink()
    (folder / "README.md").write_text("no markers")
    with pytest.raises(UserError, match="lacks the two lines"):
        update(folder, (folder / "README.md",))


def test_options_are_compared_as_they_are_recorded(competition, tmp_path):
    """The CNN's kernel sizes are a tuple, and a list in the file: other seeds gather all the same."""
    config = cnn.Config(name="cnn", output_dir=tmp_path, seed=2)
    here = competition_data.Competition(competition, "--data-dir")
    assert not is_recorded(config, here)
    (tmp_path / "results").mkdir()
    content = {"config": recipe_of(config), "data": data_of(here), "split": SPLIT, "runs": [{"seed": 2}]}
    (tmp_path / "results" / "cnn.json").write_text(json.dumps(content))
    assert is_recorded(config, here) and not is_recorded(cnn.Config(name="cnn", output_dir=tmp_path, seed=3), here)
    assert not is_recorded(cnn.Config(name="cnn", output_dir=tmp_path, seed=2, num_filters=7), here)
    assert not is_recorded(config, competition_data.Competition(competition, competition_data.FALLBACK))
    (tmp_path / "results" / "cnn.json").write_text(json.dumps(content | {"split": "another"}))
    assert not is_recorded(config, here)


def test_a_record_from_before_an_option_existed_had_its_default(competition, tmp_path):
    """So another seed joins the earlier runs; with another value of the option it replaces them."""
    here = competition_data.Competition(competition, "--data-dir")
    config = cnn.Config(name="cnn", output_dir=tmp_path, seed=1)
    path = tmp_path / "results" / "cnn.json"
    result = RunResult(np.zeros(0), {}, None, complete=True)
    save_results(config, here, result, Score(0.9, 0.95, 100))
    content = json.loads(path.read_text())
    assert content["config"].pop("embedding_lr_scale") == 0.1
    path.write_text(json.dumps(content))
    assert is_recorded(config, here) and not is_recorded(replace(config, embedding_lr_scale=0.9), here)
    for seed, options, seeds in ((2, {}, [1, 2]), (3, {"embedding_lr_scale": 0.9}, [3])):
        save_results(replace(config, seed=seed, **options), here, result, Score(0.9, 0.95, 100))
        assert [run["seed"] for run in json.loads(path.read_text())["runs"]] == seeds


def test_a_path_is_recorded_by_its_name_and_a_run_with_its_seed(tmp_path):
    """A prompt may be longer than a file's name; then it is not a path."""
    (run := tmp_path / "runs" / "lstm" / "seed-1").mkdir(parents=True)
    prompt = "a/" + "long " * 100
    folders = f"--data-dir={tmp_path}", "--output-dir", str(tmp_path), "--output_dir", "out"
    command = command_line(["gru.py", "--pseudo-labels", str(run), *folders, "--prompt", prompt, "--resume"])
    assert command == f"python gru.py --pseudo-labels lstm/seed-1 --prompt {prompt}"
    assert recipe_of(cnn.Config(pseudo_labels=str(run)))["pseudo_labels"] == "lstm/seed-1"


@pytest.mark.slow
def test_the_leaderboards_runs_are_made_once(competition, tmp_path):
    """What is recorded and here is not run again; what was run with other options is. Table and report follow."""
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    where = "--data-dir", competition, "--output-dir", tmp_path, "--pages", readme
    command = "-m", "benchmarks.leaderboard", "--rows", "tfidf", *where
    run(*command)
    assert "| tfidf |" in readme.read_text() and "tfidf" in (tmp_path / "report" / "index.html").read_text()
    assert (tmp_path / "submissions" / "published" / "tfidf.csv.gz").is_file()
    result = tmp_path / "results" / "tfidf.json"
    first = result.read_text()
    run(*command)
    assert result.read_text() == first
    shutil.rmtree(tmp_path / "runs")  # as in a fresh copy of the repository, which has the records alone
    run(*command)
    assert result.read_text() != first and (tmp_path / "runs" / "tfidf" / "seed-1").is_dir()
    first = result.read_text()
    result.write_text(first.replace('"c": 5', '"c": 6'))
    assert result.read_text() != first
    run(*command)
    assert json.loads(result.read_text())["config"] == json.loads(first)["config"]
    submission = tmp_path / "submissions" / "tfidf.proba.csv"
    whole = submission.read_bytes()
    run("tfidf.py", "--max-train-samples", "100", *where[:4])  # a quick try takes the run's place
    assert submission.read_bytes() != whole
    result.write_text("<<<<<<< ours\n")
    assert "tfidf.json is not a recorded result" in run("tfidf.py", "--save-results", *where[:4], code=2).stderr
    result.write_text(first)
    run("tfidf.py", "--max-train-samples", "100", *where[:4])
    run(*command)
    assert submission.read_bytes() == whole
    assert "name some of tfidf" in run("-m", "benchmarks.leaderboard", "--rows", "tfidf.py", *where, code=2).stderr


def test_the_leaderboards_rows_are_of_valid_options(tmp_path):
    """Each command has its row's name; the members of an ensemble have folds."""
    config = leaderboard_runs.Config(output_dir=tmp_path)
    for name, row in leaderboard_runs.ROWS.items():
        runs = [leaderboard_runs.run_config_of(name, seed, config) for seed in ((1, 2) if row.has_seeds else (1,))]
        assert [(run.name, run.seed, run.no_validation) for run in runs] == [(name, 1, False), (name, 2, True)][: len(runs)]
        assert all(run.save_results and run.output_dir == tmp_path for run in runs)
        precision = "auto" if row.script == "lm_lstm" else "fp32"  # its language model takes hours in fp32
        assert {getattr(run, "precision", "fp32") for run in runs} == {precision}
        if (path := ROOT / "results" / f"{name}.json").is_file():  # its options are those of the record
            recorded, recipe = json.loads(path.read_text())["config"], recipe_of(runs[0])
            for option in ("folds", "pseudo_labels"):
                assert recorded.get(option) == recipe.get(option), (name, option)
    rows = leaderboard_runs.ROWS.keys() | leaderboard_runs.ENSEMBLES.keys()
    assert {path.stem for path in (ROOT / "results").glob("*.json")} <= rows  # each published row can be made again
    for members in leaderboard_runs.ENSEMBLES.values():
        assert all(leaderboard_runs.run_config_of(member, 1, config).folds == 5 for member in members)


def test_a_quick_try_makes_room_for_the_leaderboards_run(competition, tmp_path):
    """Resumed is what was begun with the same options, and nothing else."""
    config, here = leaderboard_runs.Config(output_dir=tmp_path), competition_data.Competition(competition, "--data-dir")
    its = leaderboard_runs.run_config_of("cnn", 1, config)
    train = here.read(competition_data.TRAIN)
    split = split_checksum(train.ids, [split.held_out for split in validation_splits(its, train.ids, train.labels)])
    for begun, content, held_out, is_resumed in (
        (replace(its, max_train_samples=9, save_results=False), here.checksum, split, False), (its, "of others", split, False),
        (its, here.checksum, "others", False), (its, here.checksum, split, True),
    ):  # fmt: skip
        start_or_resume(begun, data=content, split=held_out)
        assert ("--resume" in leaderboard_runs.command_of("cnn", 1, config, here)) == is_resumed
    with pytest.raises(UserError, match="its folds is None where this one's is 4"):
        # a fold's model was trained on other reviews than that of more folds
        start_or_resume(replace(its, resume=True, folds=4), data=here.checksum)
