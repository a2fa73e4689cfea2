"""The optimiser and the learning rate of every engine."""

import torch
from torch.optim.lr_scheduler import OneCycleLR

from popcorn.config import TrainingConfig


def optimiser_and_schedule(groups: list[dict], config: TrainingConfig, steps: int) -> tuple[torch.optim.AdamW, OneCycleLR]:
    """AdamW over groups of parameters, each with its peak `lr`; a linear rise and decay over `config.epochs` of `steps` each.

    The schedule is that of all epochs: a refit that ends sooner follows the very rates that validation has seen.
    """
    total = config.epochs * steps + 1
    optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    schedule = OneCycleLR(
        optimiser, [group["lr"] for group in groups], total_steps=total,
        pct_start=max(config.warmup, 2 / total),  # at least one step: torch divides by what the rise takes
        anneal_strategy="linear", cycle_momentum=False,
    )  # fmt: skip
    return optimiser, schedule
