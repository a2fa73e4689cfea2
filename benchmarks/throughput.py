"""Training reviews/s of the LSTM's recipe against the common practice, side by side in one run, and what each step brings.

The common practice, as public notebooks have it: a bidirectional LSTM of 2 layers of 120 units, every review padded or cut
to 512 words, batches in random order, fp32. Same library, threads, vocabulary and batch size. Rounds take turns, and the
medians of the rounds are compared. Writes results/benchmarks/throughput.json.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from popcorn.config import parse


@dataclass
class Config:
    """What to measure on."""

    data_dir: Path | None = None
    """folder with the competition's files"""
    steps: int = 12
    """training steps a round"""
    rounds: int = 5
    """rounds of each variant"""
    output: Path = Path("results/benchmarks/throughput.json")
    """file that receives the figures"""


if __name__ == "__main__":
    config = parse(Config)

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad

import lstm
from popcorn import data, device
from popcorn.batches import Reviews, shuffled
from popcorn.files import write_json
from popcorn.text import PAD, encode, read_corpus
from popcorn.vectors import build_vocabulary

BATCH, COMMON_LENGTH = 64, 512


class CommonLSTM(nn.Module):
    """tokens (batch, 512), lengths unread -> logit (batch,): reads the padding, joins the first and the last state."""

    def __init__(self, vectors: Tensor):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(vectors.clone(), freeze=False)
        self.encoder = nn.LSTM(vectors.shape[1], 120, num_layers=2, bidirectional=True, batch_first=True)
        self.classifier = nn.Linear(4 * 120, 1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.encoder(self.embedding(tokens))
        return self.classifier(torch.cat([states[:, 0], states[:, -1]], dim=-1)).squeeze(-1)


def trainer(model: nn.Module, precision: str, labels: np.ndarray) -> Callable[[tuple[Tensor, Tensor], np.ndarray], None]:
    """A function that trains one step on a batch."""
    where = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(where)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    scaler = torch.amp.GradScaler(where, enabled=precision == "fp16")
    half = torch.float16 if precision == "fp16" else torch.bfloat16

    def step(batch: tuple[Tensor, Tensor], rows: np.ndarray) -> None:
        tokens, lengths = (tensor.to(where) for tensor in batch)
        with torch.autocast(where, half, enabled=precision != "no"):
            logit = model(tokens, lengths)
        loss = binary_cross_entropy_with_logits(logit.float(), torch.from_numpy(labels[rows]).to(where).float())
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
        loss.item()

    return step


def padded(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Every review padded to 512."""
    tokens, lengths = batch
    return pad(tokens, (0, COMMON_LENGTH - tokens.shape[1]), value=PAD), lengths


def main(config: Config) -> None:
    competition = data.find(config.data_dir)
    corpus = read_corpus(competition)
    vocabulary = build_vocabulary(competition, corpus, None, None)
    reviews, vectors = encode(corpus.train, vocabulary.index), torch.from_numpy(vocabulary.vectors)
    labels, rows = corpus.train.labels, np.arange(len(corpus.train.ids))
    ours, common = lstm.Config(), Reviews(reviews, COMMON_LENGTH)
    reviews = Reviews(reviews, ours.max_tokens)
    generator = np.random.default_rng(0)
    at_random = [generator.choice(rows, BATCH, replace=False) for _ in range(config.steps * config.rounds)]
    by_length = shuffled(rows, reviews.lengths, BATCH, seed=0)
    fast = device.mixed_precision("auto")
    variants = {
        "common practice": (CommonLSTM(vectors), "no", lambda chosen: padded(common.batch(chosen)), at_random),
        "our model, padded to 512": (lstm.LSTM(ours, vectors), "no", lambda chosen: padded(common.batch(chosen)), at_random),
        f"+ cut to {ours.max_tokens}, grouped by length": (lstm.LSTM(ours, vectors), "no", reviews.batch, by_length),
        f"+ precision by hardware ({fast})": (lstm.LSTM(ours, vectors), fast, reviews.batch, by_length),
    }
    steps = {name: trainer(model.train(), precision, labels) for name, (model, precision, _, _) in variants.items()}

    def measure(name: str, turn: int) -> float:
        _, _, make, batches = variants[name]
        start, seen = time.monotonic(), 0
        for number in range(config.steps):
            chosen = batches[(turn * config.steps + number) % len(batches)]
            steps[name](make(chosen), chosen)
            seen += len(chosen)
        return seen / (time.monotonic() - start)

    before = statistics.median(measure("common practice", turn) for turn in range(2))
    device.keep_freed_memory()  # for all variants from here on, so that the ratios owe nothing to it
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(-1, config.rounds):
        for name in variants:
            speed = measure(name, max(turn, 0))
            if turn >= 0:  # the first turn only warms up
                speeds[name].append(speed)
    report(config.output, speeds, before, where_time_goes(steps, variants))


def where_time_goes(steps: dict, variants: dict) -> dict[str, float]:
    """Share of the CPU time by operator, the largest first, over some steps of the full recipe."""
    name, (_, _, make, batches) = list(variants.items())[-1]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for chosen in batches[:10]:
            steps[name](make(chosen), chosen)
    events = profile.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    largest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:8]
    return {event.key: round(event.self_cpu_time_total / total, 3) for event in largest}


def report(output: Path, speeds: dict[str, list[float]], before: float, shares: dict[str, float]) -> None:
    """Prints the table and writes the figures."""
    median = {name: statistics.median(values) for name, values in speeds.items()}
    table = Table("variant", "reviews/s, median", "min to max", "times the common practice")
    for name, values in speeds.items():
        ratio = median[name] / median["common practice"]
        table.add_row(name, f"{median[name]:.0f}", f"{min(values):.0f} to {max(values):.0f}", f"{ratio:.1f}")
    Console(width=120).print(table)
    Console(width=120).print(f"common practice before glibc was told to keep freed memory: {before:.0f} reviews/s")
    Console(width=120).print("where the time goes:", shares)
    content = {
        "machine": device.processor(), "torch": torch.__version__, "threads": torch.get_num_threads(), "batch": BATCH,
        "reviews_per_second": speeds, "median": median, "common_practice_before_keeping_memory": before,
        "times_common_practice": {name: value / median["common practice"] for name, value in median.items()},
        "share_of_cpu_time": shares,
    }  # fmt: skip
    write_json(output, content)


if __name__ == "__main__":
    main(config)
