"""What the training of an adapter would take: memory and time of a step, without the GPU and without the weights.

The script's own model takes a step in shapes alone (popcorn/outline.py) with one layer and with two: every further layer adds as
much as the second did.
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
TIMEOUT = 5  # seconds that the hub has for its answer
REVIEWS = 25_000
"""of the training file, and as many of the test"""
OVERHEAD = 0.7 * GIB
"""what a GPU's driver, its libraries and the gaps between tensors take, by common experience"""
MFU = 0.3
"""share of a GPU's peak rate that training reaches, by common experience"""
BYTES = {4: 0.5 + 4 / 64, 8: 1.0}
"""of a quantized weight: NF4 has a float32 scale for every 64"""


@dataclass(frozen=True)
class Machine:
    """A place to train at."""

    name: str
    memory: float
    """bytes of each device"""
    rate: float
    """FLOP/s of each device that training reaches"""
    bits: int
    """of the frozen weights, where `--bits` says nothing"""
    count: int = 1
    """devices"""


GPUS = (
    Machine("T4", 15 * GIB, MFU * 65e12, 8),
    Machine("2 x T4", 15 * GIB, MFU * 65e12, 8, count=2),
    Machine("P100", 16 * GIB, MFU * 18.7e12, 4),
)


def this_machine() -> Machine:
    """Its memory, and the rate of a product of two matrices here, of which training reaches about a half on a CPU."""
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
    """The step of the whole model: every layer adds what the second did, or where it is recomputed its input alone.

    What lives between the weights is counted in float32. Beside autocast some of it is half as large, and not all: layer norms
    and softmax answer in float32 on a GPU, and so do quantized matrices behind them.
    """
    one, two = (step(script, config, of_depth(sizes, depth), reviews) for depth in (1, 2))
    more = sizes.num_hidden_layers - 1
    peak, flop = one.peak + more * (two.peak - one.peak), one.flop + more * (two.flop - one.flop)
    forward = one.forward + more * (two.forward - one.forward)
    frozen = one.frozen + more * (two.frozen - one.frozen)
    if recomputed:
        inputs = 4 * reviews * config.max_length * sizes.hidden_size
        learning = two.learning - one.learning
        # of what learns its value, its gradient and AdamW's two means; of a prefix a copy for every review, and its gradient
        beside = 4 * learning * (4 + 2 * reviews * two.is_prefix)
        peak, flop = one.peak + more * (4 * (two.frozen - one.frozen) + inputs + beside), flop + forward
    matrices = sizes.num_hidden_layers * layer_matrices(sizes)
    others = 4 if config.precision == "fp32" else 2  # bytes of a frozen number that is not quantized
    if bits in BYTES:
        peak -= matrices * (4 - BYTES[bits]) + (frozen - matrices) * (4 - others)
        peak += others * sizes.hidden_size * sizes.intermediate_size  # the largest is there once more as it is multiplied
    elif bits == 16:
        peak -= 2 * frozen
    return replace(one, peak=peak, forward=forward, flop=flop, frozen=frozen)


def of_depth(sizes: DebertaV2Config, layers: int) -> DebertaV2Config:
    """The same widths with so many layers."""
    return DebertaV2Config(**(sizes.to_dict() | {"num_hidden_layers": layers}))


def layer_matrices(sizes: DebertaV2Config) -> int:
    """Numbers of a layer's linear weights: four square ones of the attention and two of the feed-forward network."""
    return 4 * sizes.hidden_size**2 + 2 * sizes.hidden_size * sizes.intermediate_size


def sizes_of(model: str) -> DebertaV2Config:
    """The model's configuration: a folder's, one that is known here, or the hub's, of a few hundred bytes.

    Raises `UserError` where there is none, or it is of another family.
    """
    path = Path(model) / CONFIG
    if not path.is_file() and model in PUBLISHED:
        return DebertaV2Config(**(PUBLISHED[model] | {"num_labels": 2}))
    if not path.is_file():
        if Path(model).exists():
            raise UserError(f"--model {model} is no folder with a {CONFIG}: give one, or a model of the hub")
        path = _from_hub(model)
    found = read_config(path)
    if found.get("model_type") != "deberta-v2":
        raise UserError(f"{path} is of the family {found.get('model_type')!r}, and the plan is made for 'deberta-v2' models")
    return architecture(path.parent, num_labels=2)


def _from_hub(model: str) -> Path:
    """The model's config.json of the hub's cache, or of the hub. Raises `UserError` where neither has it."""
    with needs("huggingface_hub", f"--model {model}, which is no folder here,"):
        from huggingface_hub import HfApi, hf_hub_download
    with suppress(Exception):
        return Path(hf_hub_download(model, CONFIG, local_files_only=True))
    try:
        HfApi().model_info(model, timeout=TIMEOUT)  # the download itself would try again and again
        return Path(hf_hub_download(model, CONFIG))
    except Exception as problem:  # of the network, of its client or of a name
        raise UserError(f"the plan needs the model's {CONFIG}, and {not_fetched(model, problem)}") from problem


def fitting(step_of: Callable[[int, bool], Step], machine: Machine, batch_size: int) -> tuple[int, bool, Step] | None:
    """The largest micro-batch that fits, whether it recomputes, and its step; None where none fits.

    On one device the training finds it by itself, on several it has to be given.
    """
    size = whole = -(-batch_size // machine.count)
    while size:
        recomputed = size < whole and size <= RECOMPUTE
        found = step_of(size, recomputed)
        if found.peak + OVERHEAD <= machine.memory:
            return size, recomputed, found
        size //= 2
    return None


def hours_of(taken: Step, reviews: int, machine: Machine, epochs: int) -> tuple[float, float]:
    """Of an epoch, and of a whole run: validated on a tenth, trained on all for as many epochs, the test predicted twice."""
    epoch = taken.flop / reviews * REVIEWS / machine.rate / machine.count / 3600
    predicted = taken.forward / taken.flop * (0.1 * epochs + 2)
    return epoch, epoch * (1.9 * epochs + predicted)


def show(script: ModuleType, config: AdapterConfig) -> None:
    """Prints what would fit where, and how long an epoch would take."""
    sizes = sizes_of(config.model)
    table = Table("", "bits", "micro-batch", "recomputed", "peak memory, GiB", "of, GiB", "hours an epoch", "a whole run")
    for machine in (*GPUS, this_machine()):
        bits = config.bits or machine.bits
        if bits == 8 and machine.bits == 4:  # as the script refuses it there
            table.add_row(machine.name, "8", "refused", "", "", f"{machine.memory / GIB:.0f}", "", "")
            continue
        its = replace(config, precision="fp32" if machine.bits == 32 and hardware.mixed_precision("auto") == "no" else "auto")
        its.checkpoint = Path(config.model)  # of which no more than the name is asked
        found = fitting(
            lambda reviews, recomputed, bits=bits, its=its: training_step(script, its, sizes, reviews, bits, recomputed),
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
        f"{config.model}, {config.max_length} tokens a review, batches of {config.batch_size}. An estimate: memory from a step "
        f"in float32, counted tensor by tensor, which is rather too much, and {OVERHEAD / GIB:.1f} GiB beside it; time from its "
        f"FLOP at {MFU:.0%} of a GPU's peak (half of this machine's matrix product), to which quantized weights add what "
        f"is not counted here. A whole run is {config.epochs} epochs validated and as many refit. Shorter reviews take less. One "
        "device finds its micro-batch, several need it given: --micro-batch-size."
    )
