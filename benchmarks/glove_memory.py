"""Peak memory and time of glove-gensim.py on a generated file as large as GloVe 840B.

It has 2,196,017 words, 300 wide.

Numbers repeat, since only their text counts; words do not, and some hold blanks as those of 840B do. The file takes 5 to 6 GB
in the folder for temporary files and the converted one 2.6 GB. Writes results/benchmarks/glove_memory.json.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from popcorn.config import parse
from popcorn.errors import log
from popcorn.utils.files import write_json
from popcorn.utils.machine import cpu_name
from popcorn.utils.scripts import ROOT

WIDTH = 300


@dataclass
class Config:
    """How large a file to generate."""

    words: int = 2_196_017
    """words of the file"""
    output: Path = Path("results/benchmarks/glove_memory.json")
    """file that receives the figures"""


def generate(path: Path, words: int) -> None:
    """Writes the file."""
    generator = np.random.default_rng(0)
    lines = [" ".join(f"{number:.5f}" for number in row) for row in generator.normal(0, 0.4, (2_000, WIDTH))]
    with path.open("w", encoding="utf-8") as file:
        for number in range(words):
            word = f"at name{number}@domain.com" if number % 50_000 == 49_999 else f"word{number}"
            file.write(f"{word} {lines[number % len(lines)]}\n")


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        glove, output = Path(folder) / "glove.txt", Path(folder) / "glove.kv"
        generate(glove, config.words)
        start = time.monotonic()
        command = [sys.executable, "glove-gensim.py", "--glove", glove, "--output", output, "--neighbors", "word1"]
        subprocess.run(list(map(str, command)), cwd=ROOT, check=True)
        seconds = time.monotonic() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        rows = np.load(f"{output}.vectors.npy", mmap_mode="r")
        figures = {
            "machine": cpu_name(), "words": config.words, "width": WIDTH, "text_bytes": glove.stat().st_size,
            "rows_written": len(rows), "seconds": round(seconds, 1), "peak_bytes": peak, "measured": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
    log(json.dumps(figures, indent=1))
    write_json(config.output, figures)


if __name__ == "__main__":
    main(parse(Config))
