"""Published probabilities: what they reproduce, who can use them, and that they, the records and the tables agree."""

import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, run_here

from popcorn.data import competition as competition_data
from popcorn.data.submission import published_files, write_out_of_fold, write_published, write_submissions
from popcorn.errors import UserError
from popcorn.metrics import compute_metrics, score_test, true_labels
from popcorn.reporting import report
from popcorn.reporting.ensemble import BLENDS, blend, read_member
from popcorn.reporting.leaderboard import END, begin, update
from popcorn.reporting.published import published_scores
from popcorn.reporting.score import score_file
from popcorn.runs.results import rows
from popcorn.runs.run_dir import save_fit_result
from popcorn.training.fit_result import FitResult
from popcorn.utils.files import write_json

FOLDS = np.arange(400) % 5 + 1
LIMIT = 6_000_000
"""bytes of all published files"""


def predicted(labels: np.ndarray, seed: int, noise: float) -> np.ndarray:
    """Probabilities that are right more often than not, with all digits of a float."""
    return 1 / (1 + np.exp(-(2.0 * labels - 1 + np.random.default_rng(seed).normal(0, noise, len(labels)))))


def add_row(folder: Path, data: Path, name: str, seeds: tuple[int, ...] = (1,), has_folds: bool = True, noise: float = 1.0):
    """What recorded runs of these seeds leave: submissions of the last one, a folder of each, and the record."""
    its = competition_data.find_competition(data)
    train, test = its.read(competition_data.TRAIN), its.read(competition_data.TEST)
    labels, runs = true_labels(test.ids), []
    for seed in seeds:
        probability, out_of_fold = (predicted(each, seed + len(name), noise) for each in (labels, train.labels))
        write_submissions(folder / "submissions", name, its.sample_ids(), test.ids, probability)
        fits, splits = {"refit": {"epoch": 2, "reviews_per_second": 9.0, "history": [{}, {}]}}, {"refit": np.zeros(0)}
        if has_folds:
            write_out_of_fold(folder / "submissions", name, train.ids, out_of_fold, FOLDS)
            splits = {f"fold-{number}": out_of_fold[number == FOLDS] for number in range(1, 6)}
            fits = {
                f"fold-{number}": fold_record(train.labels[number == FOLDS], splits[f"fold-{number}"]) for number in range(1, 6)
            }
        for split, validation in splits.items():
            path = folder / "runs" / name / f"seed-{seed}" / split
            path.mkdir(parents=True, exist_ok=True)
            save_fit_result(path, FitResult(validation, probability))
        score = score_test(test.ids, probability.round(6))
        runs.append({
            "seed": seed, "accuracy": score.accuracy, "auc": score.auc, "test_reviews": len(labels), "seconds": 60.0,
            "peak_memory": 2**30, "parameters": 5, "machine": "m", "command": f"python {name}.py --save-results", "fits": fits,
        })  # fmt: skip
    content = {"name": name, "config": {}, "data": {"source": "competition", "sha256": "0"}, "runs": runs}
    write_json(folder / "results" / f"{name}.json", content)


def fold_record(labels: np.ndarray, probability: np.ndarray) -> dict:
    """The record of a model that predicted these validation reviews after its second epoch."""
    last = compute_metrics(labels, probability)
    return {"epoch": 2, "reviews_per_second": 9.0, "history": [last | {"validation_auc": 0.5}, last]}


def published(folder: Path, data: Path, *names: str, code: int = 0) -> str:
    """Runs `publish`; what it printed, in one line."""
    where = "--output-dir", folder, "--results", folder / "results", "--data-dir", data
    return " ".join(run_here("popcorn/__main__.py", "publish", *names, *where, code=code).split())


def remove_runs(folder: Path):
    """Leaves what a fresh clone has: records and published files."""
    shutil.rmtree(folder / "runs")
    for path in (folder / "submissions").glob("*.csv"):
        path.unlink()


@pytest.fixture(scope="module")
def made(competition, tmp_path_factory):
    """Two rows with folds, one with two seeds, and an ensemble, all published; the runs are still here."""
    folder = tmp_path_factory.mktemp("made")
    add_row(folder, competition, "words-folds")
    add_row(folder, competition, "order-folds", noise=0.9)
    add_row(folder, competition, "seeds", seeds=(1, 2), has_folds=False)
    where = "--output-dir", folder, "--data-dir", competition
    run_here("popcorn/__main__.py", "ensemble", "words-folds", "order-folds", *where, "--save-results")
    assert "4 of 4 rows" in published(folder, competition)
    return folder


@pytest.fixture
def clone(made, tmp_path):
    """The same without any run."""
    folder = shutil.copytree(made, tmp_path / "clone")
    remove_runs(folder)
    return folder


def test_a_published_file_is_readable_the_same_every_time_and_scores_as_recorded(made, competition):
    files = {path.name: path.read_bytes() for path in (made / "submissions" / "published").iterdir()}
    assert sorted(files) == [
        "ensemble.csv.gz", "order-folds.csv.gz", "order-folds.oof.csv.gz", "seeds.csv.gz", "words-folds.csv.gz",
        "words-folds.oof.csv.gz",
    ]  # fmt: skip
    published(made, competition)
    assert files == {path.name: path.read_bytes() for path in (made / "submissions" / "published").iterdir()}
    for content in files.values():
        assert content[3] == 0 and content[4:8] == bytes(4)  # no name and no time
    lines = gzip.decompress(files["words-folds.csv.gz"]).decode().splitlines()
    assert lines[0] == "id,sentiment" and re.fullmatch(r"0_2,0\.\d{6}", lines[1]) and len(lines) == 101
    assert gzip.decompress(files["words-folds.oof.csv.gz"]).decode().startswith("id,fold,sentiment\n0_2,")
    paths = sorted((made / "submissions" / "published").iterdir())
    shown = run_here("popcorn/__main__.py", "score", *paths, "--data-dir", competition)
    for name in ("words-folds", "order-folds", "seeds", "ensemble"):
        recorded = json.loads((made / "results" / f"{name}.json").read_text())["runs"][0]
        score = score_file(made / "submissions" / "published" / f"{name}.csv.gz", competition_ids(competition))
        assert score.accuracy == recorded["accuracy"] and f"{score.auc:.5f}" == f"{recorded['auc']:.5f}"
        assert f"{score.accuracy:.5f}" in shown and f"{score.auc:.5f}" in shown
    assert len(re.findall(r"0\.\d{4} to 0\.\d{4}", shown)) == 4  # no row for out-of-fold probabilities


def competition_ids(data: Path) -> list[str]:
    return competition_data.find_competition(data).sample_ids()


def test_the_first_recorded_seed_is_published_though_the_submission_is_the_last_ones(made, competition, tmp_path):
    """And it stays where the run's folder is gone."""
    first, last = json.loads((made / "results" / "seeds.json").read_text())["runs"]
    path = Path("submissions") / "published" / "seeds.csv.gz"
    assert score_file(made / path, competition_ids(competition)).auc == pytest.approx(first["auc"], abs=1e-9)
    folder = shutil.copytree(made, tmp_path / "copy")
    shutil.rmtree(folder / "runs")
    assert "seed 1" in published(folder, competition, "seeds")
    assert (folder / path).read_bytes() == (made / path).read_bytes()
    (folder / path).unlink()
    assert "seed 2" in published(folder, competition, "seeds")
    assert score_file(folder / path, competition_ids(competition)).auc == pytest.approx(last["auc"], abs=1e-9)


def test_another_seed_is_published_where_the_folds_of_the_first_are_gone(made, competition, tmp_path):
    folder = shutil.copytree(made, tmp_path / "copy")
    add_row(folder, competition, "two-folds", seeds=(1, 2))  # the second seed's out-of-fold file replaces the first one's
    assert "seed 2" in published(folder, competition, "two-folds")


def test_what_does_not_reproduce_its_record_is_refused(made, competition, tmp_path):
    folder = shutil.copytree(made, tmp_path / "copy", ignore=shutil.ignore_patterns("runs", "published"))
    test, out_of_fold = (folder / "submissions" / f"words-folds{ending}" for ending in (".proba.csv", ".oof.csv"))
    whole = test.read_text()
    test.write_text(re.sub(r"0\.\d+$", "0.5", whole, count=1, flags=re.MULTILINE))
    said = published(folder, competition, "words-folds", code=2)
    assert re.search("no probabilities in .*words-folds.proba.csv or .* reproduce the score of a recorded run: run the", said)
    said = published(folder, competition)  # all that can be
    assert "words-folds is not published: " in said and "seeds.csv.gz: seed 2" in said and "3 of 4 rows" in said
    test.write_text(whole)
    out_of_fold.write_text(re.sub(r",0\.\d+$", ",0.5", out_of_fold.read_text(), flags=re.MULTILINE))
    assert "words-folds.oof.csv does not reproduce the folds" in published(folder, competition, "words-folds", code=2)
    assert "has no row other: name one of " in published(folder, competition, "other", code=2)
    assert not list((folder / "submissions" / "published").glob("words*"))


def test_nothing_is_published_of_the_fallback_data(made, competition, monkeypatch):
    found = competition_data.Competition(competition, competition_data.FALLBACK)
    monkeypatch.setattr(competition_data, "find_competition", lambda folder: found)
    assert "the competition's reviews, which are not here" in published(made, competition, code=2)


def test_an_ensemble_of_published_members_is_the_recorded_one(made, clone, competition):
    """To the last byte; and the blend with one run of one's own is another."""
    where = "--output-dir", clone, "--data-dir", competition
    said = run_here("popcorn/__main__.py", "ensemble", "words-folds", "order-folds", *where)
    assert "words-folds: the published run" in said and "order-folds: the published run" in said
    name = Path("submissions") / "ensemble.proba.csv"
    assert (clone / name).read_bytes() == (made / name).read_bytes()
    add_row(clone, competition, "order-folds", noise=0.5)
    add_row(clone, competition, "mine", noise=0.9)
    said = run_here("popcorn/__main__.py", "ensemble", "words-folds", "order-folds", "mine", *where)
    assert "words-folds: the published run" in said and "order-folds: your own run" in said and "mine:" not in said
    (clone / "submissions" / "order-folds.oof.csv").unlink()  # never one file of each
    said = run_here("popcorn/__main__.py", "ensemble", "words-folds", "order-folds", *where, code=2)
    assert "there is no file" in said and "order-folds.oof.csv: run the script of order-folds" in " ".join(said.split())


def test_published_runs_are_compared_by_name_with_ones_own(clone, competition):
    where = "--output-dir", clone, "--data-dir", competition
    add_row(clone, competition, "mine", noise=0.3)
    said = " ".join(run_here("popcorn/__main__.py", "compare", "words-folds", "mine", *where).split())
    assert "words-folds: the published run" in said and "400 validation reviews" in said and "100 test reviews" in said
    said = " ".join(run_here("popcorn/__main__.py", "compare", "seeds", "mine", *where).split())
    assert "no validation predictions on the same reviews" in said and "By accuracy, mine is better than seeds." in said
    add_row(clone, competition, "seeds", has_folds=False)
    path = clone / "submissions" / "published" / "seeds.csv.gz"
    said = " ".join(run_here("popcorn/__main__.py", "compare", "seeds", path, *where).split())
    assert "seeds: your own run" in said and "Both predict the same label for 100.0%" in said


def test_the_report_shows_published_rows_without_a_run(clone, competition, monkeypatch, capsys):
    report.write(clone, clone / "results", competition)
    assert "4 models, 4 of them with their predictions" in capsys.readouterr().out
    page = (clone / "report" / "index.html").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert {"Learning curves", "Calibration", "Accuracy by length", "Agreement"} <= set(headings)
    assert len(re.findall(r"<tr><td>(?:words|order)-folds</td><td>[\d.]+</td><td>[\d.]+</td><td>[\d.]+</td></tr>", page)) == 2
    content = (clone / "results" / "words-folds.json").read_text()
    add_row(clone, competition, "words-folds", noise=0.2)  # a run of one's own that is not the recorded one
    (clone / "results" / "words-folds.json").write_text(content)
    report.write(clone, clone / "results", competition)
    printed = capsys.readouterr().out
    assert "words-folds.proba.csv is of another run" in printed and "4 of them with their predictions" in printed
    found = competition_data.Competition(competition, competition_data.FALLBACK)
    monkeypatch.setattr(competition_data, "find_competition", lambda folder: found)
    remove_runs(clone)
    report.write(clone, clone / "results", None)
    assert "4 models, 0 of them with their predictions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda text: gzip.compress(text.encode())[:-300], "is a damaged or truncated gzip file"),
        (lambda text: gzip.compress(text.encode())[:-9] + bytes(9), "is a damaged or truncated gzip file"),
        (lambda text: gzip.compress(text.replace("\n0_2,", "\n1_2,").encode()), "row 2: 1 unknown ids, for example 1_2"),
        (lambda text: gzip.compress(re.sub(r"\n0_2,.*", "", text).encode()), "1 missing ids, for example 0_2"),
        (lambda text: gzip.compress(text.replace("\n0_2,0", "\n0_2,1").encode()), "row 2: the sentiment is 1."),
        (lambda text: gzip.compress((text + "0_2,0.5\n").encode()), "row 102: 1 doubled ids, for example 0_2"),
        (lambda text: gzip.compress(b""), "it is empty"),
    ],
    ids=["cut", "damaged", "other id", "missing id", "above 1", "doubled id", "empty"],
)
def test_a_bad_file_gets_one_sentence(content, said, clone, competition):
    path = clone / "submissions" / "published" / "words-folds.csv.gz"
    path.write_bytes(content(gzip.decompress(path.read_bytes()).decode()))
    shown = " ".join(run_here("popcorn/__main__.py", "score", path, "--data-dir", competition, code=2).split())
    assert f"error: {path}" in shown and said in shown
    other = path.with_name("seeds.csv.gz")
    shown = " ".join(run_here("popcorn/__main__.py", "compare", path, other, "--data-dir", competition, code=2).split())
    assert "words-folds.csv.gz" in shown and (said in shown or "have different reviews" in shown)


# ------------------------------------------------------------------------------------------------- files, records and tables


def problems_of(root: Path) -> list[str]:
    """Where the published files, the records and the tables of a repository disagree."""
    try:
        scores = published_scores(root / "submissions", root / "results")
    except UserError as problem:
        return [f"{problem} (python -m popcorn publish)"]
    seeds = {row.name: row.seeds for row in rows(root / "results")}
    files = list((root / "submissions" / "published").glob("*.gz"))
    problems = [f"{path} has a name or a time inside" for path in files if path.read_bytes()[3:8] != bytes(5)]
    if (size := sum(path.stat().st_size for path in files)) > LIMIT:
        problems.append(f"the published files have {size:,} bytes")
    single = {name: score for name, score in scores.items() if seeds[name] == 1}  # of several seeds, a table has the mean
    for page in ("README.md", "README.zh-CN.md", "docs/results.md"):
        for line in (root / page).read_text(encoding="utf-8").splitlines():
            name, _, figures = line.removeprefix("| ").partition(" | ")
            name = re.sub(r"\[\w+\]\(\w+\.py\) `(.+)`", r"\1", name)  # a row with options
            name = re.sub(r"\[(\w+)\]\(\w+\.py\)", r"\1", name)
            if name in single and re.search(r"\| 0\.\d{4} .*\| 0\.\d{4} \|", line):
                score = single[name]
                problems += [
                    f"{page} does not have {value:.4f}, the published figure of {name}"
                    for value in (score.accuracy, score.auc)
                    if f" {value:.4f} |" not in f" {figures} |"
                ]
    return problems


def test_published_files_records_and_tables_of_this_repository_agree():
    assert problems_of(ROOT) == []


def test_the_published_ensemble_is_the_blend_of_its_published_members(tmp_path):
    """All that it needs is in this repository: the labels are in the ids."""
    (record,) = json.loads((ROOT / "results" / "ensemble.json").read_text())["runs"]
    shutil.copytree(ROOT / "submissions" / "published", tmp_path / "published")  # without runs of one's own
    files = published_files(tmp_path, record["members"][0])
    train_ids, test_ids = (pd.read_csv(path, dtype=str)["id"].tolist() for path in (files.out_of_fold, files.test))
    members = [read_member(tmp_path, name, train_ids, test_ids) for name in record["members"]]
    _, probability, stacker = blend(members, true_labels(train_ids), BLENDS[record["blend"]])
    recorded = pd.read_csv(published_files(tmp_path, "ensemble").test)["sentiment"]
    assert np.allclose(stacker.coef_[0], record["weights"], atol=1e-4)
    assert np.abs(probability - recorded).max() < 1e-5  # the optimizer ends a little differently on another processor


@pytest.mark.parametrize("page", ["docs/results.md", "submissions/README.md"])
def test_the_documented_commands_name_published_rows(page):
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"\w\S*-folds\b", "\n".join(blocks)))
    assert named and all(published_files(ROOT / "submissions", name).out_of_fold.is_file() for name in named)


@pytest.fixture
def repository(clone):
    """A clone with pages, whose scripts are those of this repository."""
    for before, after in (("words-folds", "lm_lstm-folds"), ("order-folds", "tfidf-folds"), ("seeds", "gru")):
        for path in [*clone.glob(f"results/{before}.json"), *clone.glob(f"submissions/published/{before}.*")]:
            path.write_bytes(path.read_bytes().replace(before.encode(), after.encode()))
            path.rename(path.with_name(path.name.replace(before, after)))
    (clone / "docs").mkdir()
    pages = {"README.md": "scripts", "README.zh-CN.md": "scripts in Chinese", "docs/results.md": "results"}
    for page, table in pages.items():
        (clone / page).write_text(f"{begin(table)}\n{END}\n")
    update(clone / "results", tuple(clone / page for page in pages))
    assert problems_of(clone) == []
    return clone


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/results.md"])
def test_a_table_with_another_figure_is_found(page, repository):
    content = json.loads((repository / "results" / "lm_lstm-folds.json").read_text())
    path = repository / page
    path.write_text(path.read_text().replace(f"{content['runs'][0]['auc']:.4f}", "0.9999"))
    (problem,) = problems_of(repository)
    assert page in problem and "lm_lstm-folds" in problem


def test_another_record_no_record_and_a_missing_file_are_found(repository):
    record, folder = repository / "results" / "lm_lstm-folds.json", repository / "submissions" / "published"
    content = record.read_text()
    auc = json.loads(content)["runs"][0]["auc"]
    record.write_text(content.replace(f'"auc": {auc}', f'"auc": {auc - 1e-4}'))
    (problem,) = problems_of(repository)
    assert "lm_lstm-folds.csv.gz does not reproduce the score of a run in" in problem and "publish lm_lstm-folds" in problem
    record.unlink()
    (problem,) = problems_of(repository)
    assert "lm_lstm-folds.csv.gz has no record" in problem
    record.write_text(content)
    out_of_fold = folder / "lm_lstm-folds.oof.csv.gz"
    whole = out_of_fold.read_bytes()
    out_of_fold.unlink()
    (problem,) = problems_of(repository)
    assert "lm_lstm-folds.oof.csv.gz does not reproduce the folds" in problem
    table = pd.read_csv(folder / "tfidf-folds.oof.csv.gz", index_col="id")
    write_published(out_of_fold, table)  # another row's
    (problem,) = problems_of(repository)
    assert "lm_lstm-folds.oof.csv.gz does not reproduce the folds" in problem
    out_of_fold.write_bytes(whole)
    assert problems_of(repository) == []
    (folder / "lm_lstm-folds.csv.gz").unlink()
    (problem,) = problems_of(repository)
    assert "there is no file" in problem and "lm_lstm-folds.csv.gz" in problem
    shutil.rmtree(folder)
    assert problems_of(repository) == []
