"""Reviews/s of `python -m popcorn predict --file` on 10,000 test reviews, for existing runs.

Each measurement is a process of its own; both its own word on the speed, which leaves the start out, and the time of the whole
command are kept. Writes results/benchmarks/predicting.json.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.table import Table

from popcorn.config import parse
from popcorn.data import competition as competition_data
from popcorn.utils.console import make_console
from popcorn.utils.files import write_json
from popcorn.utils.machine import cpu_name
from popcorn.utils.scripts import ROOT


@dataclass
class Config:
    """What to measure on."""

    models: tuple[str, ...] = ("lstm", "capsule_lstm", "nbsvm")
    """names of finished runs"""
    data_dir: Path | None = None
    """folder with the competition's files"""
    output_dir: Path = Path(".")
    """folder with the scripts' runs/"""
    reviews: int = 10_000
    """the first N of the test"""
    rounds: int = 3
    """measurements of each model"""
    output: Path = Path("results/benchmarks/predicting.json")
    """file that receives the figures"""


def measure(model: str, file: Path, output_dir: Path) -> tuple[float, float]:
    """Reviews/s as the command prints it, and seconds of the whole command."""
    start = time.monotonic()
    command = [sys.executable, "-m", "popcorn", "predict", "--model", model, "--file", file, "--output-dir", output_dir.resolve()]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:  # the command has said why
        sys.exit(done.returncode)
    return float(re.search(r"([\d,]+) a second", done.stdout)[1].replace(",", "")), time.monotonic() - start


def main(config: Config) -> None:
    test = competition_data.find_competition(config.data_dir).read(competition_data.TEST)
    table = Table("model", "reviews/s", "seconds of the whole command")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reviews.csv"
        pd.DataFrame({"id": test.ids, "review": test.texts})[: config.reviews].to_csv(file, index=False)
        for model in config.models:
            speeds, seconds = zip(*(measure(model, file, config.output_dir) for _ in range(config.rounds)), strict=True)
            figures[model] = {"reviews_per_second": speeds, "seconds": seconds}
            table.add_row(model, f"{statistics.median(speeds):,.0f}", f"{statistics.median(seconds):.1f}")
    make_console().print(table)
    content = {"machine": cpu_name(), "reviews": min(config.reviews, len(test.ids)), "models": figures}
    write_json(config.output, content | {"measured": time.strftime("%Y-%m-%d")})


if __name__ == "__main__":
    main(parse(Config))
