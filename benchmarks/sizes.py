"""What fine-tuning takes at the real models' sizes on a GPU: reviews/s and memory in an epoch of all reviews, 512 tokens long.

The weights are random and the tokenizer is MiniLM's, that of bert-base-uncased: speed and memory need no more, and no score is
given. RoBERTa's own subwords would be other ones, about as many. The process may use no more of the GPU's memory than a
smaller GPU has. The time that such a GPU takes for three epochs is estimated from the FLOP. Writes results/benchmarks/sizes.json
after every row; the same command goes on where it was stopped.
"""

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoTokenizer, BertConfig, DistilBertConfig, PretrainedConfig, RobertaConfig

from benchmarks.layouts import minilm
from benchmarks.recipes import SCRIPTS, load_without_test, recorded
from popcorn.config import parse
from popcorn.data.splits import Split
from popcorn.kaggle.plan import GIB, GPUS
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.hf_trainer import FineTuner, HFTrainer
from popcorn.utils import hardware
from popcorn.utils.console import make_console
from popcorn.utils.files import write_json
from popcorn.utils.scripts import load_script

EPOCHS = 3
WARM_UP = 640  # reviews: an H100's first steps were seen to take forty seconds, for whatever is loaded in them
LENGTHS = 16  # of all reviews, evenly from the shortest to the longest, whose FLOP stand for all


@dataclass
class Config:
    """What to measure."""

    data_dir: Path | None = None
    """folder with the competition's files"""
    families: tuple[str, ...] = ("bert", "distilbert", "roberta")
    """bert, distilbert, roberta"""
    precisions: tuple[Literal["bf16", "fp16", "fp32"], ...] = ("bf16", "fp16")
    """each is measured; a T4 has no bf16"""
    reviews: int = 25_000
    """training reviews of an epoch"""
    max_length: int = 512
    """of a review"""
    memory: float = 16.0
    """GiB of the GPU that may be used"""
    output: Path = Path("results/benchmarks/sizes.json")
    """file that receives the figures"""
    work: Path = Path("runs/sizes")
    """folder for checkpoints"""


SIZES = {
    "bert": BertConfig(),
    "distilbert": DistilBertConfig(),
    "roberta": RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1, pad_token_id=0),
}
"""of bert-base-uncased, distilbert-base-uncased and roberta-base; the padding's id is the tokenizer's"""
T4 = GPUS[0]


def with_random_weights(family: str, folder: Path) -> Path:
    """A checkpoint of the family's base size, and MiniLM's tokenizer."""
    torch.manual_seed(1)
    AutoModel.from_config(SIZES[family]).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm()).save_pretrained(folder)
    return folder


def flop_of_training(sizes: PretrainedConfig, lengths: np.ndarray) -> float:
    """Multiplications and additions for a review, counted in shapes alone: the backward pass takes twice the forward pass."""
    with torch.device("meta"):
        model = AutoModel.from_config(sizes)
    counted = []
    for length in np.sort(lengths)[:: max(1, len(lengths) // LENGTHS)]:
        with FlopCounterMode(display=False) as counter:
            model(torch.ones(1, int(length), dtype=torch.long, device="meta"))
        counted.append(3 * counter.get_total_flops())
    return float(np.mean(counted))


def measure(family: str, precision: str, config: Config) -> dict:
    """One epoch of the script's own recipe, on the reviews that it would train on."""
    work = config.work / family
    shutil.rmtree(work, ignore_errors=True)  # of a row that was stopped nothing is taken up
    script = load_script(SCRIPTS[family])
    options = script.Config(
        model=str(with_random_weights(family, work / "base")), data_dir=config.data_dir, output_dir=work, epochs=1,
        max_length=config.max_length, precision=precision, name=family, checkpoint_every=sys.maxsize,
    )  # fmt: skip
    task = FinetuningTask(script.build, options)
    load_without_test(task)
    rows = np.sort(np.random.default_rng(0).permutation(len(task.labels))[: config.reviews])
    pieces = []

    class CountingFineTuner(FineTuner):
        def __init__(self, model, groups, batches, *others, **named):
            pieces.append(batches.accumulation)
            super().__init__(model, groups, batches, *others, **named)

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(config.memory * GIB / torch.cuda.get_device_properties(0).total_memory)
        torch.cuda.reset_peak_memory_stats()
    trainer = HFTrainer(script.training_arguments)
    trainer.trainer_class = CountingFineTuner
    trainer.set_up(task, work, float("inf"))
    trainer.fit(Split("warm-up", rows[:WARM_UP], rows[:0]))
    start = time.monotonic()
    result = trainer.fit(Split("refit", rows, rows[:0]))
    seconds = time.monotonic() - start
    flop = flop_of_training(SIZES[family], task.train.lengths[rows])
    return {
        "reviews_per_second": result.reviews_per_second, "seconds": seconds, "peak_memory": hardware.peak_memory(),
        "reserved_memory": torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None,
        "micro_batch_size": -(-options.batch_size // pieces[-1]), "batch_size": options.batch_size, "flop_per_review": flop,
        "flop_per_second": flop * result.reviews_per_second, "mean_tokens": float(task.train.lengths[rows].mean()),
        "t4_hours_estimate": flop * EPOCHS * len(task.labels) / T4.rate / 3600,
    }  # fmt: skip


def main(config: Config) -> None:
    head = {
        "weights": "random, of the base sizes", "machine": hardware.processor(), "torch": torch.__version__,
        "reviews": config.reviews, "max_length": config.max_length, "memory_gib": config.memory, "warm_up": WARM_UP,
    }  # fmt: skip
    rows = recorded(config.output, head)
    table = Table(
        "base size", "precision", "reviews/s", f"minutes for {EPOCHS} epochs", "peak memory, GiB", "of, GiB", "micro-batch",
        "TFLOP/s", "hours on a T4 (estimate)",
    )  # fmt: skip
    for precision in config.precisions:
        for family in config.families:
            name = f"{family}, {precision}"
            if name not in rows:
                rows[name] = measure(family, precision, config)
                write_json(config.output, head | {"rows": rows})
            row = rows[name]
            table.add_row(
                family, precision, f"{row['reviews_per_second']:.0f}", f"{EPOCHS * row['seconds'] / 60:.1f}",
                f"{row['peak_memory'] / GIB:.1f}", f"{config.memory:.0f}", str(row["micro_batch_size"]),
                f"{row['flop_per_second'] / 1e12:.0f}", f"{row['t4_hours_estimate']:.1f}",
            )  # fmt: skip
    make_console().print(table)


if __name__ == "__main__":
    main(parse(Config))
