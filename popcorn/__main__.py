"""`python -m popcorn <command>`: everything before and after the training of a model."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from popcorn.config import FrozenConfig, PretrainedConfig, ZeroShotConfig, expand_home
from popcorn.errors import UserError, exit_on_user_error
from popcorn.utils.packages import hide_unusable_quantizers
from popcorn.utils.scripts import load_script


@dataclass
class Command:
    """The common part of all commands."""

    def __post_init__(self):
        expand_home(self)


@dataclass
class Prepare(Command):
    """Make the competition's four files from Stanford's archive, without a Kaggle account."""

    archive: Positional[Path]
    """Stanford's aclImdb_v1.tar.gz, or its unpacked folder"""
    output: Path = Path("data")
    """folder for the files"""
    download: bool = False
    """download the archive from Stanford first (80 MB); resumes an interrupted download"""

    def run(self) -> None:
        """Downloads the archive if needed, then writes the files."""
        from popcorn.data.stanford import download, prepare

        if self.download:
            download(self.archive)
        prepare(self.archive, self.output)


@dataclass
class Score(Command):
    """Print accuracy, its 95% interval and ROC AUC of submissions.

    The labels come from the ratings in the test ids.
    """

    files: Positional[tuple[Path, ...]]
    """submissions (.csv, .csv.gz) with labels or probabilities"""
    data_dir: Path | None = None
    """folder with the competition's files; default: found as by the scripts"""

    def run(self) -> None:
        """Scores all files, or raises an error for the first wrong one."""
        from popcorn.data.competition import find_competition
        from popcorn.reporting.score import print_scores

        if not self.files:
            raise UserError("no submission was given: name one or more files, such as submissions/lstm.csv")
        print_scores(list(self.files), find_competition(self.data_dir).sample_ids())


@dataclass
class Compare(Command):
    """Test whether B is better than A by more than chance.

    McNemar's test of the accuracies and DeLong's of the ROC AUC, on the same reviews. Runs that were validated on the same
    reviews are compared on these first: choose by them. The tests do not cover the seed: another one changes both models.
    """

    a: Positional[Annotated[Path, arg(metavar="A")]]
    """name of your run or of a published one, such as nbsvm, or a file with labels or probabilities (.csv, .csv.gz)"""
    b: Positional[Annotated[Path, arg(metavar="B")]]
    """the same, for the model that may be better"""
    output: Path | None = None
    """file for the reviews that only one of the two gets right, such as reviews.csv"""
    output_dir: Path = Path(".")
    """folder with the scripts' submissions/ and runs/"""
    data_dir: Path | None = None
    """folder with the competition's files, for the validation reviews of runs; default: found as by the scripts"""

    def run(self) -> None:
        """Compares, prints and writes."""
        from popcorn.reporting.compare import print_comparison

        print_comparison((self.a, self.b), self.output_dir, self.data_dir, self.output)


@dataclass
class Leaderboard(Command):
    """Print the saved results, write them into the README and docs/, and draw a chart."""

    results: Path = Path("results")
    """folder of the saved results, and of leaderboard.png"""
    pages: tuple[Path, ...] = ()
    """files with markers around their tables; default: README*.md and docs/ in the current folder"""

    def run(self) -> None:
        """Prints, writes and draws."""
        from popcorn.reporting.leaderboard import update

        update(self.results, self.pages)


@dataclass
class Publish(Command):
    """Write the probabilities of recorded runs to submissions/published/, for others to score, compare and blend.

    Only files that reproduce the score in results/ are written.
    """

    rows: Positional[tuple[str, ...]] = ()
    """names of recorded rows, such as lstm; default: all whose run is here"""
    output_dir: Path = Path(".")
    """folder with the scripts' submissions/ and runs/"""
    results: Path = Path("results")
    """folder of the saved results"""
    data_dir: Path | None = None
    """folder with the competition's files; default: found as by the scripts"""

    def run(self) -> None:
        """Writes the files, and checks all that are published."""
        from popcorn.reporting.published import publish

        publish(list(self.rows), self.output_dir, self.results, self.data_dir)


@dataclass
class Ensemble(Command):
    """Blend runs by their out-of-fold probabilities, and write the blend's submissions."""

    members: Positional[tuple[str, ...]] = ()
    """names of runs with --folds, yours or published, such as lstm cnn nbsvm"""
    all: bool = False
    """blend all of your runs with out-of-fold probabilities"""
    name: str = "ensemble"
    """name of the submissions and of the results"""
    output_dir: Path = Path(".")
    """folder with the scripts' submissions/, also for the ensemble's"""
    data_dir: Path | None = None
    """folder with the competition's files; default: found as by the scripts"""
    save_results: bool = False
    """save the metrics to results/<name>.json, the source of the leaderboard"""

    def run(self) -> None:
        """Blends, prints and writes."""
        from popcorn.data.submission import OOF_SUFFIX
        from popcorn.reporting.ensemble import ensemble

        if self.all and self.members:
            raise UserError(f"--all means every run, but {', '.join(self.members)} were named too: give one of the two")
        found = sorted(path.name.removesuffix(OOF_SUFFIX) for path in self.output_dir.glob(f"submissions/*{OOF_SUFFIX}"))
        ensemble(found if self.all else list(self.members), self.output_dir, self.name, self.data_dir, self.save_results)


@dataclass
class Predict(Command):
    """Classify reviews with a trained model: one with its words' contributions, or a whole file."""

    texts: Positional[tuple[str, ...]] = ()
    """reviews, each in quotes; default: read from stdin, one per line"""
    model: str = "lstm"
    """name of a finished run or ensemble, or its folder, such as runs/lstm/seed-1"""
    file: Path | None = None
    """file of reviews: a table with a column review (.csv, .tsv), JSON, or text with one per line; also zip or gz"""
    output: Path | None = None
    """output file with id and probability, and with --file the label; default: next to --file, or in submissions/"""
    output_dir: Path = Path(".")
    """folder with the scripts' runs/"""
    serve: bool = False
    """open a web page on this machine (127.0.0.1) instead"""
    unlabeled: bool = False
    """predict the competition's unlabeled reviews, for the scripts' --pseudo-labels"""
    data_dir: Path | None = None
    """folder with the competition's files, for --unlabeled; default: found as by the scripts"""

    def run(self) -> None:
        """Classifies, and shows or writes the predictions."""
        from popcorn.inference.predict import predict

        predict(self.model, list(self.texts), self.file, self.output, self.output_dir, self.serve, self.unlabeled, self.data_dir)


@dataclass
class Kernel(Command):
    """Write a script as one file for Kaggle, with kernel-metadata.json, for `kaggle kernels push`."""

    script: Positional[str]
    """name of the script, such as lstm; or table, for several scripts one after another (--scripts)"""
    scripts: str | None = None
    """scripts of the table, separated by commas, also with options: "bert_trainer,deberta_lora --epochs 1"; their results are
    saved"""
    output: Path = Path("kernels")
    """folder for the kernel's folder"""
    user: str | None = os.environ.get("KAGGLE_USERNAME")
    """your Kaggle user name, the start of the kernel's id; default: $KAGGLE_USERNAME"""
    options: str = ""
    """the script's options, as in --options="--epochs 2 --folds 5"; a model on Kaggle in --model is attached"""
    continue_: Annotated[bool, tyro.conf.arg(name="continue")] = False
    """continue the kernel's last version, which the session's time limit ended"""
    accelerator: str | None = None
    """Kaggle's name of another GPU than two T4 (NvidiaTeslaT4)"""
    docker_image: str | None = None
    """pin Kaggle's image, as `kaggle kernels pull --metadata` shows it; default: the latest"""
    notebook: bool = False
    """write a notebook instead of a script"""

    def run(self) -> None:
        """Writes the folder."""
        from popcorn.kaggle.kernel import write_kernel

        write_kernel(
            self.script.removesuffix(".py"), self.output, self.user, self.options, scripts=self.scripts,
            accelerator=self.accelerator, docker_image=self.docker_image, continues=self.continue_, as_notebook=self.notebook,
        )  # fmt: skip


@dataclass
class Report(Command):
    """Write report/index.html about all saved results.

    It shows a comparison with the best model, learning curves, calibration, accuracy by length, agreement, and common errors.
    """

    output_dir: Path = Path(".")
    """folder with the scripts' submissions/ and runs/, also for report/"""
    results: Path = Path("results")
    """folder of the saved results"""
    data_dir: Path | None = None
    """folder with the competition's files; default: found as by the scripts"""

    def run(self) -> None:
        """Writes the page."""
        from popcorn.reporting.report import write

        write(self.output_dir, self.results, self.data_dir)


@dataclass
class Plan(Command):
    """Estimate time and memory of training pretrained models on Kaggle's GPUs.

    It needs neither a GPU nor the weights.
    """

    scripts: Positional[tuple[Path, ...]] = ()
    """scripts such as deberta_lora.py; default: all that use a pretrained model"""
    model: str | None = None
    """model id on the hub, or a folder with a config.json; default: the script's"""
    max_length: int | None = None
    """maximum number of tokens of a review; default: the script's"""
    batch_size: int | None = None
    """reviews per optimizer step; default: the script's"""
    bits: Literal[4, 8, 16, 32] | None = None
    """bits of a frozen weight; default: the best for each machine"""

    def run(self) -> None:
        """Prints a table."""
        hide_unusable_quantizers()
        from popcorn.kaggle.plan import pretrained_scripts, show

        scripts = [self._load(path) for path in self.scripts] or pretrained_scripts()
        given = {name: getattr(self, name) for name in ("model", "max_length", "batch_size")}
        configs = {}
        for script in scripts:
            if not issubclass(script.Config, (PretrainedConfig, ZeroShotConfig)):
                raise UserError(f"{script.__name__}.py uses no pretrained model: plan is for scripts such as deberta_lora.py")
            has_bits = issubclass(script.Config, (FrozenConfig, ZeroShotConfig))
            if self.bits and self.scripts and not has_bits:
                raise UserError(
                    f"{script.__name__}.py trains all of its weights: leave --bits out, or name a script such as deberta_lora.py"
                )
            options = given | ({"bits": self.bits} if has_bits else {})
            configs[script.__name__] = script.Config(**{name: value for name, value in options.items() if value is not None})
        show(configs)

    def _load(self, path: Path) -> ModuleType:
        """The script; raises `UserError` for a file that is not one."""
        try:
            script = load_script(path.stem)
        except FileNotFoundError as problem:
            raise UserError(f"there is no {path}: name a script such as deberta_lora.py") from problem
        if (path.parent != Path() or path.exists()) and path.resolve() != Path(script.__file__).resolve():
            raise UserError(f"{path} is not a script of this repository: name one such as deberta_lora.py")
        return script


def main() -> None:
    """Parses the command line and runs the command."""
    commands = (
        Annotated[Prepare, subcommand("prepare")]
        | Annotated[Score, subcommand("score")]
        | Annotated[Compare, subcommand("compare")]
        | Annotated[Leaderboard, subcommand("leaderboard")]
        | Annotated[Publish, subcommand("publish")]
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
