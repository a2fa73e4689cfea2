"""Time and memory to read, tokenize and index all reviews, with an empty and a full cache.

Each measurement is a process of its own. Writes results/benchmarks/reading.json.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from popcorn.config import parse
from popcorn.errors import log
from popcorn.utils.files import write_json
from popcorn.utils.machine import cpu_name
from popcorn.utils.scripts import ROOT

READ = """
import resource, sys, time
from pathlib import Path
start = time.monotonic()
from popcorn.data import competition as competition_data
from popcorn.data import word_tokenizer
corpus = word_tokenizer.read_corpus(competition_data.find_competition(Path(sys.argv[1]) if sys.argv[1] else None))
index = {word: number for number, word in enumerate(word_tokenizer.word_counts(corpus.training_files), start=2)}
ids = [word_tokenizer.encode(file, index) for file in (corpus.train, corpus.test, corpus.unlabeled)]
print(time.monotonic() - start, sum(len(file.ids) for file in (corpus.train, corpus.test, corpus.unlabeled)))
"""


@dataclass
class Config:
    """What to measure on."""

    data_dir: Path | None = None
    """folder with the competition's files"""
    rounds: int = 3
    """measurements with a full cache"""
    output: Path = Path("results/benchmarks/reading.json")
    """file that receives the figures"""


def measure(data_dir: Path | None, cache: str) -> tuple[float, int]:
    """Seconds, imports included, and the number of reviews."""
    command = [sys.executable, "-c", READ, str(data_dir.resolve() if data_dir else "")]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"XDG_CACHE_HOME": cache}, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, reviews = done.stdout.split("\n")[-2].split()
    return float(seconds), int(reviews)


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as cache:
        cold, reviews = measure(config.data_dir, cache)
        # the largest process: the parent holds all tokens, each worker a thousand reviews
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        warm = sorted(measure(config.data_dir, cache)[0] for _ in range(config.rounds))
    figures = {
        "machine": cpu_name(), "reviews": reviews, "cold_seconds": round(cold, 1), "peak_bytes_largest_process": peak,
        "warm_seconds": [round(seconds, 2) for seconds in warm], "measured": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    log(json.dumps(figures, indent=1))
    write_json(config.output, figures)


if __name__ == "__main__":
    main(parse(Config))
