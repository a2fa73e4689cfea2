"""`python -m popcorn <command>`: what is done before and after the training of a model."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, subcommand

from popcorn.config import expand_home
from popcorn.errors import UserError, exit_on_user_error
from popcorn.utils.packages import hide_unusable_quantizers
from popcorn.utils.scripts import load_script


@dataclass
class Command:
    """What all commands have in common."""

    def __post_init__(self):
        expand_home(self)


@dataclass
class Prepare(Command):
    """Make the competition's four files from Stanford's archive, without a Kaggle account."""

    archive: Positional[Path]
    """Stanford's aclImdb_v1.tar.gz, or the folder it unpacks to"""
    output: Path = Path("data")
    """folder that receives the files"""
    download: bool = False
    """fetch the archive from Stanford first (80 MB); a broken download goes on where it stopped"""

    def run(self) -> None:
        """Downloads where asked, then writes the files."""
        from popcorn.data.stanford import download, prepare

        if self.download:
            download(self.archive)
        prepare(self.archive, self.output)


@dataclass
class Score(Command):
    """Print accuracy, its 95% interval and ROC AUC of submissions, from the ratings in the test ids."""

    files: Positional[tuple[Path, ...]]
    """submissions (.csv), with labels or with probabilities"""
    data_dir: Path | None = None
    """folder with the competition's files; found as the scripts find it where it is not given"""

    def run(self) -> None:
        """Scores all files, or refuses the first that is wrong."""
        from popcorn.data.competition import find_competition
        from popcorn.reporting.score import print_scores

        if not self.files:
            raise UserError("no submission was given: name one or more files, such as submissions/lstm.csv")
        print_scores(list(self.files), find_competition(self.data_dir).sample_ids())


@dataclass
class Leaderboard(Command):
    """Print the recorded results, write them into the README between its markers, and draw them."""

    results: Path = Path("results")
    """folder of the recorded results, which receives leaderboard.png"""
    readme: Path = Path("README.md")
    """file with the two markers"""

    def run(self) -> None:
        """Prints, writes, draws."""
        from popcorn.reporting.leaderboard import update

        update(self.results, self.readme)


@dataclass
class Ensemble(Command):
    """Blend the runs of several scripts by their out-of-fold probabilities, and write the blend's submissions."""

    members: Positional[tuple[str, ...]] = ()
    """names of runs with --folds, such as lstm cnn nbsvm"""
    all: bool = False
    """every run with out-of-fold probabilities"""
    name: str = "ensemble"
    """name of the submissions and of the results"""
    output_dir: Path = Path(".")
    """folder with the scripts' submissions/, which receives the ensemble's"""
    data_dir: Path | None = None
    """folder with the competition's files; found as the scripts find it where it is not given"""
    save_results: bool = False
    """write the figures to results/<name>.json, which the leaderboard is made from"""

    def run(self) -> None:
        """Blends, prints, writes."""
        from popcorn.data.submission import OOF_SUFFIX
        from popcorn.reporting.ensemble import ensemble

        if self.all and self.members:
            raise UserError(f"--all takes every run, and {', '.join(self.members)} were named: give one of the two")
        found = sorted(path.name.removesuffix(OOF_SUFFIX) for path in self.output_dir.glob(f"submissions/*{OOF_SUFFIX}"))
        ensemble(found if self.all else list(self.members), self.output_dir, self.name, self.data_dir, self.save_results)


@dataclass
class Predict(Command):
    """Judge reviews by a trained model: one with the words that carried the verdict, or a whole file."""

    texts: Positional[tuple[str, ...]] = ()
    """reviews, each in quotes; without any they are read from stdin, one a line"""
    model: str = "lstm"
    """name of a finished run, or its folder, such as runs/lstm/seed-1"""
    file: Path | None = None
    """reviews to judge at once: a table with a column review (.csv, .tsv), JSON, or text with one a line; also zip or gz"""
    output: Path | None = None
    """file that receives id, probability and label; beside --file where it is not given"""
    output_dir: Path = Path(".")
    """folder with the scripts' runs/"""
    serve: bool = False
    """open a page on this machine (127.0.0.1) instead"""

    def run(self) -> None:
        """Judges, shows or writes."""
        from popcorn.inference.predict import predict

        predict(self.model, list(self.texts), self.file, self.output, self.output_dir, self.serve)


@dataclass
class Kernel(Command):
    """Write a script as one file for Kaggle, with kernel-metadata.json, for `kaggle kernels push`."""

    script: Positional[str]
    """its name, such as lstm"""
    output: Path = Path("kernels")
    """folder that receives a folder of the script's name"""
    user: str = os.environ.get("KAGGLE_USERNAME", "INSERT_KAGGLE_USERNAME_HERE")
    """your name on Kaggle, which the kernel's id begins with; $KAGGLE_USERNAME where it is not given"""
    options: str = ""
    """the script's options in quotes, such as '--epochs 2 --folds 5'"""
    attach: str | None = None
    """a model on Kaggle to attach and to begin from: owner/model/framework/variation/version"""
    notebook: bool = False
    """a notebook in place of a script"""

    def run(self) -> None:
        """Writes the folder."""
        from popcorn.kaggle.kernel import write_kernel

        write_kernel(self.script.removesuffix(".py"), self.output, self.user, self.options, self.attach, self.notebook)


@dataclass
class Report(Command):
    """Write report/index.html about all recorded models: curves, calibration, lengths, agreement, and what all get wrong."""

    output_dir: Path = Path(".")
    """folder with the scripts' submissions/ and runs/, which receives report/"""
    results: Path = Path("results")
    """folder of the recorded results"""
    data_dir: Path | None = None
    """folder with the competition's files; found as the scripts find it where it is not given"""

    def run(self) -> None:
        """Writes the page."""
        from popcorn.reporting.report import write

        write(self.output_dir, self.results, self.data_dir)


@dataclass
class Plan(Command):
    """Say what training an adapter would take, and on which GPU it would fit; neither a GPU nor the weights are needed."""

    script: Positional[Path]
    """deberta_lora.py, or another script that trains an adapter"""
    model: str | None = None
    """id on the hub, or a folder with a config.json; the script's own where it is not given"""
    max_length: int | None = None
    """tokens of a review; as many as the script takes where it is not given"""
    batch_size: int | None = None
    """reviews a step; as many as the script takes where it is not given"""
    bits: Literal[4, 8, 16, 32] | None = None
    """of a frozen weight; what each machine can do where it is not given"""

    def run(self) -> None:
        """Prints a table."""
        hide_unusable_quantizers()
        try:
            script = load_script(self.script.stem)
        except FileNotFoundError as problem:
            raise UserError(f"there is no {self.script}: name a script such as deberta_lora.py") from problem
        if not hasattr(script, "peft_config"):
            raise UserError(f"{self.script} trains no adapter: plans are made for deberta_lora.py and its like")
        from popcorn.kaggle.plan import show

        given = {name: getattr(self, name) for name in ("model", "max_length", "batch_size", "bits")}
        show(script, script.Config(**{name: value for name, value in given.items() if value is not None}))


def main() -> None:
    """Reads the command line and runs the command."""
    commands = (
        Annotated[Prepare, subcommand("prepare")]
        | Annotated[Score, subcommand("score")]
        | Annotated[Leaderboard, subcommand("leaderboard")]
        | Annotated[Ensemble, subcommand("ensemble")]
        | Annotated[Predict, subcommand("predict")]
        | Annotated[Kernel, subcommand("kernel")]
        | Annotated[Report, subcommand("report")]
        | Annotated[Plan, subcommand("plan")]
    )
    with exit_on_user_error():
        tyro.cli(commands, prog="python -m popcorn", description=__doc__).run()


if __name__ == "__main__":
    main()
