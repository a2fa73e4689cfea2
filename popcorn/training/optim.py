"""Optimizer and learning rate schedule of all models that are trained by gradient descent."""

import math
import re

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from popcorn.config import FineTuneConfig, TrainingConfig
from popcorn.errors import UserError


def optimizer_and_schedule(groups: list[dict], config: TrainingConfig, steps: int) -> tuple[AdamW, LambdaLR]:
    """AdamW, with linear warm-up and then linear decay to 0, as in the Trainer of transformers.

    Each parameter group has its peak `lr`. The schedule has `config.epochs` epochs of `steps` steps. A refit that ends earlier
    has the same learning rates as in validation.
    """
    total = config.epochs * steps
    warmup = math.ceil(config.warmup_ratio * total)
    optimizer = AdamW(groups, weight_decay=config.weight_decay, fused=True)
    # transformers has this line as get_linear_schedule_with_warmup, and takes ten seconds to import
    schedule = LambdaLR(optimizer, lambda step: step / warmup if step < warmup else max(0, total - step) / max(1, total - warmup))
    return optimizer, schedule


LAYER = re.compile(r"\blayers?\.(\d+)\.")
"""encoder.layer.3 in BERT, RoBERTa and DeBERTa, transformer.layer.3 in DistilBERT, layers.3 in ModernBERT"""
BOTTOM = re.compile(r"embeddings|\.encoder\.")
"""the embeddings, and DeBERTa's other parameters that serve all layers or the first: encoder.LayerNorm, encoder.conv"""


def layer_decay_groups(model: nn.Module, num_layers: int, config: FineTuneConfig) -> list[dict]:
    """Parameter groups for AdamW with layer-wise learning rate decay.

    The learning rate is multiplied by `layer_decay` for each layer below the top (Sun et al. 2019, section 5.3.4). The head, the
    pooler and a last layer norm are the top. The embeddings are the bottom, below `num_layers` layers. As in Devlin et al.'s
    code, biases and layer norms (parameters with one dimension) have no weight decay. Raises `UserError` where the names of the
    parameters do not show their layers, since layer decay would then have no effect.
    """
    groups: dict[tuple[int, bool], dict] = {}
    for name, weights in model.named_parameters():
        if not weights.requires_grad:
            continue
        layer = LAYER.search(name)
        layer_id = int(layer[1]) + 1 if layer else 0 if BOTTOM.search(name) else num_layers + 1
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
