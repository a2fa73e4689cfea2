"""All scripts that need no GPU, on the whole data: the source of the README's table.

A run that is recorded, and whose folder is here, is left out, and one that was stopped goes on where it was; so the same command
is given until nothing is left to do. The first seed is validated; the others are trained at once, unvalidated. Table, plot and
report are brought up to date at the end, whether all went well or not.
"""

import functools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from popcorn.config import RunConfig, parse
from popcorn.data import competition as competition_data
from popcorn.data.splits import split_checksum, validation_splits
from popcorn.errors import UserError, exit_on_user_error
from popcorn.reporting import leaderboard, report
from popcorn.runs.results import is_recorded
from popcorn.runs.run_dir import PREDICTIONS, differing_settings, folder_of
from popcorn.utils.console import make_console
from popcorn.utils.scripts import ROOT, load_script

LINEAR = "tfidf", "nbsvm"
NEURAL = "paragraph_vectors", "dv_cosine", "cnn", "gru", "lstm", "attention_lstm", "cnn_lstm", "capsule_lstm", "transformer"


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
    """folder that receives submissions/, runs/, results/ and report/"""
    pages: tuple[Path, ...] = ()
    """files with markers around their tables; default: README*.md and docs/ in the current folder"""


def is_begun(its: RunConfig, competition: competition_data.Competition) -> bool:
    """Whether the run's folder, where there is one, is of the same options, data and validation split."""
    train = read_train(competition)
    held_out = [split.held_out for split in validation_splits(its, train.ids, train.labels)]
    return not differing_settings(its, data=competition.checksum, split=split_checksum(train.ids, held_out))


@functools.cache
def read_train(competition: competition_data.Competition) -> competition_data.Reviews:
    """The training file, read once for all runs."""
    return competition.read(competition_data.TRAIN)


def command_of(its: RunConfig, script: str, config: Config, competition: competition_data.Competition) -> list[str]:
    """The command as a user would type it; an older run with other options is renamed."""
    given = [str(ROOT / f"{script}.py"), "--save-results", "--output-dir", str(config.output_dir), "--seed", str(its.seed)]
    given += ["--data-dir", str(config.data_dir)] if config.data_dir else []
    given += ["--no-validation"] if its.no_validation else []
    return given + (["--resume"] if hasattr(its, "resume") and is_begun(its, competition) else [])


def is_done(its: RunConfig, competition: competition_data.Competition) -> bool:
    """Whether the run is recorded and its models are here; a fresh clone has none."""
    return is_recorded(its, competition) and (folder_of(its) / "refit" / PREDICTIONS).is_file() and is_begun(its, competition)


def main(config: Config) -> int:
    """Runs what is left, and returns the number of failed runs.

    Raises `UserError` where the competition's files are not here."""
    competition = competition_data.find_competition(config.data_dir)
    if competition.source == competition_data.FALLBACK:
        raise UserError(
            "the leaderboard is of the competition's data, which is not here: put its files into data/, or --data-dir"
        )
    if unknown := set(config.scripts) - {*LINEAR, *NEURAL}:
        raise UserError(f"--scripts has {', '.join(sorted(unknown))}: name some of {', '.join(LINEAR + NEURAL)}")
    jobs = [(script, seed) for script in config.scripts for seed in range(1, 1 + (1 if script in LINEAR else config.seeds))]
    logs, failed = config.output_dir / "runs" / "logs", 0
    logs.mkdir(parents=True, exist_ok=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=make_console(100)) as progress:
        task = progress.add_task("", total=len(jobs))
        for script, seed in jobs:
            progress.update(task, description=f"{script}, seed {seed}")
            its = load_script(script).Config(
                name=script, seed=seed, output_dir=config.output_dir, no_validation=script not in LINEAR and seed > 1
            )
            if not is_done(its, competition):
                log = logs / f"{script}-{seed}.log"
                with log.open("w") as file:
                    done = subprocess.run(
                        [sys.executable, *command_of(its, script, config, competition)], stdout=file, stderr=subprocess.STDOUT
                    )
                if done.returncode:
                    failed += 1
                    progress.console.print(f"{script}, seed {seed}: ended with {done.returncode}, see {log}")
            progress.advance(task)
    leaderboard.update(config.output_dir / "results", config.pages)
    report.write(config.output_dir, config.output_dir / "results", config.data_dir)
    return failed


if __name__ == "__main__":
    config = parse(Config)
    with exit_on_user_error():
        sys.exit(1 if main(config) else 0)
