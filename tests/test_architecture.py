"""Which module imports which, and how far the training step is from the script's line that starts it."""

import ast
import shutil
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path

import pytest
from accelerate import Accelerator
from conftest import ROOT

import lstm
from popcorn.runs.run import run
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask

PACKAGE = sorted((ROOT / "popcorn").rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    """Checks the contracts in the folder's pyproject.toml."""
    return subprocess.run([sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True)


def test_imports_point_one_way():
    done = lint_imports(ROOT)
    assert done.returncode == 0 and "1 kept, 0 broken" in done.stdout, done.stdout + done.stderr


def test_an_import_that_points_the_other_way_is_found(tmp_path):
    shutil.copytree(ROOT / "popcorn", tmp_path / "popcorn", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "popcorn" / "data" / "splits.py").open("a") as file:
        file.write("\nimport popcorn.runs.run\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1 and "popcorn.data.splits -> popcorn.runs.run" in done.stdout, done.stdout + done.stderr


def imported_names(node: ast.AST) -> list[str]:
    """The modules that a statement imports, or a call of `import_module` by a literal name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        return [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    return []


@pytest.mark.parametrize("path", [*PACKAGE, *SCRIPTS, *BENCHMARKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_changes_the_search_path_or_imports_a_script(path):
    """`load_script` alone finds the scripts, wherever a command is started; in a kernel there are no other scripts."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    assert not [node.lineno for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"]
    names = {name.split(".")[0] for node in nodes for name in imported_names(node)}
    assert not names & {script.stem for script in SCRIPTS}


class FirstBackward(Exception):
    """Ends the training where it begins."""


def test_few_frames_lead_from_the_script_to_the_first_backward_pass(competition, glove, tmp_path, monkeypatch):
    """Each is a call that a reader must follow."""
    frames = []

    def backward(self, loss):
        frames.extend(traceback.extract_stack())
        raise FirstBackward

    monkeypatch.setattr(Accelerator, "backward", backward)
    config = lstm.Config(data_dir=competition, word_vectors=glove, output_dir=tmp_path, name="lstm", hidden=4)
    with pytest.raises(FirstBackward):
        run(WordModelTask(lstm.LSTM, config), PyTorchTrainer(train))
    ours = [frame for frame in frames if Path(frame.filename) in (*PACKAGE, *SCRIPTS)]
    assert 2 <= len(ours) <= 6, [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in ours]
    assert ours[0].name == "run" and ours[-1].name == "backward"


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmarks_can_be_imported(path):
    """They run for hours and seldom: a name that they lack must not be found then."""
    assert import_module(f"benchmarks.{path.stem}").__doc__
