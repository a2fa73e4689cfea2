"""Runs a kernel's scripts one after another, each in one process per GPU.

A script that the time of the session ends is continued in the next session: its kernel has this one's output as input.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from popcorn.errors import UserError, exit_on_user_error, log
from popcorn.utils import kaggle
from popcorn.utils.files import write_json

LOG, FINISHED = "log.txt", "finished.json"
"""what the scripts printed, and the commands that are finished"""
OUTPUT = "runs", "results", "submissions", LOG, FINISHED
"""what the next session continues from"""
PROCESSES = "POPCORN_PROCESSES"
"""variable with the number of processes, instead of the number of GPUs"""
SHORTEST = 10 * 60
"""seconds that must be left to start another script"""
ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "10"}
"""so that a log has each line at once, and few of the progress bars"""


def launch(folder: Path, commands: list[str], on_gpus: list[str], previous: str | None = None) -> None:
    """Runs the commands, such as `lstm.py --epochs 2`, of scripts in `folder`.

    `on_gpus`: scripts that train on GPUs. `previous`: id of the kernel whose output is continued. A command that failed does not
    stop the others. If all fail, the exit code is that of the first.
    """
    with exit_on_user_error():
        if previous:
            copy_output(previous)
        end = kaggle.session_end()
        if end is not None:
            os.environ[kaggle.SESSION_END] = str(end)
        finished, codes = read_finished() if previous else [], []
        for command in commands:
            without_resume = command.replace(" --resume", "")
            if without_resume in finished:
                log(f"Finished in an earlier session: {without_resume}")
                continue
            if codes and end is not None and time.time() > end - SHORTEST:
                break
            log(f"$ {command}")
            before = saved_results()
            script, *options = shlex.split(command)
            codes.append(run(folder, script, options, num_processes() if script in on_gpus else 1))
            if codes[-1]:
                log(f"Failed with code {codes[-1]}: {command}")
            elif saved_results() != before:  # which only a finished run saves
                finished.append(without_resume)
                write_json(Path(FINISHED), {"commands": finished})
        if len(commands) > 1:
            log(f"Finished: {len(finished)} of {len(commands)}; a kernel made with --continue runs the rest")
        # a failed version's output may be lost, and an unfinished training goes on with it
        if codes and all(codes) and not (end is not None and time.time() > end - SHORTEST):
            sys.exit(codes[0])


def run(folder: Path, script: str, options: list[str], processes: int) -> int:
    """Runs a script in processes of its own; returns its exit code. Output also goes to `LOG`."""
    several = ["-m", "popcorn.kaggle.processes", str(processes)] if processes > 1 else []
    search_path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    with (
        open(LOG, "a", encoding="utf-8") as copy,
        subprocess.Popen(
            [sys.executable, *several, str(folder / script), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace", env=os.environ | ENVIRONMENT | {"PYTHONPATH": search_path},
        ) as process,
    ):  # fmt: skip
        try:
            for line in process.stdout:
                log(line.rstrip("\n"))
                copy.write(line)
        except BaseException:  # such as an interrupted cell
            process.terminate()
            raise
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def num_processes() -> int:
    """Number of visible GPUs, at least 1."""
    if PROCESSES in os.environ:
        return int(os.environ[PROCESSES])
    import torch  # a kernel of linear models does not need it

    return max(1, torch.cuda.device_count())


def copy_output(kernel: str) -> None:
    """Copies the output of the kernel's last version to this session, unless it is here already.

    Raises `UserError` where it is not attached, since the training would silently start again.
    """
    if Path("runs").is_dir():
        return
    source = kaggle.notebook_output(*kernel.split("/"))
    if source is None or not (source / "runs").is_dir():
        raise UserError(
            f"there is no output of {kernel} with a folder runs/ in {kaggle.INPUT}: wait until its last version has ended, and "
            "push this one again"
        )
    log(f"Continuing from {source}")
    for name in OUTPUT:
        for path in [source / name, *(source / name).rglob("*")]:
            if path.is_file():
                target = path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)  # without the permissions: the input is read-only


def read_finished() -> list[str]:
    """The commands that are finished."""
    if not Path(FINISHED).is_file():
        return []
    try:
        return list(json.loads(Path(FINISHED).read_text(encoding="utf-8"))["commands"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(f"{FINISHED} is damaged ({problem}): remove it, and every script runs again") from problem


def saved_results() -> dict[Path, int]:
    """The saved results, with the time of their last change."""
    return {path: path.stat().st_mtime_ns for path in Path("results").glob("*.json")}
