"""Optimizer and learning rate schedule of all models that are trained by gradient descent."""

import re

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from popcorn.config import FineTuneConfig, TrainingConfig
from popcorn.errors import UserError


def optimizer_and_schedule(groups: list[dict], config: TrainingConfig, steps: int) -> tuple[torch.optim.AdamW, OneCycleLR]:
    """AdamW, with linear warm-up and then linear decay to 0.

    Each parameter group has its peak `lr`. The schedule has `config.epochs` epochs of `steps` steps. A refit that ends earlier
    has the same learning rates as in validation.
    """
    total = config.epochs * steps + 1
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
    schedule = OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=total,
        pct_start=max(config.warmup_ratio, 2 / total),  # at least one step, since torch divides by the number of warm-up steps
        anneal_strategy="linear", cycle_momentum=False,
    )  # fmt: skip
    return optimizer, schedule


LAYER = re.compile(r"\blayers?\.(\d+)\.")  # encoder.layer.3.attention in BERT and RoBERTa, transformer.layer.3 in DistilBERT


def layer_decay_groups(model: nn.Module, num_layers: int, config: FineTuneConfig) -> list[dict]:
    """Parameter groups for AdamW with layer-wise learning rate decay.

    The learning rate is multiplied by `layer_decay` for each layer below the top (Sun et al. 2019, section 5.3.4). The head and
    the pooler are the top. The embeddings are the bottom, below `num_layers` layers. As in Devlin et al.'s code, biases and layer
    norms (parameters with one dimension) have no weight decay. Raises `UserError` where the names of the parameters do not show
    their layers, since layer decay would then have no effect.
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
