"""Estimates memory and time of an adapter's training, without GPU and weights.

A step of the script's own model is computed with shapes alone (popcorn/memory_estimate.py), with one layer and with two. Each
further layer adds as much as the second one.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import psutil
import torch
from rich.table import Table
from transformers import DebertaV2Config

from popcorn.config import AdapterConfig
from popcorn.errors import UserError
from popcorn.memory_estimate import Step, step
from popcorn.models.deberta_sizes import PUBLISHED
from popcorn.models.hub import CONFIG, not_fetched, read_config
from popcorn.models.pretrained import architecture
from popcorn.training.review_trainer import RECOMPUTE
from popcorn.utils import hardware
from popcorn.utils.console import make_console
from popcorn.utils.packages import needs

GIB = 2**30
TIMEOUT = 5  # seconds to wait for the hub
REVIEWS = 25_000
"""reviews in the training file, and in the test file"""
OVERHEAD = 0.7 * GIB
"""memory of a GPU's driver, its libraries and memory fragmentation, from experience"""
MFU = 0.3
"""model FLOPs utilization: fraction of a GPU's peak rate that training reaches, from experience"""
BYTES = {4: 0.5 + 4 / 64, 8: 1.0}
"""bytes of a quantized weight: NF4 has a float32 scale for every 64 weights"""


@dataclass(frozen=True)
class Machine:
    """A GPU or CPU to train on."""

    name: str
    memory: float
    """bytes of each device"""
    rate: float
    """FLOP/s of each device in training"""
    bits: int
    """default bits of the frozen weights"""
    count: int = 1
    """number of devices"""


GPUS = (
    Machine("T4", 15 * GIB, MFU * 65e12, 8),
    Machine("2 x T4", 15 * GIB, MFU * 65e12, 8, count=2),
    Machine("P100", 16 * GIB, MFU * 18.7e12, 4),
)


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
    return Machine("this machine's CPU", psutil.virtual_memory().total, 0.5 * 2 * 2048**3 / min(seconds), 32)


def training_step(
    script: ModuleType, config: AdapterConfig, sizes: DebertaV2Config, reviews: int, bits: int, recomputed: bool
) -> Step:
    """The step of the whole model: every layer adds as much as the second one.

    A recomputed layer adds only its input. Activations count in float32. With autocast some of them are half as large, but not
    all: layer norms and softmax return float32 on a GPU, and so do quantized matrices after them.
    """
    one, two = (step(script, config, of_depth(sizes, depth), reviews) for depth in (1, 2))
    more = sizes.num_hidden_layers - 1
    peak, flop = one.peak + more * (two.peak - one.peak), one.flop + more * (two.flop - one.flop)
    forward = one.forward + more * (two.forward - one.forward)
    frozen = one.frozen + more * (two.frozen - one.frozen)
    if recomputed:
        inputs = 4 * reviews * config.max_length * sizes.hidden_size
        trainable = two.trainable - one.trainable
        # trainable parameters have a value, a gradient and AdamW's two means; a prefix has a copy per review, and its gradient
        trained = 4 * trainable * (4 + 2 * reviews * two.is_prefix)
        peak, flop = one.peak + more * (4 * (two.frozen - one.frozen) + inputs + trained), flop + forward
    matrices = sizes.num_hidden_layers * layer_matrices(sizes)
    others = 4 if config.precision == "fp32" else 2  # bytes of a frozen weight that is not quantized
    if bits in BYTES:
        peak -= matrices * (4 - BYTES[bits]) + (frozen - matrices) * (4 - others)
        peak += others * sizes.hidden_size * sizes.intermediate_size  # the largest matrix is dequantized while it is multiplied
    elif bits == 16:
        peak -= 2 * frozen
    return replace(one, peak=peak, forward=forward, flop=flop, frozen=frozen)


def of_depth(sizes: DebertaV2Config, layers: int) -> DebertaV2Config:
    """The same configuration with N layers."""
    return DebertaV2Config(**(sizes.to_dict() | {"num_hidden_layers": layers}))


def layer_matrices(sizes: DebertaV2Config) -> int:
    """Number of weights in a layer's matrices: four for attention, two for feed-forward."""
    return 4 * sizes.hidden_size**2 + 2 * sizes.hidden_size * sizes.intermediate_size


def sizes_of(model: str) -> DebertaV2Config:
    """The model's configuration: from a folder, from a published size, or from the hub.

    Raises `UserError` where there is none, or it has another model type.
    """
    path = Path(model) / CONFIG
    if not path.is_file() and model in PUBLISHED:
        return DebertaV2Config(**(PUBLISHED[model] | {"num_labels": 2}))
    if not path.is_file():
        if Path(model).exists():
            raise UserError(f"--model {model} is not a folder with a {CONFIG}: give one, or a model of the hub")
        path = _from_hub(model)
    found = read_config(path)
    if found.get("model_type") != "deberta-v2":
        raise UserError(f"{path} is of the family {found.get('model_type')!r}, and the plan is made for 'deberta-v2' models")
    return architecture(path.parent, num_labels=2)


def _from_hub(model: str) -> Path:
    """The model's config.json, from the hub or its cache; raises `UserError` where neither has it."""
    with needs("huggingface_hub", f"--model {model}, which is not a folder here,"):
        from huggingface_hub import HfApi, hf_hub_download
    with suppress(Exception):
        return Path(hf_hub_download(model, CONFIG, local_files_only=True))
    try:
        HfApi().model_info(model, timeout=TIMEOUT)  # the download itself would retry for a long time
        return Path(hf_hub_download(model, CONFIG))
    except Exception as problem:  # from the network, its client, or a wrong name
        raise UserError(f"the plan needs the model's {CONFIG}, and {not_fetched(model, problem)}") from problem


def fitting(step_of: Callable[[int, bool], Step], machine: Machine, batch_size: int) -> tuple[int, bool, Step] | None:
    """The largest micro-batch that fits, whether it recomputes activations, and its step.

    None where none fits. With one device the training finds it by itself; with several, `--micro-batch-size` sets it.
    """
    size = largest = -(-batch_size // machine.count)
    while size:
        recomputed = size < largest and size <= RECOMPUTE
        taken = step_of(size, recomputed)
        if taken.peak + OVERHEAD <= machine.memory:
            return size, recomputed, taken
        size //= 2
    return None


def hours_of(taken: Step, reviews: int, machine: Machine, epochs: int) -> tuple[float, float]:
    """Hours of an epoch, and of a whole run.

    A run validates on a tenth, trains on all reviews for the same number of epochs, and predicts the test set twice.
    """
    epoch = taken.flop / reviews * REVIEWS / machine.rate / machine.count / 3600
    predicted = taken.forward / taken.flop * (0.1 * epochs + 2)
    return epoch, epoch * (1.9 * epochs + predicted)


def show(script: ModuleType, config: AdapterConfig) -> None:
    """Prints which micro-batch fits on each machine, and the hours of an epoch."""
    sizes = sizes_of(config.model)
    table = Table("", "bits", "micro-batch", "recomputed", "peak memory, GiB", "of, GiB", "hours an epoch", "a whole run")
    for machine in (*GPUS, this_machine()):
        bits = config.bits or machine.bits
        if bits == 8 and machine.bits == 4:  # as the script refuses it there
            table.add_row(machine.name, "8", "refused", "", "", f"{machine.memory / GIB:.0f}", "", "")
            continue
        is_fp32 = machine.bits == 32 and hardware.mixed_precision("auto") == "no"
        machine_config = replace(config, precision="fp32" if is_fp32 else "auto")
        machine_config.checkpoint = Path(config.model)  # only its name is used
        found = fitting(
            lambda reviews, recomputed, bits=bits, machine_config=machine_config: training_step(
                script, machine_config, sizes, reviews, bits, recomputed
            ),
            machine, config.batch_size,
        )  # fmt: skip
        if found is None:
            table.add_row(machine.name, str(bits), "none fits", "", "", f"{machine.memory / GIB:.0f}", "", "")
            continue
        reviews, recomputed, taken = found
        epoch, run = hours_of(taken, reviews, machine, config.epochs)
        table.add_row(
            machine.name, str(bits), str(reviews), "yes" if recomputed else "no", f"{(taken.peak + OVERHEAD) / GIB:.1f}",
            f"{machine.memory / GIB:.0f}", f"{epoch:.1f}", f"{run:.1f}",
        )  # fmt: skip
    console = make_console(110)
    console.print(table)
    console.print(
        f"{config.model}, {config.max_length} tokens a review, batches of {config.batch_size}. This is an estimate. Memory: all "
        f"tensors of a step in float32, which is rather too much, plus {OVERHEAD / GIB:.1f} GiB. Time: the step's FLOP at "
        f"{MFU:.0%} of a GPU's peak (half of this machine's matrix product), without the cost of dequantizing weights. A whole "
        f"run has {config.epochs} epochs with validation and as many for the refit. Shorter reviews take less. One device finds "
        "its micro-batch; several need --micro-batch-size."
    )
