"""The optimizer and the learning rate of every engine."""

import re

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from popcorn.config import FineTuneConfig, TrainingConfig


def optimizer_and_schedule(groups: list[dict], config: TrainingConfig, steps: int) -> tuple[torch.optim.AdamW, OneCycleLR]:
    """AdamW over groups of parameters, each with its peak `lr`; a linear rise and decay over `config.epochs` of `steps` each.

    The schedule is that of all epochs: a refit that ends sooner follows the very rates that validation has seen.
    """
    total = config.epochs * steps + 1
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    schedule = OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=total,
        pct_start=max(config.warmup_ratio, 2 / total),  # at least one step: torch divides by what the rise takes
        anneal_strategy="linear", cycle_momentum=False,
    )  # fmt: skip
    return optimizer, schedule


LAYER = re.compile(r"\blayer\.(\d+)\.")  # encoder.layer.3.attention… in BERT and RoBERTa, transformer.layer.3.… in DistilBERT


def parameter_groups(model: nn.Module, layers: int, config: FineTuneConfig) -> list[dict]:
    """Groups for AdamW: `layer_decay` to the power of the distance from the top, and no weight decay of biases and norms.

    The head and the pooler are the top, the embeddings the bottom, below the `layers` between them (Sun et al. 2019, section
    5.3.4). Devlin et al.'s own code leaves biases and layer norms, the parameters of one dimension, without decay.
    """
    groups: dict[tuple[int, bool], dict] = {}
    for name, weights in model.named_parameters():
        if not weights.requires_grad:
            continue
        layer = LAYER.search(name)
        height = int(layer[1]) + 1 if layer else 0 if "embeddings" in name else layers + 1
        rate = config.learning_rate * config.layer_decay ** (layers + 1 - height)
        decay = config.weight_decay if weights.ndim > 1 else 0.0
        groups.setdefault((height, decay > 0), {"params": [], "lr": rate, "weight_decay": decay})["params"].append(weights)
    return [groups[key] for key in sorted(groups)]
