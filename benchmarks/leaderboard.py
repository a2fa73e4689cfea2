"""All rows that need no GPU, on the full data: the source of the README's table.

Recorded rows with saved models are left out, and stopped runs resume. So the same command is given until nothing is left to do.
The first seed is validated; the others are trained on all reviews, without validation. At the end the ensembles are blended,
tables and report are written, and the probabilities are published, even if a run failed.
"""

import functools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.layouts import minilm
from popcorn.config import Count, RunConfig, parse
from popcorn.data import competition as competition_data
from popcorn.data.splits import split_checksum, validation_splits
from popcorn.errors import UserError, exit_on_user_error
from popcorn.reporting import leaderboard, report
from popcorn.reporting.published import publish
from popcorn.runs.results import is_recorded
from popcorn.runs.run_dir import PREDICTIONS, differing_settings, folder_of
from popcorn.utils.console import make_console
from popcorn.utils.scripts import ROOT, load_script


@dataclass(frozen=True)
class Row:
    """A row of the table: a script and its options."""

    script: str
    options: tuple[str, ...] = ()
    has_seeds: bool = False
    """whether it is run with several seeds"""


MINILM_RECIPE = "--learning-rate", "2e-4"
FOLDS = "--folds", "5"
LM_SIZE = "--hidden", "512", "--pretrain-epochs", "2", "--precision", "auto"  # in fp32, twice as long
ROWS = {
    "tfidf": Row("tfidf"),
    "nbsvm": Row("nbsvm"),
    "paragraph_vectors": Row("paragraph_vectors", has_seeds=True),
    "dv_cosine": Row("dv_cosine", has_seeds=True),
    "cnn": Row("cnn", has_seeds=True),
    "gru": Row("gru", has_seeds=True),
    "lstm": Row("lstm", has_seeds=True),
    "attention_lstm": Row("attention_lstm", has_seeds=True),
    "cnn_lstm": Row("cnn_lstm", has_seeds=True),
    "capsule_lstm": Row("capsule_lstm", has_seeds=True),
    "transformer": Row("transformer", has_seeds=True),
    "lm_lstm-512": Row("lm_lstm", LM_SIZE),
    "minilm": Row("bert_trainer", (*MINILM_RECIPE, "--max-length", "256", "--epochs", "2")),
    "tfidf-folds": Row("tfidf", FOLDS),
    "nbsvm-folds": Row("nbsvm", FOLDS),
    "dv_cosine-folds": Row("dv_cosine", FOLDS),
    "capsule_lstm-folds": Row("capsule_lstm", FOLDS),
    "lm_lstm-folds": Row("lm_lstm", (*FOLDS, *LM_SIZE)),
    "minilm-folds": Row("bert_trainer", (*MINILM_RECIPE, *FOLDS, "--max-length", "128", "--epochs", "1")),
}
MEMBERS = "tfidf-folds", "nbsvm-folds", "capsule_lstm-folds", "dv_cosine-folds", "lm_lstm-folds"
ENSEMBLES = {"ensemble": MEMBERS, "ensemble-minilm": (*MEMBERS, "minilm-folds")}


@dataclass
class Config:
    """What to run."""

    rows: tuple[str, ...] = tuple(ROWS)
    """names of rows"""
    seeds: Count = 3
    """number of seeds of each row that has several"""
    data_dir: Path | None = None
    """folder with the competition's files"""
    output_dir: Path = Path(".")
    """folder that receives submissions/, runs/, results/ and report/"""
    pages: tuple[Path, ...] = ()
    """files with markers around their tables; default: README*.md and docs/ in the current folder"""

    @property
    def folders(self) -> list[str]:
        """The command's options for the folders."""
        return ["--output-dir", str(self.output_dir)] + (["--data-dir", str(self.data_dir)] if self.data_dir else [])


def arguments_of(name: str, seed: int, config: Config) -> list[str]:
    """The options of a row's script; most neural models are trained in fp32, which every machine has."""
    row = ROWS[name]
    model = ["--model", str(minilm())] if row.script == "bert_trainer" else []
    has_precision = hasattr(load_script(row.script).Config, "precision") and "--precision" not in row.options
    precision = ["--precision", "fp32"] if has_precision else []
    validation = ["--no-validation"] if seed > 1 else []
    return [
        *model, *row.options, "--name", name, "--seed", str(seed), *precision, *validation, "--save-results", *config.folders
    ]  # fmt: skip


def run_config_of(name: str, seed: int, config: Config) -> RunConfig:
    """The same options as the script reads them."""
    script = ROWS[name].script
    options = tyro.cli(load_script(script).Config, args=arguments_of(name, seed, config))
    options.prepare(script)
    return options


@functools.cache
def read_train(competition: competition_data.Competition) -> competition_data.Reviews:
    """The training file, read once for all runs."""
    return competition.read(competition_data.TRAIN)


def can_resume(run: RunConfig, competition: competition_data.Competition) -> bool:
    """Whether the run's folder, if there is one, has the same options, data and validation split."""
    train = read_train(competition)
    held_out = [split.held_out for split in validation_splits(run, train.ids, train.labels)]
    return not differing_settings(run, data=competition.checksum, split=split_checksum(train.ids, held_out))


def is_done(run: RunConfig, competition: competition_data.Competition) -> bool:
    """Whether the run is recorded and its last model is here; a fresh clone has none."""
    last = folder_of(run) / (f"fold-{run.folds}" if run.folds else "refit") / PREDICTIONS
    return is_recorded(run, competition) and last.is_file() and can_resume(run, competition)


def command_of(name: str, seed: int, config: Config, competition: competition_data.Competition) -> list[str]:
    """The command of a run; an older run with other options is renamed to `.earlier`."""
    run = run_config_of(name, seed, config)
    resume = ["--resume"] if hasattr(run, "resume") and can_resume(run, competition) else []
    return [str(ROOT / f"{ROWS[name].script}.py"), *arguments_of(name, seed, config), *resume]


def main(config: Config) -> int:
    """Runs what is left, and returns the number of failed commands.

    Raises `UserError` where the competition's files are not here."""
    competition = competition_data.find_competition(config.data_dir)
    if competition.source == competition_data.FALLBACK:
        raise UserError(
            "the leaderboard is of the competition's data, which is not here: put its files into data/, or --data-dir"
        )
    if unknown := set(config.rows) - ROWS.keys():
        raise UserError(f"--rows has {', '.join(sorted(unknown))}: name some of {', '.join(ROWS)}")
    commands = {}
    for name in config.rows:
        for seed in range(1, 1 + (config.seeds if ROWS[name].has_seeds else 1)):
            if not is_done(run_config_of(name, seed, config), competition):
                commands[f"{name}-{seed}"] = command_of(name, seed, config, competition)
    for name, members in ENSEMBLES.items():
        if set(members) <= set(config.rows):
            commands[name] = ["-m", "popcorn", "ensemble", *members, "--name", name, "--save-results", *config.folders]
    failed = run_all(commands, config.output_dir / "runs" / "logs")
    results = config.output_dir / "results"
    leaderboard.update(results, config.pages)
    report.write(config.output_dir, results, config.data_dir)
    publish([], config.output_dir, results, config.data_dir)
    return failed


def run_all(commands: dict[str, list[str]], logs: Path) -> int:
    """Runs the commands one after the other, with a log file of each; returns the number of failed ones."""
    logs.mkdir(parents=True, exist_ok=True)
    failed = 0
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=make_console(100), refresh_per_second=1) as progress:  # each takes time from the run
        task = progress.add_task("", total=len(commands))
        for name, command in commands.items():
            progress.update(task, description=name)
            log = logs / f"{name}.log"
            with log.open("w") as file:
                done = subprocess.run([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT)
            if done.returncode:
                failed += 1
                progress.console.print(f"{name}: ended with {done.returncode}, see {log}")
            progress.advance(task)
    return failed


if __name__ == "__main__":
    config = parse(Config)
    with exit_on_user_error():
        sys.exit(1 if main(config) else 0)
