"""Reviews/s and peak memory at the real models' sizes on a GPU, against the plan.

Weights and tokens are random: speed and memory need no more, and there is no score. Batches have the lengths of the training
reviews, and cost no time to make. All weights are trained at base size, and LoRA on deberta-v2-xxlarge in 8 bits. Hours on two
T4s follow from the ratio of the rates: this GPU's measured matrix product, and a T4's peak. Writes results/benchmarks/gpu.json
after every row; the same command continues a stopped one. It takes at most twelve minutes.
"""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from benchmarks.recipes import recorded
from popcorn.config import parse
from popcorn.errors import UserError, first_line, is_out_of_memory, log
from popcorn.kaggle import plan
from popcorn.kaggle.plan import GIB, LENGTHS, REVIEWS, T4_PEAK, Machine
from popcorn.memory_estimate import Arithmetic, Step, autocast_loss, step
from popcorn.models.published_sizes import PUBLISHED
from popcorn.training.adapters import build_adapter
from popcorn.training.memory import recompute_activations
from popcorn.training.review_trainer import RECOMPUTE
from popcorn.utils import hardware
from popcorn.utils.console import make_console
from popcorn.utils.files import write_json
from popcorn.utils.scripts import load_script

BATCH, MAX_GRAD_NORM = 32, 1.0
ADAPTED = "microsoft/deberta-v2-xxlarge"
LATEST_START = 150  # seconds before the end, in which a row is not started: loading the largest model takes one or two minutes
TINY = {
    "hidden_size": 32, "pooler_hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": 500, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "cls_token_id": None, "sep_token_id": None,
}  # fmt: skip


@dataclass
class Config:
    """What to measure."""

    models: tuple[str, ...] = (
        "bert-base-uncased", "roberta-base", "answerdotai/ModernBERT-base", "microsoft/deberta-v3-base", ADAPTED,
    )  # fmt: skip
    """of the published sizes; deberta-v2-xxlarge is trained with LoRA"""
    memory: float = 16.0
    """GiB of the GPU that may be used"""
    precision: Literal["fp16", "bf16"] = "fp16"
    """mixed precision on a GPU; a T4 has no bf16"""
    seconds: float = 60.0
    """training time of a row, after the warm-up"""
    minutes: float = 12.0
    """time of all rows"""
    tiny: bool = False
    """use small sizes, to try the command on a CPU"""
    output: Path = Path("results/benchmarks/gpu.json")
    """file for the results"""
    work: Path = Path("runs/gpu")
    """folder for random checkpoints"""


@dataclass
class Recipe:
    """A model to train, and how."""

    build: Callable[[], nn.Module]
    """the model on its device"""
    step_of: Callable[[int, int, bool], Step]
    """the plan's step: number of reviews, length, and whether activations are recomputed"""
    arithmetic: Arithmetic
    max_length: int
    epochs: int


def recipe_of(model: str, config: Config) -> Recipe:
    """Full fine-tuning at 512 tokens, or LoRA in 8 bits at 256."""
    on_gpu = torch.cuda.is_available()
    precision = config.precision if on_gpu else hardware.mixed_precision("auto")
    content = PUBLISHED[model] | {"num_labels": 2} | (TINY if config.tiny else {})
    sizes = AutoConfig.for_model(**content)
    scale = 16 if config.tiny else 1
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.manual_seed(1)
    if model != ADAPTED:
        arithmetic = Arithmetic(precision, on_gpu)

        def step_of(reviews: int, length: int, recomputed: bool) -> Step:
            return step(lambda: on_meta(sizes), reviews, length, arithmetic, recomputed, accumulated=reviews < BATCH)

        return Recipe(
            lambda: AutoModelForSequenceClassification.from_config(sizes).to(device), step_of, arithmetic, 512 // scale, epochs=3
        )
    script, folder = load_script("deberta_lora"), config.work / model.replace("/", "--")
    options = script.Config(model=str(folder), precision=precision if precision != "no" else "fp32", bits=8)
    arithmetic = Arithmetic(precision, on_gpu, bits=8)
    if not (folder / "config.json").is_file():  # written last
        AutoModelForSequenceClassification.from_config(sizes, dtype=torch.float16).save_pretrained(folder)
    return Recipe(
        lambda: build_adapter(script.peft_config, options, folder).to(device),
        lambda reviews, length, recomputed: plan.training_step(
            script, options, folder, reviews, length, arithmetic, recomputed, accumulated=reviews < BATCH
        ),
        arithmetic, options.max_length // scale, options.epochs,
    )  # fmt: skip


def on_meta(sizes) -> nn.Module:
    """The classifier without data."""
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(sizes)


def matrix_rate(arithmetic: Arithmetic) -> float:
    """FLOP/s of a large matrix product in the precision of training."""
    on_gpu = arithmetic.on_gpu
    size, dtype = (8192, torch.float16) if on_gpu else (512, torch.float32)
    one = torch.ones(size, size, dtype=dtype, device="cuda" if on_gpu else "cpu")
    seconds = []
    for _ in range(10):
        start = time.monotonic()
        one @ one
        synchronize()
        seconds.append(time.monotonic() - start)
    return 2 * size**3 / min(seconds)


def synchronize() -> None:
    """Waits for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Trainer:
    """Trains on batches of random tokens, each batch of one length."""

    def __init__(self, model: nn.Module, micro_batch_size: int, arithmetic: Arithmetic):
        self.model, self.micro_batch_size, self.arithmetic = model.train(), micro_batch_size, arithmetic
        self.trainable = [weights for weights in model.parameters() if weights.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trainable, lr=1e-5, fused=True)
        self.device = self.trainable[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=arithmetic.precision == "fp16" and arithmetic.on_gpu)

    def train(self, lengths: np.ndarray) -> None:
        """One step of `BATCH` reviews for each length."""
        for length in lengths:
            for tokens in self.micro_batches(int(length)):
                loss = autocast_loss(self.model, tokens, self.arithmetic) * len(tokens) / BATCH
                self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.trainable, MAX_GRAD_NORM)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
        synchronize()

    def micro_batches(self, length: int) -> Iterator[Tensor]:
        """Tokens (micro-batch, length)."""
        return torch.randint(10, 400, (BATCH, length), device=self.device).split(self.micro_batch_size)


def measure(recipe: Recipe, config: Config) -> dict:
    """Speed and memory with the largest micro-batch that fits, starting from the plan's."""
    machine = Machine("", config.memory * GIB, 1.0, recipe.arithmetic)
    found = plan.fitting(lambda size, recomputed: recipe.step_of(size, recipe.max_length, recomputed).peak, machine, BATCH)
    planned = size = found[0] if found else 1
    rates = None
    while rates is None:
        try:
            rates = train_for(recipe, size, config.seconds)
        except Exception as problem:
            if not is_out_of_memory(problem) or size == 1:
                raise
        if rates is None:
            size //= 2
            log(f"Out of memory: trying micro-batches of {size}")
        clear_gpu()
    speed, peak = rates
    taken = recipe.step_of(size, recipe.max_length, is_recomputed(size))
    flop = plan.mean_flop(lambda length: recipe.step_of(size, length, is_recomputed(size)).flop / size, recipe.max_length)
    rate = matrix_rate(recipe.arithmetic)
    return {
        "reviews_per_second": speed, "peak_memory": peak, "planned_peak_memory": taken.peak, "micro_batch_size": size,
        "planned_micro_batch_size": planned, "recomputed": is_recomputed(size), "max_length": recipe.max_length,
        "epochs": recipe.epochs, "flop_per_review": flop, "flop_per_second": flop * speed, "matmul_flop_per_second": rate,
        "t4_x2_hours": recipe.epochs * REVIEWS / speed * rate / (2 * T4_PEAK) / 3600,
    }  # fmt: skip


def is_recomputed(size: int) -> bool:
    """Whether training recomputes activations with micro-batches of this size."""
    return size <= RECOMPUTE


def train_for(recipe: Recipe, size: int, seconds: float) -> tuple[float, int]:
    """Reviews/s over the usual lengths, and peak memory in bytes at the maximum length."""
    model = recipe.build()
    if is_recomputed(size):
        recompute_activations(model)
    trainer = Trainer(model, size, recipe.arithmetic)
    lengths = LENGTHS.clip(max=recipe.max_length)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer.train(lengths[-2:])  # the longest
    peak = hardware.peak_memory()
    trainer.train(lengths)  # loads the kernels of all lengths
    steps, start = 0, time.monotonic()
    while not steps or time.monotonic() - start < seconds:
        trainer.train(lengths)
        steps += len(lengths)
    return steps * BATCH / (time.monotonic() - start), peak


def clear_gpu() -> None:
    """Frees the memory of an earlier model."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main(config: Config) -> None:
    start = time.monotonic()
    if unknown := set(config.models) - PUBLISHED.keys():
        raise UserError(f"--models {min(unknown)} is unknown: give some of {', '.join(PUBLISHED)}")
    if torch.cuda.is_available():
        hardware.require_gpu_kernels()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, config.memory * GIB / total))
    head = {
        "weights": "random, of the published sizes" if not config.tiny else "random, tiny", "machine": hardware.processor(),
        "torch": torch.__version__, "memory_gib": config.memory, "precision": config.precision, "batch_size": BATCH,
    }  # fmt: skip
    rows = recorded(config.output, head)
    for model in config.models:
        if model in rows or time.monotonic() - start > 60 * config.minutes - LATEST_START:
            continue
        try:
            rows[model] = measure(recipe_of(model, config), config)
        except (RuntimeError, ValueError, UserError) as problem:  # the other rows count all the same
            log(f"{model}: {first_line(problem)}")
            continue
        finally:
            clear_gpu()
        write_json(config.output, head | {"rows": rows})
    table = Table("model", "reviews/s", "peak, GiB", "plan, GiB", "micro-batch", "plan", "epochs", "hours, T4 x2")
    for model, row in rows.items():
        table.add_row(
            model, f"{row['reviews_per_second']:.0f}", f"{row['peak_memory'] / GIB:.2f}",
            f"{row['planned_peak_memory'] / GIB:.2f}", str(row["micro_batch_size"]), str(row["planned_micro_batch_size"]),
            str(row["epochs"]), f"{row['t4_x2_hours']:.2f}",
        )  # fmt: skip
    make_console().print(table)


if __name__ == "__main__":
    main(parse(Config))
