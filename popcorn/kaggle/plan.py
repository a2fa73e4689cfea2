"""Estimates memory and time of the pretrained scripts' training, without GPU and weights.

A step of the script's own model is computed with shapes alone (popcorn/memory_estimate.py). Of a frozen model one with one layer
and one with two are computed: each further layer adds as much as the second one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import psutil
import torch
from rich.table import Table
from transformers import PreTrainedConfig

from popcorn.config import FrozenConfig, PretrainedConfig, ZeroShotConfig
from popcorn.kaggle.model_config import config_folder
from popcorn.memory_estimate import Arithmetic, Step, adapter_on_meta, classifier_on_meta, frozen_on_meta, prediction, step
from popcorn.models.pretrained import architecture
from popcorn.training.review_trainer import RECOMPUTE
from popcorn.utils import hardware
from popcorn.utils.console import make_console
from popcorn.utils.scripts import load_script, model_scripts

GIB = 2**30
REVIEWS = 25_000
"""reviews in the training file, and in the test file"""
LENGTHS = np.array(
    [67, 100, 130, 146, 156, 166, 175, 186, 199, 214, 230, 251, 275, 304, 340, 386, 443, 527, 655, 945]
)  # fmt: skip
"""tokens of a training review: medians of twenty equal groups, with BERT's tokenizer"""
OVERHEAD = 0.7 * GIB
"""memory of a GPU's driver, its libraries and memory fragmentation, from experience"""
T4_PEAK = 65e12
"""FLOP/s of a T4 in fp16"""
MFU = 0.15
"""model FLOPs utilization: fraction of a T4's peak rate that training reaches

A public measurement on Kaggle has 14%: ModernBERT-base in fp16, 32 texts of 128 tokens in 0.30 s
(earino.github.io/applied-deep-learning, "Your T4 Training Is 4x Slower Than It Should Be")."""
BYTES = {4: 0.5 + 4 / 64, 8: 1.0}
"""bytes of a quantized weight: NF4 has a float32 scale for every 64 weights"""
FROZEN = FrozenConfig, ZeroShotConfig
"""options of the scripts whose weights may be quantized"""
PlannedConfig = PretrainedConfig | ZeroShotConfig
SESSION = 12
"""hours of a Kaggle session"""


@dataclass(frozen=True)
class Machine:
    """A GPU or CPU to train on."""

    name: str
    memory: float
    """bytes of each device"""
    rate: float
    """FLOP/s of each device in training"""
    arithmetic: Arithmetic
    """mixed precision, and default bits of frozen weights"""
    count: int = 1
    """number of devices"""


T4 = Machine("T4", 15 * GIB, MFU * T4_PEAK, Arithmetic("fp16", on_gpu=True, bits=8))
T4_X2 = replace(T4, name="T4 x2", count=2)


@dataclass(frozen=True)
class Estimate:
    """What a script's training takes on a machine."""

    micro_batch_size: int
    recomputed: bool
    """whether activations are recomputed"""
    peak: float
    """bytes on each device, with everything"""
    epoch_hours: float
    run_hours: float


def this_machine() -> Machine:
    """This machine's memory, and half the speed of its matrix product.

    CPU training reaches about half of it.
    """
    one = torch.randn(2048, 2048)
    seconds = []
    for _ in range(4):
        start = time.monotonic()
        one @ one
        seconds.append(time.monotonic() - start)
    rate = 0.5 * 2 * 2048**3 / min(seconds)
    return Machine("this CPU", psutil.virtual_memory().total, rate, Arithmetic(hardware.mixed_precision("auto")))


def training_step(
    script: ModuleType, config: PretrainedConfig, checkpoint: Path, reviews: int, length: int, arithmetic: Arithmetic,
    recomputed: bool = False, accumulated: bool = False,
) -> Step:  # fmt: skip
    """A step of the whole model on reviews of one length, in tokens; reads only config.json.

    `accumulated`: whether there are gradients of an earlier micro-batch.
    """
    how = arithmetic, recomputed, accumulated
    if not isinstance(config, FrozenConfig):
        return step(lambda: classifier_on_meta(script, config, checkpoint), reviews, length, *how)
    sizes = architecture(checkpoint, num_labels=2)
    config.checkpoint = checkpoint  # PEFT's configurations name it
    one, two = (
        step(lambda depth=depth: adapter_on_meta(script, config, of_depth(sizes, depth)), reviews, length, *how)
        for depth in (1, 2)
    )
    return all_layers(one, two, sizes, arithmetic)


def prediction_step(checkpoint: Path, reviews: int, length: int, arithmetic: Arithmetic) -> Step:
    """A forward pass of a whole frozen model on reviews of the same length, in tokens."""
    sizes = architecture(checkpoint)
    one, two = (
        prediction(lambda depth=depth: frozen_on_meta(of_depth(sizes, depth)), reviews, length, arithmetic) for depth in (1, 2)
    )
    return all_layers(one, two, sizes, arithmetic)


def all_layers(one: Step, two: Step, sizes: PreTrainedConfig, arithmetic: Arithmetic) -> Step:
    """The step of a whole frozen model, from those with one layer and with two."""
    more = sizes.num_hidden_layers - 1
    whole = Step(*(getattr(one, name) + more * (getattr(two, name) - getattr(one, name)) for name in Step.__annotations__))
    if arithmetic.bits not in BYTES:
        return whole
    itemsize = arithmetic.frozen_dtype.itemsize
    # nearly all frozen weights of a layer are in its quantized matrices
    saved = sizes.num_hidden_layers * (two.frozen - one.frozen) * (itemsize - BYTES[arithmetic.bits])
    dequantized = itemsize * sizes.hidden_size * sizes.intermediate_size  # the largest matrix, while it is multiplied
    return replace(whole, peak=whole.peak - saved + dequantized)


def of_depth(sizes: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The same configuration with N layers."""
    settings = {name: value for name, value in sizes.to_dict().items() if name != "layer_types"}
    return type(sizes)(**(settings | {"num_hidden_layers": layers}))


def fitting(peak_of: Callable[[int, bool], float], machine: Machine, batch_size: int) -> tuple[int, bool, float] | None:
    """The largest micro-batch that fits, whether it recomputes activations, and its memory in bytes.

    None where none fits.
    """
    size = largest = ceil(batch_size / machine.count)
    while size:
        recomputed = size < largest and size <= RECOMPUTE
        peak = peak_of(size, recomputed) + OVERHEAD
        if peak <= machine.memory:
            return size, recomputed, peak
        size //= 2
    return None


def mean_flop(flop: Callable[[int], float], longest: int) -> float:
    """The mean FLOP of reviews that are cut to `longest` tokens.

    `flop`: of a review by its length. It has a linear and a quadratic part, which two lengths determine.
    """
    half = max(1, longest // 2)
    at_half, at_longest = flop(half), flop(longest)
    quadratic = (at_longest / longest - at_half / half) / max(1, longest - half)
    linear = at_longest / longest - quadratic * longest
    lengths = np.minimum(LENGTHS, longest)
    return float(np.mean(linear * lengths + quadratic * lengths**2))


def hours_of(flop: float, forward: float, machine: Machine, epochs: int) -> tuple[float, float]:
    """Hours of an epoch and of a run, from a review's mean FLOP in total and forward.

    A run validates on a tenth, trains on all reviews for the same number of epochs, and predicts the test set twice.
    """
    epoch = flop * REVIEWS / machine.rate / machine.count / 3600
    return epoch, epoch * (1.9 * epochs + forward / flop * (0.1 * epochs + 2))


def estimate(script: ModuleType, config: PlannedConfig, machine: Machine, checkpoint: Path) -> Estimate | None:
    """Memory and hours of a script's recipe on a machine; None where not even one review fits."""
    arithmetic = replace(machine.arithmetic, bits=bits_of(config, machine) if isinstance(config, FROZEN) else 32)
    if isinstance(config, ZeroShotConfig):
        return estimate_prediction(config, machine, checkpoint, arithmetic)
    steps: dict[int, Step] = {}

    def peak_of(reviews: int, recomputed: bool) -> float:
        accumulated = reviews * machine.count < config.batch_size
        taken = training_step(script, config, checkpoint, reviews, config.max_length, arithmetic, recomputed, accumulated)
        steps[config.max_length] = taken
        # several devices exchange gradients in buckets, which are as large as the gradients
        return taken.peak + (4 * taken.trainable if machine.count > 1 else 0)

    found = fitting(peak_of, machine, config.batch_size)
    if found is None:
        return None
    reviews, recomputed, peak = found

    def flop(length: int) -> float:
        if length not in steps:
            steps[length] = training_step(script, config, checkpoint, reviews, length, arithmetic, recomputed)
        return steps[length].flop / reviews

    longest = steps[config.max_length]
    mean = mean_flop(flop, config.max_length)
    epoch, run = hours_of(mean, mean * longest.forward / longest.flop, machine, config.epochs)
    return Estimate(reviews, recomputed, peak, epoch, run)


def estimate_prediction(
    config: ZeroShotConfig, machine: Machine, checkpoint: Path, arithmetic: Arithmetic
) -> Estimate | None:  # fmt: skip
    """Memory and hours of a script that only predicts: test set, and a tenth of the training file."""

    def peak_of(reviews: int, recomputed: bool) -> float:
        return prediction_step(checkpoint, reviews, config.max_length, arithmetic).peak

    found = fitting(peak_of, machine, config.batch_size * machine.count)  # the batch of each device
    if found is None:
        return None
    mean = mean_flop(lambda length: prediction_step(checkpoint, 1, length, arithmetic).flop, config.max_length)
    hours = mean * 1.1 * REVIEWS / machine.rate / machine.count / 3600
    return Estimate(found[0], False, found[2], 0.0, hours)


def pretrained_scripts() -> list[ModuleType]:
    """The repository's scripts that use a pretrained model."""
    scripts = [load_script(name) for name in model_scripts()]
    return [script for script in scripts if issubclass(getattr(script, "Config", object), PlannedConfig)]


def show(configs: dict[str, PlannedConfig]) -> None:
    """Prints what each script takes: one on several machines, or several on Kaggle's two T4s with their sum.

    `configs`: options by the script's name. Raises `UserError` for a model whose config.json is not at hand.
    """
    machines = (T4, T4_X2, this_machine()) if len(configs) == 1 else (T4_X2,)
    table = Table("script", "on", "precision", "micro-batch", "recomputed", "GiB a device", "hours/epoch", "hours/run")
    hours = []
    with TemporaryDirectory() as work:
        for name, config in configs.items():
            checkpoint = config_folder(config.model, config.MODEL_TYPE, Path(work))
            for machine in machines:
                found = estimate(load_script(name), config, machine, checkpoint)
                row = (name, machine.name, precision_of(config, machine))
                memory = f"of {machine.memory / GIB:.0f}"
                if found is None:
                    table.add_row(*row, "none fits", "", memory, "", "")
                    continue
                hours.append(found.run_hours)
                table.add_row(
                    *row, str(found.micro_batch_size), "yes" if found.recomputed else "no", f"{found.peak / GIB:.1f} {memory}",
                    f"{found.epoch_hours:.2f}" if found.epoch_hours else "-", f"{found.run_hours:.2f}",
                )  # fmt: skip
    console = make_console()
    console.print(table)
    if len(configs) > 1:
        console.print(
            f"{len(hours)} scripts on {T4_X2.name}: {sum(hours):.1f} GPU hours, or {ceil(sum(hours) / SESSION)} Kaggle sessions "
            f"of {SESSION} hours."
        )
    console.print(
        f"This is an estimate. Memory: all tensors of a step at the maximum length, plus {OVERHEAD / GIB:.1f} GiB. Time: reviews "
        f"of the usual lengths at {MFU:.0%} of a GPU's peak (half of this machine's matrix product), without the cost of "
        "dequantizing weights. A run has all epochs with validation, as many for the refit, and the predictions. Micro-batches "
        "are those of each device."
    )


def precision_of(config: PlannedConfig, machine: Machine) -> str:
    """The mixed precision, and the bits of frozen weights."""
    precision = "fp32" if machine.arithmetic.precision == "no" else machine.arithmetic.precision
    return f"{precision}, {bits_of(config, machine)} bits" if isinstance(config, FROZEN) else precision


def bits_of(config: PlannedConfig, machine: Machine) -> int:
    """Bits of a frozen weight."""
    return getattr(config, "bits", None) or machine.arithmetic.bits
