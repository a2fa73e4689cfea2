"""Exports scripts as one file for Kaggle, including their modules and metadata.

The sources are in the file as unchanged texts. The file writes them into a temporary folder and runs the scripts there, in
processes of their own (popcorn/kaggle/launch.py). `kaggle kernels push` uploads the file.
"""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from popcorn.config import NBSVM, TEACHER_FILES, RunConfig, TrainingConfig, ZeroShotConfig, is_kaggle_handle
from popcorn.data.competition import SLUG
from popcorn.errors import UserError, log
from popcorn.utils.files import atomic_write, write_json
from popcorn.utils.packages import needs
from popcorn.utils.scripts import ROOT, load_script

ON_GPU = TrainingConfig, ZeroShotConfig
"""options of the scripts that use a GPU"""
KAGGLE_REQUIREMENTS = ROOT / "requirements-kaggle.txt"
LAUNCHER = "__init__.py", "launch.py", "processes.py"
"""files of popcorn/kaggle that start the scripts on Kaggle"""
TABLE = "table"
"""name of the kernel that runs several scripts"""
T4_X2 = "NvidiaTeslaT4"
"""Kaggle's name of two T4 GPUs, the default of models that train on a GPU"""
NO_USER = "INSERT_KAGGLE_USERNAME_HERE"
METADATA = "kernel-metadata.json"
HEADER = '''"""{title}

Made by `python -m popcorn kernel {name}` for Kaggle. The modules that the scripts import come first, as text. The scripts with
model and recipe follow below, under MODEL. Add the competition "{competition}" to the notebook and run it. At the end it
prints the two files to submit in submissions/: labels (score: accuracy) and .proba.csv (score: ROC AUC).
"""

# one command a line, as on the command line; but --pseudo-labels nbsvm needs another file: pass it to `popcorn kernel`
COMMANDS = [
{commands}
]
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
"""
END = """from popcorn.kaggle.launch import launch

launch(folder, COMMANDS, ON_GPUS, PREVIOUS)
"""


@dataclass(frozen=True)
class Command:
    """A script with its options."""

    script: str
    options: list[str]
    config: RunConfig

    @property
    def path(self) -> Path:
        """The script's file."""
        return ROOT / f"{self.script}.py"

    def __str__(self) -> str:
        return shlex.join([self.path.name, *self.options])


def read_commands(lines: list[str], options: str) -> list[Command]:
    """The commands of lines such as `lstm --epochs 2`, with the `options` of all.

    Raises `UserError` for an unknown script; a mistyped option ends the program here already, not on Kaggle after the queue.
    """
    commands = []
    for line in lines:
        try:
            name, *given = shlex.split(line) + shlex.split(options)
        except ValueError as problem:
            raise UserError(f"{line} {options} cannot be read ({problem}): name a script, and close every quotation") from problem
        name = name.removesuffix(".py")
        if not name.isidentifier() or not (ROOT / f"{name}.py").is_file():
            raise UserError(f"there is no script {name}.py: name one, such as lstm")
        config = tyro.cli(load_script(name).Config, prog=f"{name}.py", args=given)
        teacher = getattr(config, "pseudo_labels", None)
        if teacher not in (None, NBSVM) and not teacher.lower().endswith(TEACHER_FILES):
            raise UserError(
                f"--pseudo-labels {teacher} is a run, which Kaggle does not have: upload the file that python -m popcorn "
                f"predict --unlabeled makes as a data set, name it in dataset_sources of {METADATA}, and give the file's path "
                "there, such as /kaggle/input/datasets/OWNER/SLUG/FILE.csv"
            )
        commands.append(Command(name, given, config))
    return commands


def local_imports(scripts: list[Path], with_teacher: bool) -> list[Path]:
    """The repository's files that the scripts and the launcher import, directly or indirectly, without the scripts."""
    teachers = [ROOT / f"{NBSVM}.py"] if with_teacher else []
    launcher = [ROOT / "popcorn" / "kaggle" / name for name in LAUNCHER]
    found: dict[Path, None] = dict.fromkeys([ROOT / "popcorn" / "__init__.py", *launcher, *teachers])
    waiting = [*scripts, *launcher, *teachers]
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


def blocks_of(name: str, commands: list[Command], previous: str | None, as_notebook: bool) -> list[str]:
    """The blocks of the file: header with commands, modules, start, scripts, and the call that runs them."""
    scripts = list(dict.fromkeys(command.path for command in commands))
    title = (ast.get_docstring(ast.parse(scripts[0].read_text(encoding="utf-8"))) or name).splitlines()[0]
    lines = "\n".join(f"    {str(command)!r}," for command in commands)
    header = HEADER.format(
        title=title if name != TABLE else "Several models, one after another", name=name, competition=SLUG, commands=lines
    )
    files = local_imports(scripts, any(getattr(command.config, "pseudo_labels", None) == NBSVM for command in commands))
    on_gpus = list(dict.fromkeys(command.path.name for command in commands if isinstance(command.config, ON_GPU)))
    plumbing = [f"NEEDED = {packages([*scripts, *files])!r}", f"ON_GPUS = {on_gpus!r}", f"PREVIOUS = {previous!r}", "FILES = {}"]
    plumbing += [f"FILES[{str(path.relative_to(ROOT))!r}] = {quoted(path.read_text(encoding='utf-8'))}" for path in files]
    return [header, "\n".join(plumbing) + "\n", START, *(model_block(path, as_notebook) for path in scripts), END]


def model_block(script: Path, as_notebook: bool) -> str:
    """Writes the script's unchanged text into the temporary folder."""
    source = script.read_text(encoding="utf-8")
    if as_notebook:
        return f"%%writefile {{folder}}/{script.name}\n{source}"
    write = f"(folder / {script.name!r}).write_text({quoted(source)}, encoding='utf-8')"
    return f"# MODEL: {script.name}, as it is in the repository\n{write}\n"


def write_kernel(
    name: str, output: Path, user: str | None, options: str = "", *, scripts: str | None = None, accelerator: str | None = None,
    docker_image: str | None = None, continues: bool = False, as_notebook: bool = False,
) -> None:  # fmt: skip
    """Writes `<output>/<name>/`: the script or notebook, and kernel-metadata.json.

    `user`: the owner's name on Kaggle; None leaves its place open. `scripts`: for the name "table", the scripts with their own
    options, separated by commas. `continues`: whether the kernel continues its own last version. The data sets of an earlier
    kernel-metadata.json stay. Raises `UserError` for options that do not go together.
    """
    in_table = [line for line in (scripts or "").split(",") if line.strip()]
    if (name == TABLE) != bool(in_table):
        raise UserError(
            f"--scripts and the kernel {TABLE} need each other: kernel {TABLE} --scripts bert_trainer,roberta_trainer"
        )
    if continues and user is None:
        raise UserError("--continue attaches your own kernel's output: give your Kaggle user name with --user")
    commands = read_commands([f"{line} --save-results" for line in in_table] or [name], options)
    id = f"{user or NO_USER}/popcorn-{name.replace('_', '-')}"
    for command in commands:
        if continues and hasattr(command.config, "resume") and not command.config.resume:
            command.options.append("--resume")
    blocks = blocks_of(name, commands, id if continues else None, as_notebook)
    folder = output / name
    metadata = metadata_of(id, commands, accelerator, docker_image) | {
        "dataset_sources": attached_datasets(folder / METADATA),
        "code_file": f"{name}.{'ipynb' if as_notebook else 'py'}", "kernel_type": "notebook" if as_notebook else "script",
        "kernel_sources": [id] if continues else [],
    }  # fmt: skip
    with atomic_write(folder / metadata["code_file"], "w", option="--output") as target:
        target.write(notebook(blocks) if as_notebook else "\n".join(blocks))
    write_json(folder / METADATA, metadata, option="--output")
    log(f"{folder}: push it with  kaggle kernels push -p {folder}")


def attached_datasets(path: Path) -> list[str]:
    """The data sets that a user named in an earlier kernel-metadata.json; raises `UserError` where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["dataset_sources"] if path.is_file() else []
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{path} cannot be read ({problem!r}): correct it, or remove it") from problem


def metadata_of(id: str, commands: list[Command], accelerator: str | None, docker_image: str | None) -> dict:
    """What the kernel needs of Kaggle: the part of kernel-metadata.json that does not depend on the file.

    Raises `UserError` for a model of Kaggle without a version, and for an accelerator of linear models.
    """
    uses_gpu = any(isinstance(command.config, ON_GPU) for command in commands)
    if accelerator and not uses_gpu:
        raise UserError(f"{commands[0].script} needs no GPU: leave --accelerator out")
    models = dict.fromkeys(getattr(command.config, "model", "") for command in commands)
    handles = [model for model in models if is_kaggle_handle(model)]
    for handle in handles:
        if handle.count("/") < 4:
            raise UserError(f"--model is {handle}: to attach it to a kernel, add its version, such as {handle}/1")
    return {
        "id": id, "title": id.partition("/")[2].replace("-", " "), "language": "python", "is_private": "true",
        "enable_gpu": str(uses_gpu).lower(), "enable_tpu": "false", "enable_internet": "true",
        "competition_sources": [SLUG], "model_sources": handles,
        **({"machine_shape": accelerator or T4_X2} if uses_gpu else {}),
        **({"docker_image": docker_image} if docker_image else {}),
    }  # fmt: skip


def notebook(blocks: list[str]) -> str:
    """The blocks as cells of a notebook, with the header's text as Markdown."""
    with needs("nbformat", "--notebook"):
        import nbformat

    header = ast.get_docstring(ast.parse(blocks[0]))
    first = blocks[0].rsplit('"""\n', 1)[1].strip()
    cells = [nbformat.v4.new_markdown_cell(f"# {header}"), nbformat.v4.new_code_cell(first)]
    # a cell that writes a file keeps its last line break
    cells += [nbformat.v4.new_code_cell(block if block.startswith("%%") else block.strip()) for block in blocks[1:]]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # not random, so the same script gives the same file
    content = nbformat.v4.new_notebook(cells=cells)
    content.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.validate(content)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
