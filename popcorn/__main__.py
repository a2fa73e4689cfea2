"""`python -m popcorn <command>`: what is done before and after the training of a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, subcommand

from popcorn.errors import one_sentence


@dataclass
class Prepare:
    """Make the competition's four files from Stanford's archive, without a Kaggle account."""

    archive: Positional[Path]
    """Stanford's aclImdb_v1.tar.gz, or the folder it unpacks to"""
    output: Path = Path("data")
    """folder that receives the files"""
    download: bool = False
    """fetch the archive from Stanford first (80 MB); a broken download goes on where it stopped"""

    def run(self) -> None:
        """Downloads where asked, then writes the files."""
        from popcorn.prepare import download, prepare

        if self.download:
            download(self.archive)
        prepare(self.archive, self.output)


@dataclass
class Score:
    """Print accuracy, its 95% interval and ROC AUC of submissions, from the ratings in the test ids."""

    files: Positional[tuple[Path, ...]]
    """submissions (.csv), with labels or with probabilities"""
    data_dir: Path | None = None
    """folder with the competition's files; found as the scripts find it where it is not given"""

    def run(self) -> None:
        """Scores all files, or refuses the first that is wrong."""
        from popcorn.data import find
        from popcorn.errors import UserError
        from popcorn.score import print_scores

        if not self.files:
            raise UserError("no submission was given: name one or more files, such as submissions/lstm.csv")
        print_scores(list(self.files), find(self.data_dir).sample_ids())


@dataclass
class Leaderboard:
    """Print the recorded results, write them into the README between its markers, and draw them."""

    results: Path = Path("results")
    """folder of the recorded results, which receives leaderboard.png"""
    readme: Path = Path("README.md")
    """file with the two markers"""

    def run(self) -> None:
        """Prints, writes, draws."""
        from popcorn.leaderboard import update

        update(self.results, self.readme)


def main() -> None:
    """Reads the command line and runs the command."""
    commands = (
        Annotated[Prepare, subcommand("prepare")]
        | Annotated[Score, subcommand("score")]
        | Annotated[Leaderboard, subcommand("leaderboard")]
    )
    with one_sentence():
        tyro.cli(commands, prog="python -m popcorn", description=__doc__).run()


if __name__ == "__main__":
    main()
