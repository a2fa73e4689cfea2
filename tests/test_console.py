"""Names, words and paths are shown as they are written: they are no markup, no emoji codes, no Markdown and no mathematics."""

import importlib.util
import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from gensim.models import KeyedVectors
from matplotlib import pyplot
from rich.console import Console

from popcorn.inference import predict
from popcorn.reporting import ensemble, leaderboard, plots, score
from popcorn.runs.results import Row

SPEC = importlib.util.spec_from_file_location("glove_gensim", ROOT / "glove-gensim.py")
glove_gensim = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(glove_gensim)
NAMES = ["[final] a", "[/b]", "[bold]b[/bold]", ":smile:", "[link=x]c"]
IDS = [f"{number}_{stars}" for number, stars in enumerate([1, 2, 3, 8, 9, 10])]


def submission(path, values):
    pd.DataFrame({"id": IDS, "sentiment": values}).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", [name for name in NAMES if "/" not in name])
def test_score_shows_a_files_name(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = submission(type(tmp_path)(f"{name}.csv"), [0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    score.print_scores([path], IDS)
    assert f" {name}.csv " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "is_swapped"),
    [
        ([0.9, 0.8, 0.7, 0.3, 0.2, 0.1], True),
        ([1, 1, 1, 0, 0, 0], True),
        ([1, 0.8, 0.1, 0.7, 0, 0], True),
        ([0.1, 0.2, 0.3, 0.7, 0.8, 0.9], False),
        ([0.5] * 6, False),
    ],
)
def test_score_says_that_classes_may_be_swapped(values, is_swapped, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    score.print_scores([submission(type(tmp_path)("[x].csv"), values)], IDS)
    assert ("[x].csv: a ROC AUC of" in capsys.readouterr().out.replace("\n", " ")) == is_swapped


@pytest.mark.parametrize("name", NAMES)
def test_ensemble_shows_its_members(name, capsys):
    labels, fold = np.array([0, 1] * 6), np.repeat([1, 2, 3], 4)
    members = [ensemble.Member(each, np.linspace(0.1, 0.9, 12), fold, labels) for each in (name, "other")]
    figures = {"validation_accuracy": 0.9, "validation_auc": 0.9, "validation_loss": 0.1}
    ensemble.print_blends({"stacker": figures}, np.array([1.0, 2.0]), [name, "other"])
    assert f"{name} 1.00, other 2.00" in capsys.readouterr().out
    ensemble.print_members(members, labels, "mean of ranks", figures)
    assert f"│ {name} " in capsys.readouterr().out


def test_neighbors_are_shown_as_they_are(tmp_path, capsys):
    keys = KeyedVectors(4)
    words = ["movie", *NAMES]
    keys.add_vectors(words, np.random.default_rng(0).normal(size=(len(words), 4)).astype(np.float32))
    output = tmp_path / "[dim]v.kv"
    keys.save(str(output))
    glove_gensim.show_neighbors(output, ("movie", "[/b]"))
    shown = "".join(re.sub(r"\s*│\s*│\s*|\n", " ", capsys.readouterr().out).split())
    assert all(name.replace(" ", "") in shown for name in NAMES) and "[dim]v.kv" in shown


class Model:
    """Each word of praise or of blame carries a weight of its own."""

    def __init__(self, weights: dict[str, float]):
        self.weights = weights

    def probability(self, texts):
        return np.array([0.9] * len(texts))

    def explain(self, text):
        return [(word, self.weights.get(word, 0.0)) for word in text.split()]


@pytest.mark.parametrize("word", [name for name in NAMES if " " not in name])
def test_predict_shows_a_reviews_words(word, capsys):
    predict.show(Model({}), f"a {word} film", predict.make_console())
    assert f"a {word} film" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weight", "shown"), [(2.0, "[++it]"), (0.6, "[+it]"), (-0.6, "[-it]"), (-2.0, "[--it]"), (0.1, " it "), (-0.1, " it ")]
)
def test_predict_marks_words_where_there_are_no_colors(weight, shown, capsys):
    assert predict.show(Model({"best": 2.0, "it": weight}), "see it best", predict.make_console())
    assert shown in capsys.readouterr().out


def test_predict_colors_words_where_it_can(capsys):
    predict.show(Model({"best": 2.0, "worst": -1.8}), "best and worst", Console(force_terminal=True, color_system="standard"))
    assert "\033[1;32mbest\033[0m and \033[1;31mworst\033[0m" in capsys.readouterr().out


def row(name: str) -> Row:
    return Row(name, 0.9, None, 0.01, 0.95, 0.9, False, 60.0, 10.0, 2**30, 10**6, 1, "machine", "python lstm.py")


@pytest.mark.parametrize("name", ["a|b", "*a*", "`a`", "[a](b)", "<b>a", "a\\|b", "a\nb", "~~a~~"])
def test_markdown_cells_are_literal(name):
    lines = leaderboard.markdown([row(name)]).strip().splitlines()
    assert len(lines) == 3 and len(re.split(r"(?<!\\)(?:\\\\)*\|", lines[2])) == len(leaderboard.HEADINGS) + 2
    assert not re.search(r"(?<!\\)(?:\\\\)*[*`<\[~]", lines[2])
    assert re.sub(r"\\(.)", r"\1", lines[2]).startswith(f"| {' '.join(name.split())} |")


def test_markdown_of_ordinary_names_is_unchanged():
    assert leaderboard.markdown([row("lm_lstm-unlabeled")]).splitlines()[4].startswith("| lm_lstm-unlabeled | 0.9000 |")


@pytest.mark.parametrize("name", ["a$b$c", "$x_", "_hidden", r"$\frac{$"])
def test_charts_write_names_as_they_are(name):
    drawn = plots.learning_curves({name: [0.1, 0.2]}) + plots.accuracy_against_time([(name, 60.0, 0.9, 0.01)] * 2)
    assert len(re.findall(rf">\s*{re.escape(name)}\s*<", drawn)) == 3
    pyplot.close("all")
