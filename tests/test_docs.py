"""The README and docs/: their length, links, tables and commands, and the model that docs/adding-a-model.md adds."""

import argparse
import glob
import importlib
import importlib.util
import re
import runpy
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pretrained
import pytest
import test_decoders
import tyro
from conftest import ROOT, SMALL, reviews, zipped

from popcorn import __main__ as commands_module
from popcorn.config import DECODERS, FineTuneConfig, PretrainedConfig, TrainingConfig, ZeroShotConfig
from popcorn.data.competition import TEST, TRAIN, find_competition
from popcorn.data.splits import validation_folds
from popcorn.data.submission import published_files, write_published
from popcorn.data.tables import bare
from popcorn.errors import UserError
from popcorn.kaggle import kernel
from popcorn.reporting import script_table
from popcorn.reporting.leaderboard import END, begin, marked_pages, render
from popcorn.runs.results import rows
from popcorn.utils import scripts
from popcorn.utils.scripts import load_script, model_scripts

MODELS = (ROOT / "results" / "models.csv").read_text(encoding="utf-8").splitlines()
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [README, CHINESE, ROOT / "submissions" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FAMILIES = sorted((ROOT / "docs" / "models").glob("*.md"))
NEW_MODEL = ROOT / "docs" / "adding-a-model.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)?(#[^)]+)?\)")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(text_of(page)) if name == language]


def commands(page: Path) -> list[str]:
    """The lines of its blocks of commands, with names for a reader's own."""
    found = [
        code
        for code in blocks(page, "bash") + blocks(page, "")
        if code.startswith(("python", "kaggle", "make", "cp", "torchrun"))
    ]
    return [re.sub(r"<[\w ]+>", "YOU", line.replace("<version>", "1")) for code in found for line in code.splitlines()]


COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))


def words(text: str) -> list[str]:
    """What stands between blanks and has a letter or a digit; without comments, but with tables, code and addresses."""
    return [word for word in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).split() if re.search(r"\w", word)]


def sentences(text: str) -> list[str]:
    """Paragraphs and items of lists, split where a sentence ends."""
    text = re.sub(r"^\|.*|^#.*|!\[.*", "", re.sub(r"<!--.*?-->", "", BLOCK.sub("", text), flags=re.DOTALL), flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)  # a link's address is not read
    parts = re.split(r"\n\s*\n|\n(?:-|\d\.) ", text)
    return [sentence for part in parts for sentence in re.split(r"(?<=[.!?:])\s", part.strip()) if words(sentence)]


def test_the_readme_is_short():
    text = text_of(README)
    # without the rows of scripts that a reader has added
    of_readers = {path.stem for path in ROOT.glob("*.py")} - {line.partition(",")[0] for line in MODELS}
    lines = [line for line in text.splitlines() if not any(line.startswith(f"| [{script}]") for script in of_readers)]
    assert len(words("\n".join(lines))) <= 900
    assert len(words(text.partition("```bash")[0])) <= 170


@pytest.mark.parametrize("page", [page for page in PAGES if page != CHINESE], ids=lambda page: page.stem)
def test_sentences_are_short(page):
    lengths = [len(words(sentence)) for sentence in sentences(text_of(page))]
    assert sum(lengths) / len(lengths) <= 15


@pytest.mark.parametrize("page", marked_pages(ROOT), ids=lambda page: page.stem)
def test_the_tables_are_those_of_the_records(page):
    """Fails when one of the two changed: run `python -m popcorn leaderboard`."""
    assert render(page, list(rows(ROOT / "results")), ROOT / "results") == text_of(page)


def test_every_script_has_a_row_in_both_languages():
    tables = [re.findall(r"^\| \[(\w+)\]\(\1\.py\)(.*)$", text_of(page), re.MULTILINE) for page in (README, CHINESE)]
    assert [script for script, _ in tables[0]] == [script for script, _ in tables[1]]
    assert sorted(script for script, _ in tables[0]) == model_scripts()
    for (_, english), (_, chinese) in zip(*tables, strict=True):
        assert re.findall(r"\d\.\d+|± |\(.*?\d{4}\)|`.*?`|\d+ min", english.split(" | ", 1)[1]) == re.findall(
            r"\d\.\d+|± |\(.*?\d{4}\)|`.*?`|\d+ min", chinese.split(" | ", 1)[1]
        )


def test_figures_in_sentences_are_recorded():
    best = max(row.accuracy for row in rows(ROOT / "results") if row.name.startswith("ensemble"))
    assert f"{best:.4f}" in text_of(README).split(END)[1] and f"{best:.4f}" in text_of(CHINESE).split(END)[1]


def test_the_chinese_readme_is_the_readme():
    assert text_of(README).splitlines()[0] == "English | [简体中文](README.zh-CN.md)"
    assert text_of(CHINESE).splitlines()[0] == "[English](README.md) | 简体中文"
    assert commands(README) == commands(CHINESE)
    english, chinese = (re.findall(r"^#+ ", text_of(page), re.MULTILINE) for page in (README, CHINESE))
    assert english == chinese
    assert [found[0] for found in LINK.findall(text_of(README))[1:]] == [found[0] for found in LINK.findall(text_of(CHINESE))[1:]]
    assert all(re.search(r"[一-鿿]", line) for line in text_of(CHINESE).splitlines() if line.startswith("#"))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "benchmarks" / "log.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for path, section in LINK.findall(BLOCK.sub("", text_of(page))):
        target = page.parent / path if path else page
        assert target.exists(), path
        if section:
            headings = re.findall(r"^#+ (.*)$", text_of(target), re.MULTILINE)
            assert section[1:] in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_pages_of_families_have_the_same_headings_and_all_scripts():
    for page in FAMILIES:
        assert re.findall(r"^## (.*)$", text_of(page), re.MULTILINE) == ["Usage", "What it is", "Details that matter", "Results"]
    linked = re.findall(r"\]\(\.\./\.\./(\w+)\.py\)", "".join(map(text_of, FAMILIES)))
    assert sorted(linked) == model_scripts()
    assert {page.name for page in FAMILIES} == set(re.findall(r"docs/models/([\w-]+\.md)", text_of(README)))


def test_the_log_has_the_newest_entry_first_and_conclusions():
    headings = re.findall(r"^## (.*)$", text_of(ROOT / "benchmarks" / "log.md"), re.MULTILINE)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d: .+ \(.+\)", heading) for heading in headings)
    days = [heading[:10] for heading in headings]
    assert days == sorted(days, reverse=True)


def test_tables_of_other_folders(tmp_path):
    """A page without markers, a marker of no table, and a wrong line of models.csv are refused; no script is left out."""
    page = tmp_path / "page.md"
    page.write_text("no markers")
    with pytest.raises(UserError, match="lacks the two lines"):
        render(page, [], tmp_path)
    page.write_text(f"{begin('scores')}\n{END}")
    with pytest.raises(UserError, match="table 'scores'"):
        render(page, [], tmp_path)
    page.write_text(f"{begin('results of lstm')}\n{END}{begin('scripts')}\n{END}")
    text = render(page, [], tmp_path)
    assert "No result is recorded yet." in text and text.count("not measured: `python ") == len(model_scripts())
    assert "| [cnn](cnn.py) | Two-layer convolutional network (Kim 2014) | not measured: `python cnn.py` |" in text
    (tmp_path / "models.csv").write_text("script,model,model_zh,paper,kaggle,published,source\ncnn,c,c,p,91.2,,\n")
    with pytest.raises(UserError, match=r"models\.csv has a wrong line"):
        render(page, [], tmp_path)


# ---------------------------------------------------------------------------------------------------------------- commands


@cache
def config_of(script: str) -> type:
    """The options of a script of the repository, or of one that a page makes."""
    copied = {new: old for old, new in re.findall(r"^cp (\w+)\.py (\w+)\.py$", "\n".join(COMMANDS), re.MULTILINE)}
    if script == NEW_SCRIPT:
        namespace = {"__name__": NEW_SCRIPT}
        sys.modules[NEW_SCRIPT] = SimpleNamespace(__dict__=namespace)
        try:
            exec(compile(blocks(NEW_MODEL, "python")[0], NEW_SCRIPT, "exec"), namespace)
        finally:
            del sys.modules[NEW_SCRIPT]
        return namespace["Config"]
    if script == "glove-gensim":
        spec = importlib.util.spec_from_file_location("glove_gensim_of_docs", ROOT / "glove-gensim.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module.Config
    return load_script(copied.get(script, script)).Config


NEW_SCRIPT = re.search(r"Save this as `(\w+)\.py`", text_of(NEW_MODEL))[1]


def parse_popcorn(arguments: list[str], monkeypatch) -> None:
    """Parses by the real command line, and runs nothing."""
    real, parsed = tyro.cli, []

    def cli(*positional, **named):
        parsed.append(real(*positional, **named))
        return SimpleNamespace(run=lambda: None)

    monkeypatch.setattr(sys, "argv", ["popcorn", *arguments])
    monkeypatch.setattr(commands_module.tyro, "cli", cli)
    commands_module.main()
    assert parsed


def parse_kaggle(arguments: list[str], monkeypatch) -> None:
    """Parses by Kaggle's own command line; ids and folders are those that `python -m popcorn kernel` writes."""
    monkeypatch.setenv("KAGGLE_USERNAME", "YOU")
    monkeypatch.setenv("KAGGLE_KEY", "0" * 32)
    from kaggle import cli

    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for parse in (cli.parse_kernels, cli.parse_competitions, cli.parse_datasets, cli.parse_models, cli.parse_quota):
        parse(subparsers)
    given = parser.parse_args(arguments)
    if arguments[:2] == ["kernels", "push"]:
        assert Path(given.folder).parts[0] == "kernels" and Path(given.folder).name in [*model_scripts(), "table"]
    elif (id := getattr(given, "kernel", None)) and "popcorn-" in id:
        assert id.removeprefix("YOU/popcorn-").replace("-", "_") in [*model_scripts(), "table"]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_parsed_whole(command, monkeypatch):
    first, *rest = shlex.split(command)
    if first == "torchrun":
        assert rest[:2] == ["--nproc_per_node", "2"]
        first, rest = "python", rest[2:]
    if first in ("python", "python3") and rest[:2] == ["-m", "popcorn"]:
        parse_popcorn(rest[2:], monkeypatch)
    elif first in ("python", "python3") and rest[0] == "-m" and rest[1].startswith("benchmarks."):
        tyro.cli(importlib.import_module(rest[1]).Config, args=rest[2:])
    elif first == "python" and rest[0].endswith(".py"):
        if "--help" not in rest:
            tyro.cli(config_of(rest[0].removesuffix(".py")), args=rest[1:])
    elif first == "make":
        assert re.search(rf"^{rest[0]}:", text_of(ROOT / "Makefile"), re.MULTILINE)
    elif first == "kaggle":
        parse_kaggle(rest, monkeypatch)
    elif first == "cp" and rest[0].endswith(".py"):
        assert (ROOT / rest[0]).is_file()
    elif first == "pip":
        assert rest[:2] == ["install", "-r"] and (ROOT / rest[2]).is_file()
    else:
        assert command in ("python3 -m venv .venv", ". .venv/bin/activate", "cp output/results/*.json results/")


ELSEWHERE = re.compile(r"^(make|pip|kaggle|\.|cp output/.*) |venv|--download|--serve|-m benchmarks|popcorn publish")
"""needs another machine, the network or hours, or does not end; a benchmark has tests of its own, as has publish, which needs the
recorded runs"""


def execute(command: str, folder: Path, monkeypatch, *more: object) -> None:
    """Runs a command in this process, in the folder, as it stands; `more` options make it small."""
    first, *rest = shlex.split(command)
    if first == "cp":
        shutil.copy(ROOT / rest[0], folder / rest[1])
        return
    rest = rest[2:] if first == "torchrun" else rest
    monkeypatch.chdir(folder)
    try:
        if rest[:2] == ["-m", "popcorn"]:
            arguments = [path for word in rest[2:] for path in (sorted(glob.glob(word)) if "*" in word else [word])]
            monkeypatch.setattr(sys, "argv", [commands_module.__file__, *arguments])
            commands_module.main()
        else:
            script = folder / rest[0] if (folder / rest[0]).is_file() else ROOT / rest[0]
            monkeypatch.setattr(sys, "argv", [str(script), *rest[1:], *map(str, more)])
            monkeypatch.setattr(sys, "excepthook", sys.excepthook)
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as exit:
        assert not exit.code, f"{command}: {exit.code}"


def small_options(command: str, tiny: Path, glove: Path) -> list[object]:
    """Options that make a script's run take seconds, where the command does not set them itself."""
    script = re.search(r"([\w-]+)\.py", command)
    if not script or "-m popcorn" in command or "--help" in command or script[1] == "glove-gensim":
        return []
    config = config_of(script[1])
    options: dict[str, object] = {}
    if issubclass(config, TrainingConfig):
        options = dict(zip(SMALL[2:8:2], SMALL[3:9:2], strict=True)) | {"--epochs": 1}
    if issubclass(config, PretrainedConfig | ZeroShotConfig):
        is_decoder = config.MODEL_TYPE == DECODERS
        model, length = (tiny / DECODERS[0], 64) if is_decoder else (tiny / config.MODEL_TYPE, 16)
        options |= {"--model": model, "--max-length": length, "--batch-size": 64}
        options |= {"--shot-length": 8} if "--shots" in command else {}
        options |= {} if "--adapter" in command else {"--name": script[1]}  # the model's folder would be a part of it
    if issubclass(config, FineTuneConfig):
        options |= {"--pretrain-epochs": 1}
    if "hidden" in vars(config()) and not issubclass(config, PretrainedConfig):
        options |= {"--hidden": 4, "--word-vectors": glove}
    if "--precision" in command:
        options["--precision"] = "fp32"
    replaced = "--model", "--precision"  # a CPU does not compute in fp16
    return [word for name, value in options.items() if name not in command or name in replaced for word in (name, value)]


def write_published_rows(folder: Path, competition: Path) -> None:
    """Published files of every recorded row, of chance, over the small competition's reviews."""
    data, generator = find_competition(competition), np.random.default_rng(0)
    train, test = data.read(TRAIN), data.read(TEST)
    folds = validation_folds(train.ids, train.labels, "movie", 5)
    fold = np.argmax([np.isin(np.arange(len(train.ids)), rows_of_fold) for rows_of_fold in folds], axis=0) + 1
    for row in rows(ROOT / "results"):
        files = published_files(folder, row.name)
        write_published(files.test, pd.DataFrame({"sentiment": generator.uniform(size=len(test.ids))}, index=bare(test.ids)))
        if row.name.endswith("-folds"):
            table = {"fold": fold, "sentiment": generator.uniform(size=len(fold))}
            write_published(files.out_of_fold, pd.DataFrame(table, index=bare(train.ids)))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != NEW_MODEL], ids=lambda page: page.stem)
def test_a_pages_commands_run_in_their_order(page, competition, glove, tmp_path, monkeypatch):
    """All that needs no other machine, in one folder, as a reader would; the models are tiny."""
    for name in pretrained.FAMILIES:
        pretrained.write(tmp_path / "tiny" / name, name)
    test_decoders.write(tmp_path / "tiny" / DECODERS[0], DECODERS[0])
    for name in ("glove.6B.300d", "glove.840B.300d"):
        shutil.copy(glove, tmp_path / f"{name}.txt")
        zipped(tmp_path / f"{name}.txt").rename(tmp_path / f"{name}.zip")
    (tmp_path / "reviews.csv").write_text("review\n" + "\n".join(text for _, _, text in reviews(6, 9)) + "\n")
    shutil.copytree(competition, tmp_path / "data")
    shutil.copytree(ROOT / "results", tmp_path / "results")
    write_published_rows(tmp_path / "submissions", competition)
    for command in commands(page):
        if not ELSEWHERE.search(command):
            execute(command, tmp_path, monkeypatch, *small_options(command, tmp_path / "tiny", glove))


def test_a_model_is_added_as_its_page_says(competition, tmp_path, monkeypatch, capsys):
    """One new file, in a folder with nothing else of this repository but the package."""
    (tmp_path / f"{NEW_SCRIPT}.py").write_text(blocks(NEW_MODEL, "python")[0])
    (tmp_path / "popcorn").symlink_to(ROOT / "popcorn")
    shutil.copytree(competition, tmp_path / "data")
    page = tmp_path / "README.md"
    page.write_text(f"{begin('scripts')}\n{END}\n")
    for module in (scripts, kernel, script_table):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for command in commands(NEW_MODEL):
        if not ELSEWHERE.search(command):
            execute(command, tmp_path, monkeypatch)
    sys.modules.pop(NEW_SCRIPT)
    assert re.search(
        rf"\| \[{NEW_SCRIPT}\]\({NEW_SCRIPT}\.py\) \| Deep averaging network .*\(Iyyer et al\. 2015\) \| \d", text_of(page)
    )
    made = tmp_path / "kernels" / NEW_SCRIPT / f"{NEW_SCRIPT}.py"
    assert blocks(NEW_MODEL, "python")[0] in made.read_text()
    assert (tmp_path / "submissions" / f"{NEW_SCRIPT}.proba.csv").is_file()
    assert "probability of positive" in capsys.readouterr().out
