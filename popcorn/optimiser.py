"""The optimiser and the learning rate of every engine."""

import torch
from torch.optim.lr_scheduler import OneCycleLR

from popcorn.config import TrainingConfig


def optimiser_and_schedule(groups: list[dict], config: TrainingConfig, steps: int) -> tuple[torch.optim.AdamW, OneCycleLR]:
    """AdamW over groups of parameters, each with its peak `lr`; a linear rise and decay over `config.epochs` of `steps` each.

    The schedule is that of all epochs: a refit that ends sooner follows the very rates that validation has seen.
    """
    optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    schedule = OneCycleLR(
        optimiser, [group["lr"] for group in groups], total_steps=config.epochs * steps + 1,
        pct_start=config.warmup, anneal_strategy="linear", cycle_momentum=False,
    )  # fmt: skip
    return optimiser, schedule
