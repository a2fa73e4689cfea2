"""Training reviews/s of every word-vector model: its recipe against the common practice.

The common practice, as in the competition's public scripts: every review padded or cut to 512 words, batches of 64 in random
order, fp32, memory handed back to the system after every step, and in the CNN the gradient taken through the maximum over all
windows. The model, its sizes, the vocabulary, the optimizer and the number of threads are the same. Each of the two works in a
process of its own, they take turns, and the medians of the rounds are compared. A round's batches stand for an epoch's: they are
taken evenly from the shortest to the longest. FLOP are those of the products that the step computes, padding included; what a T4
should take for a run is estimated from them. Writes results/benchmarks/throughput.json.
"""

import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from popcorn.config import parse
from popcorn.data import competition as competition_data
from popcorn.data.batching import EncodedReviews, length_grouped_batches
from popcorn.data.word_tokenizer import PAD, encode, read_corpus
from popcorn.data.word_vectors import build_vocabulary
from popcorn.utils import hardware
from popcorn.utils.console import make_console
from popcorn.utils.files import write_json
from popcorn.utils.scripts import load_script

MODELS = {
    "lstm": "LSTM", "gru": "GRU", "cnn": "CNN", "cnn_lstm": "CNNLSTM", "attention_lstm": "AttentionLSTM",
    "capsule_lstm": "CapsuleLSTM", "transformer": "Transformer",
}  # fmt: skip
COMMON_LENGTH, COMMON_BATCH = 512, 64
T4 = 0.02 * 65e12
"""FLOP/s that a T4 is assumed to reach until one is measured: a fiftieth of its fp16 peak, as steps wait for each other"""


@dataclass
class Config:
    """What to measure on."""

    data_dir: Path | None = None
    """folder with the competition's files"""
    steps: int = 8
    """training steps a round, the same in every round"""
    rounds: int = 3
    """rounds of each variant"""
    output: Path = Path("results/benchmarks/throughput.json")
    """file that receives the figures"""


class Variant:
    """One model with all that a training step needs."""

    def __init__(self, script: str, common: bool, config: Config):
        if not common:
            hardware.tune_allocator()
        module = load_script(script)
        if common and script == "cnn":
            module.max_over_time = through_the_maximum
        recipe = module.Config()
        competition = competition_data.find_competition(config.data_dir)
        corpus = read_corpus(competition)
        vocabulary = build_vocabulary(competition, corpus, None, None, Path("runs"))
        self.labels, self.common, self.epochs = corpus.train.labels, common, recipe.epochs
        self.unlabeled = len(corpus.unlabeled.ids) if recipe.pseudo_labels else 0
        self.reviews = EncodedReviews(encode(corpus.train, vocabulary.index), COMMON_LENGTH if common else recipe.max_length)
        rows, size = np.arange(len(self.reviews)), COMMON_BATCH if common else recipe.batch_size
        if common:
            batches = np.array_split(np.random.default_rng(0).permutation(rows), len(rows) // size)
        else:
            batches = length_grouped_batches(rows, self.reviews.lengths, size, seed=0)
        batches.sort(key=lambda rows: self.reviews.lengths[rows].max())
        middles = (np.arange(config.steps) + 0.5) * len(batches) / config.steps
        self.batches = [batches[int(place)] for place in middles]
        self.where = "cuda" if torch.cuda.is_available() else "cpu"
        self.precision = "no" if common else hardware.mixed_precision("auto")
        torch.manual_seed(1)
        self.model = getattr(module, MODELS[script])(recipe, torch.from_numpy(vocabulary.vectors)).to(self.where).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3, fused=True)
        self.scaler = torch.amp.GradScaler(self.where, enabled=self.precision == "fp16")

    def round(self) -> float:
        """Trains on the batches once: reviews per second."""
        start = time.monotonic()
        for rows in self.batches:
            self.step(rows)
        return self.seen / (time.monotonic() - start)

    @property
    def seen(self) -> int:
        """Reviews of a round."""
        return sum(map(len, self.batches))

    def step(self, rows: np.ndarray) -> None:
        """One update of the weights."""
        tokens, lengths = self.reviews.batch(rows)
        if self.common:
            tokens = pad(tokens, (0, COMMON_LENGTH - tokens.shape[1]), value=PAD)
        half = torch.float16 if self.precision == "fp16" else torch.bfloat16
        with torch.autocast(self.where, half, enabled=self.precision != "no"):
            logit = self.model(tokens.to(self.where), lengths.to(self.where))
        loss = binary_cross_entropy_with_logits(logit.float(), torch.from_numpy(self.labels[rows]).to(self.where).float())
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        loss.item()

    def flop(self) -> float:
        """Multiplications and additions of all products, for each review."""
        with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
            self.round()
        return counter.get_total_flops() / self.seen

    def reviews_of_a_run(self) -> float:
        """Reviews that a run trains on: nine tenths of the labeled ones per epoch, then all; unlabeled ones with a teacher."""
        return ((0.9 + 1) * len(self.reviews) + 2 * self.unlabeled) * self.epochs

    def shares(self) -> dict[str, float]:
        """Share of the CPU time by operator, the five largest first."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self.round()
        events = profile.key_averages()
        total = sum(event.self_cpu_time_total for event in events)
        largest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:5]
        return {event.key: round(event.self_cpu_time_total / total, 3) for event in largest}


def through_the_maximum(convolution: nn.Conv1d, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What `max_over_time` gives, as it is written everywhere."""
    return convolution(words.transpose(1, 2)).masked_fill(~mask.unsqueeze(1), float("-inf")).amax(-1)


def _lstm(sequence, input_weights, hidden_weights, *_, out_shape=None, **__) -> int:
    """Of oneDNN's fused layer: sequence (time, batch, width), weights (4 hidden, width) and (4 hidden, hidden)."""
    time, batch, _ = sequence
    return 2 * time * batch * (input_weights[0] * input_weights[1] + hidden_weights[0] * hidden_weights[1])


UNCOUNTED = {
    torch.ops.aten.mkldnn_rnn_layer: _lstm,
    torch.ops.aten.mkldnn_rnn_layer_backward: lambda *shapes, **rest: 2 * _lstm(*shapes),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        lambda query, key, value, *_, out_shape=None, **__: sdpa_flop_count(query, key, value),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
        lambda gradient, query, key, value, *_, out_shape=None, **__: sdpa_backward_flop_count(gradient, query, key, value),
}  # fmt: skip
"""what torch's own counter leaves out on a CPU"""

variant: Variant  # of this process


def start_worker(*arguments) -> None:
    """Makes the process's variant."""
    global variant
    variant = Variant(*arguments)


def ask(method: str, *arguments):
    """Calls a method of the process's variant."""
    return getattr(variant, method)(*arguments)


def matmul_rate(precision: str) -> float:
    """FLOP/s of a product of two matrices of 2,048 x 2,048, the median of ten."""
    where = "cuda" if torch.cuda.is_available() else "cpu"
    kind = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    one, other = (torch.randn(2048, 2048, device=where, dtype=kind) for _ in range(2))
    seconds = []
    for _ in range(12):
        start = time.monotonic()
        (one @ other)[0, 0].item()
        seconds.append(time.monotonic() - start)
    return 2 * 2048**3 / statistics.median(seconds[2:])


def compare(script: str, config: Config) -> dict:
    """The two variants of one model, round by round."""
    pools = {
        name: ProcessPoolExecutor(1, get_context("spawn"), start_worker, (script, name == "common practice", config))
        for name in ("common practice", "ours")
    }
    speeds = {name: [] for name in pools}
    for turn in range(-1, config.rounds):
        for name, pool in pools.items():
            speed = pool.submit(ask, "round").result()
            if turn >= 0:  # the first turn only warms up
                speeds[name].append(speed)
    median = {name: statistics.median(values) for name, values in speeds.items()}
    flop, shares, reviews = (pools["ours"].submit(ask, what).result() for what in ("flop", "shares", "reviews_of_a_run"))
    for pool in pools.values():
        pool.shutdown()
    return {
        "reviews_per_second": speeds, "median": median, "times_common_practice": median["ours"] / median["common practice"],
        "flop_per_review": flop, "flop_per_second": flop * median["ours"], "share_of_cpu_time": shares,
        "t4_minutes_estimate": flop * reviews / T4 / 60,
    }  # fmt: skip


def main(config: Config) -> None:
    precision = hardware.mixed_precision("auto")
    rate = matmul_rate(precision)
    models = {script: compare(script, config) for script in MODELS}
    table = Table(
        "model", "common practice, reviews/s", "ours", "times", "MFLOP a review", "GFLOP/s", "share of a matrix product's",
        "T4, minutes a run (estimate)",
    )  # fmt: skip
    for script, figures in models.items():
        figures["share_of_matmul_rate"] = figures["flop_per_second"] / rate
        table.add_row(
            script, *(f"{figures['median'][name]:.0f} ({min(values):.0f} to {max(values):.0f})"
                      for name, values in figures["reviews_per_second"].items()),
            f"{figures['times_common_practice']:.1f}", f"{figures['flop_per_review'] / 1e6:.0f}",
            f"{figures['flop_per_second'] / 1e9:.0f}", f"{figures['share_of_matmul_rate']:.0%}",
            f"{figures['t4_minutes_estimate']:.1f}",
        )  # fmt: skip
    make_console(130).print(table)
    content = {
        "machine": hardware.processor(), "torch": torch.__version__, "threads": torch.get_num_threads(), "precision": precision,
        "matmul_flop_per_second": rate, "models": models,
    }  # fmt: skip
    write_json(config.output, content)


if __name__ == "__main__":
    main(parse(Config))
