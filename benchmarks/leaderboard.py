"""All scripts that need no GPU, on the whole data, one after another: what the README's table is made from.

Runs that are recorded already are left out, and one that was stopped goes on where it was; so the same command is given until
nothing is left to do. The first seed is validated; the others are trained at once by what it has chosen.
"""

import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose peft.py would be taken for the library

from popcorn.config import parse

LINEAR = "tfidf", "nbsvm"
NEURAL = "cnn", "gru", "lstm", "attention_lstm", "cnn_lstm", "capsule_lstm", "transformer"


@dataclass
class Config:
    """What to run."""

    scripts: tuple[str, ...] = LINEAR + NEURAL
    """names of scripts"""
    seeds: int = 3
    """runs of each neural model; the linear ones have no chance in them"""
    data_dir: Path | None = None
    """folder with the competition's files"""
    output_dir: Path = Path(".")
    """folder that receives submissions/, runs/ and results/"""


if __name__ == "__main__":
    config = parse(Config)

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from popcorn.results import is_recorded


def command_of(script: str, seed: int, config: Config) -> list[str]:
    """What a user would type."""
    given = [str(ROOT / f"{script}.py"), "--record", "--output-dir", str(config.output_dir), "--seed", str(seed)]
    given += ["--data-dir", str(config.data_dir)] if config.data_dir else []
    if script not in LINEAR:
        given += ["--resume"] + (["--final"] if seed > 1 else [])
    return given


def main(config: Config) -> int:
    """Runs what is left; the number of runs that failed."""
    jobs = [(script, seed) for script in config.scripts for seed in range(1, 1 + (1 if script in LINEAR else config.seeds))]
    logs, failed = config.output_dir / "runs" / "logs", 0
    logs.mkdir(parents=True, exist_ok=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(width=None if Console().is_terminal else 100)) as progress:
        task = progress.add_task("", total=len(jobs))
        for script, seed in jobs:
            progress.update(task, description=f"{script}, seed {seed}")
            its = import_module(script).Config(name=script, seed=seed, output_dir=config.output_dir)
            if not is_recorded(its):
                log = logs / f"{script}-{seed}.log"
                with log.open("w") as file:
                    done = subprocess.run(
                        [sys.executable, *command_of(script, seed, config)], stdout=file, stderr=subprocess.STDOUT
                    )
                if done.returncode:
                    failed += 1
                    progress.console.print(f"{script}, seed {seed}: ended with {done.returncode}, see {log}")
            progress.advance(task)
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(config) else 0)
