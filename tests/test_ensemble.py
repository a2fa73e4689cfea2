"""Blends of members whose worth is known, and what is refused."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import run

from popcorn.data import competition as competition_data
from popcorn.data.splits import split_checksum
from popcorn.data.submission import write_out_of_fold, write_submissions
from popcorn.metrics import score_test
from popcorn.reporting import ensemble
from popcorn.utils.files import write_json


@pytest.fixture(scope="module")
def folder(competition, tmp_path_factory):
    """Two members that see different halves of the evidence, one that repeats the first, one that sees nothing."""
    folder, generator = tmp_path_factory.mktemp("members"), np.random.default_rng(0)
    its = competition_data.find_competition(competition)
    train, test = its.read(competition_data.TRAIN), its.read(competition_data.TEST)
    fold = np.arange(len(train.ids)) % 5 + 1
    labels = {"train": train.labels, "test": np.array([int(id.strip('"').split("_")[1]) > 5 for id in test.ids])}
    first: dict[str, np.ndarray] = {}
    for name, scale in (("words", 1.0), ("order", 1.0), ("again", 1.0), ("nothing", 0.0)):
        if name == "again":  # of the same opinion, on another scale
            said = {part: values / 4 for part, values in first.items()}
        else:
            said = {part: scale * (2.0 * right - 1) + generator.normal(size=len(right)) for part, right in labels.items()}
        first = first or said
        probability = {part: 1 / (1 + np.exp(-values)) for part, values in said.items()}
        write_out_of_fold(folder / "submissions", name, train.ids, probability["train"], fold)
        write_submissions(folder / "submissions", name, its.sample_ids(), test.ids, probability["test"])
        scored = score_test(test.ids, probability["test"])
        run = {"accuracy": scored.accuracy, "auc": scored.auc, "seconds": 60.0, "peak_memory": 2**30, "parameters": 5}
        write_json(folder / "results" / f"{name}.json", {"runs": [run]})
    return folder


def figures_of(folder, name: str) -> dict:
    (entry,) = json.loads((folder / "results" / f"{name}.json").read_text())["runs"]
    return entry


def test_two_views_are_better_than_each(folder, competition):
    where = "--output-dir", folder, "--data-dir", competition
    done = run("-m", "popcorn", "ensemble", "words", "order", "nothing", *where, "--save-results")
    entry = figures_of(folder, "ensemble")
    assert entry["members"] == ["words", "order", "nothing"] and entry["accuracy"] > 0.85
    assert abs(entry["weights"][2]) < 0.3 < min(entry["weights"][:2])  # the stacker finds out who says nothing
    assert entry["blend"] == "stacker"
    table = pd.read_csv(folder / "submissions" / "words.oof.csv")
    parts = [np.flatnonzero(table["fold"] == fold) for fold in range(1, 6)]
    assert entry["split"] == split_checksum(table["id"].tolist(), parts)
    assert (entry["seconds"], entry["peak_memory"], entry["parameters"]) == (180, 2**30, 15)  # what the members took together
    assert entry["command"].startswith("python -m popcorn ensemble words order nothing")
    added = {name: float(gain) for name, gain in re.findall(r"│ (\w+) .*│ ([+-]0\.\d+)", done.stdout)}
    assert min(added["words"], added["order"]) > 0.02 > 0.01 > added["nothing"]
    written = (folder / "submissions" / "ensemble.proba.csv").read_text().splitlines()
    assert written[0] == "id,sentiment" and len(written) == 101


def test_ranks_know_no_scale(folder, competition):
    """A member with the first one's order in other numbers, of each fold others, changes nothing in the mean of the ranks."""
    its = competition_data.find_competition(competition)
    train, test = its.read(competition_data.TRAIN), its.read(competition_data.TEST)
    first, again = (ensemble.read_member(folder / "submissions", name, train.ids, test.ids) for name in ("words", "again"))
    alone, _, _ = ensemble.blend([first], train.labels, ensemble.mean_rank)
    again = replace(again, train=again.train / again.fold)
    both, _, _ = ensemble.blend([first, again], train.labels, ensemble.mean_rank)
    assert np.allclose(alone, both, atol=1e-3) and alone.std() > 0.1


def test_no_review_is_blended_by_its_own_label(folder, competition):
    """With labels that are chance, the out-of-fold figure stays at chance however many members there are to fit."""
    its = competition_data.find_competition(competition)
    train, test = its.read(competition_data.TRAIN), its.read(competition_data.TEST)
    member = ensemble.read_member(folder / "submissions", "words", train.ids, test.ids)
    generator = np.random.default_rng(1)
    chance = [
        ensemble.Member(str(number), generator.uniform(size=len(train.ids)), member.fold, member.test) for number in range(60)
    ]
    labels = generator.integers(0, 2, len(train.ids))
    held_out, _, _ = ensemble.blend(chance, labels, ensemble.log_odds)
    assert abs(((held_out > 0.5) == labels).mean() - 0.5) < 0.1


def test_what_cannot_be_blended_is_refused(folder, competition, tmp_path):
    its = competition_data.find_competition(competition)
    train, test = its.read(competition_data.TRAIN), its.read(competition_data.TEST)
    submissions = tmp_path / "submissions"
    half = np.full(len(train.ids), 0.5)
    for name, fold in (("five", np.arange(400) % 5 + 1), ("four", np.arange(400) % 4 + 1), ("part", np.arange(400) % 2)):
        write_out_of_fold(submissions, name, train.ids, half, fold)
        write_submissions(submissions, name, its.sample_ids(), test.ids, np.full(len(test.ids), 0.5))
    for names, said in (
        (("five", "four"), "folds of four and five differ for"),
        (("five", "part"), "part.oof.csv has 200 rows where these data have 400"),
        (("five", "missing"), "missing.oof.csv: run the script of missing with --folds"),
        (("five",), "at least two different members"),
    ):
        done = run("-m", "popcorn", "ensemble", *names, "--output-dir", tmp_path, "--data-dir", competition, code=2)
        assert said in " ".join(done.stderr.split())
    half[3] = np.nan
    write_out_of_fold(submissions, "bad", train.ids, half, np.arange(400) % 5 + 1)
    write_submissions(submissions, "bad", its.sample_ids(), test.ids, np.full(len(test.ids), 0.5))
    for names, given, said in (
        (("five", "bad"), (), "bad.oof.csv, row 5: the sentiment is nan"),
        (("five", "bad"), ("--name", "bad"), "--name 'bad' is a run, whose submissions"),
        (("five", "bad"), ("--name", "four"), "--name 'four' is a run, whose submissions"),
        (("five",), ("--all",), "five were named too: give one of the two"),
    ):
        command = "-m", "popcorn", "ensemble", *names, *given, "--output-dir", tmp_path, "--data-dir", competition
        assert said in " ".join(run(*command, code=2).stderr.split())
    assert not (submissions / "ensemble.csv").exists() and (submissions / "bad.oof.csv").exists()


def test_what_is_not_on_record_is_not_recorded(folder, competition):
    """What an ensemble took is what its members took: their own runs must be known, and not others of the same name."""
    command = "-m", "popcorn", "ensemble", "words", "order", "--name", "two", "--output-dir", folder, "--data-dir", competition
    path = folder / "results" / "order.json"
    content = path.read_text()
    path.write_text(content.replace('"accuracy": 0', '"accuracy": 1'))
    try:
        assert "does not record the run that is blended" in " ".join(run(*command, "--save-results", code=2).stderr.split())
        assert not (folder / "submissions" / "two.csv").exists()
        run(*command)
    finally:
        path.write_text(content)
