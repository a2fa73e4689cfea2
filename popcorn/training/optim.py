"""The optimizer and the learning-rate schedule of everything that is trained by gradients."""

import re

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from popcorn.config import FineTuneConfig, TrainingConfig
from popcorn.errors import UserError


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


LAYER = re.compile(r"\blayers?\.(\d+)\.")  # encoder.layer.3.attention in BERT and RoBERTa, transformer.layer.3 in DistilBERT


def layer_decay_groups(model: nn.Module, num_layers: int, config: FineTuneConfig) -> list[dict]:
    """Groups for AdamW: `layer_decay` to the power of the distance from the top, and no weight decay of biases and norms.

    The head and the pooler are the top, the embeddings the bottom, below the `num_layers` between them (Sun et al. 2019, section
    5.3.4). Devlin et al.'s own code leaves biases and layer norms, the parameters of one dimension, without decay. Raises
    `UserError` where the model's layers are not found by their names: they would train without any layer decay.
    """
    groups: dict[tuple[int, bool], dict] = {}
    for name, weights in model.named_parameters():
        if not weights.requires_grad:
            continue
        layer = LAYER.search(name)
        layer_id = int(layer[1]) + 1 if layer else 0 if "embeddings" in name else num_layers + 1
        rate = config.learning_rate * config.layer_decay ** (num_layers + 1 - layer_id)
        decay = config.weight_decay if weights.ndim > 1 else 0.0
        groups.setdefault((layer_id, decay > 0), {"params": [], "lr": rate, "weight_decay": decay})["params"].append(weights)
    missing = set(range(1, num_layers + 1)) - {layer_id for layer_id, _ in groups}
    if missing and config.layer_decay != 1:
        raise UserError(
            f"--layer-decay is {config.layer_decay}, and the parameters of {len(missing)} of the model's {num_layers} layers "
            "have other names than layer.<number>: give --layer-decay 1, one learning rate for all layers"
        )
    return [groups[key] for key in sorted(groups)]
