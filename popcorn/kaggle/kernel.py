"""Exports a script as one file for Kaggle, including its modules and metadata.

The sources are in the file as unchanged texts. At its start, the file writes them into a temporary folder and imports them from
there. The model's own script follows as it is. `kaggle kernels push` uploads the file.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import tyro

from popcorn.config import NBSVM, TEACHER_FILES, TrainingConfig
from popcorn.errors import UserError, log
from popcorn.utils.files import atomic_write, write_json
from popcorn.utils.packages import needs
from popcorn.utils.scripts import ROOT, load_script

COMPETITION = "word2vec-nlp-tutorial"
KAGGLE_REQUIREMENTS = ROOT / "requirements-kaggle.txt"
MODEL = re.compile(r"^[\w-]+/[\w.-]+/\w+/[\w.-]+/\d+$")
HEADER = '''"""{title}

Made by `python -m popcorn kernel {name}` for Kaggle. The modules that the script imports come first, as text. The script with its
model and recipe follows below, under MODEL. Add the competition "{competition}" to the notebook and run it. At the end it
prints the two files to submit in submissions/: labels (score: accuracy) and .proba.csv (score: ROC AUC).
"""

# as on the command line, for example ["--epochs", "2"]; --pseudo-labels nbsvm needs another file: pass it to `popcorn kernel`
OPTIONS = {options!r}
'''
START = """import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

missing = [line for line in NEEDED if importlib.util.find_spec(line.split("=")[0].split(">")[0]) is None]
if missing:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=True)
folder = Path(tempfile.mkdtemp())
for name, source in FILES.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(source, encoding="utf-8")
sys.path.insert(0, str(folder))
sys.argv = [SCRIPT, *OPTIONS]
"""


def local_imports(script: Path, with_teacher: bool) -> list[Path]:
    """The repository's files that a script imports, directly or indirectly, without the script itself."""
    teachers = [ROOT / f"{NBSVM}.py"] if with_teacher else []
    found: dict[Path, None] = dict.fromkeys([ROOT / "popcorn" / "__init__.py", *teachers])
    waiting = [script, *teachers]
    while waiting:
        for path in imported(waiting.pop()):
            if path not in found and path.parent != ROOT:
                found |= dict.fromkeys([path, path.parent / "__init__.py"])
                waiting.append(path)
    return sorted(found)


def imported(path: Path) -> Iterator[Path]:
    """The repository's files that one file imports."""
    for name in imports(path):
        file = ROOT.joinpath(*name.split(".")).with_suffix(".py")
        if file.is_file():
            yield file


def imports(path: Path) -> Iterator[str]:
    """All names in a file's import statements; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(paths: list[Path]) -> list[str]:
    """Lines of requirements-kaggle.txt for the packages that the files import.

    bitsandbytes is found by `is_bitsandbytes_available`.
    """
    names = {name for path in paths for name in imports(path)}
    lines = [line.strip() for line in KAGGLE_REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if (package := re.match(r"\w+", line)) and any(package[0] in name for name in names)]


def quoted(source: str) -> str:
    """A source as a readable string literal with the same value."""
    return repr(source) if "'" * 3 in source or source.endswith("\\") else "r" + "'" * 3 + source + "'" * 3


def parts(name: str, options: list[str], with_teacher: bool = False) -> list[str]:
    """The blocks of the file: header with options, modules, start, script."""
    script = ROOT / f"{name}.py"
    source = script.read_text(encoding="utf-8")
    title = (ast.get_docstring(ast.parse(source)) or name).splitlines()[0]
    header = HEADER.format(title=title, name=name, competition=COMPETITION, options=options)
    files = local_imports(script, with_teacher)
    plumbing = [f"SCRIPT = {script.name!r}", f"NEEDED = {packages([script, *files])!r}", "FILES = {}"]
    plumbing += [f"FILES[{str(path.relative_to(ROOT))!r}] = {quoted(path.read_text(encoding='utf-8'))}" for path in files]
    return [header, "\n".join(plumbing) + "\n", START, f"# MODEL: {script.name}, as it is in the repository\n\n{source}"]


def write_kernel(name: str, output: Path, user: str, options: str, attach: str | None, as_notebook: bool) -> None:
    """Writes `<output>/<name>/`: the script or notebook, and kernel-metadata.json."""
    if not name.isidentifier() or not (ROOT / f"{name}.py").is_file():
        raise UserError(f"there is no script {name}.py: name one, such as lstm")
    try:
        given = shlex.split(options)
    except ValueError as problem:
        raise UserError(f"--options {options!r} cannot be read ({problem}): close every quotation") from problem
    if attach is not None:
        if not MODEL.match(attach):
            raise UserError(f"--attach is {attach!r}: give owner/model/framework/variation/version, as Kaggle shows it")
        _, model, framework, variation, version = attach.split("/")
        given += ["--model", f"/kaggle/input/{model.lower()}/{framework.lower()}/{variation}/{version}"]
        # a mistyped option fails here already, not on Kaggle after the queue
    config = tyro.cli(load_script(name).Config, prog=f"{name}.py", args=given)
    teacher = getattr(config, "pseudo_labels", None)
    if teacher not in (None, NBSVM) and not teacher.lower().endswith(TEACHER_FILES):
        raise UserError(
            f"--pseudo-labels {teacher} is a run, which Kaggle does not have: attach the file that python -m popcorn predict "
            "--unlabeled makes, and give its path there"
        )
    blocks = parts(name, given, with_teacher=teacher == NBSVM)
    slug = f"popcorn-{name.replace('_', '-')}"
    file = output / name / f"{name}.{'ipynb' if as_notebook else 'py'}"
    content = notebook(blocks) if as_notebook else "\n".join(blocks)
    with atomic_write(file, "w", option="--output") as target:
        target.write(content)
    write_json(file.parent / "kernel-metadata.json", {
        "id": f"{user}/{slug}", "title": slug.replace("-", " "), "code_file": file.name, "language": "python",
        "kernel_type": "notebook" if as_notebook else "script", "is_private": "true",
        "enable_gpu": str(isinstance(config, TrainingConfig)).lower(), "enable_tpu": "false", "enable_internet": "true",
        "dataset_sources": [], "competition_sources": [COMPETITION], "kernel_sources": [],
        "model_sources": [attach] if attach else [],
    }, option="--output")  # fmt: skip
    log(f"{file.parent}: push it with  kaggle kernels push -p {file.parent}")


def notebook(blocks: list[str]) -> str:
    """The blocks as cells of a notebook, with the header's text as Markdown."""
    with needs("nbformat", "--notebook"):
        import nbformat

    header = ast.get_docstring(ast.parse(blocks[0]))
    first = blocks[0].rsplit('"""\n', 1)[1].strip()
    cells = [nbformat.v4.new_markdown_cell(f"# {header}"), nbformat.v4.new_code_cell(first)]
    cells += [nbformat.v4.new_code_cell(block.strip()) for block in blocks[1:]]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # not random, so the same script gives the same file
    content = nbformat.v4.new_notebook(cells=cells)
    content.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.validate(content)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
