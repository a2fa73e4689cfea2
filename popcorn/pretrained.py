"""What every pretrained model is trained with: learning rates by layer, weight decay, and memory saved where it is short."""

import re

from torch import nn

from popcorn.config import FineTuneConfig
from popcorn.errors import say

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


def recompute_activations(model: nn.Module) -> bool:
    """Has the pretrained model inside `model` recompute its activations in the backward pass (Chen et al. 2016).

    A third more work for a fraction of the memory. False where there is no such model, or where it does so already.
    """
    able = [each for each in model.modules() if getattr(each, "supports_gradient_checkpointing", False)]
    # transformers 5 calls activation checkpointing what was gradient checkpointing in version 4
    kind = "activation" if able and hasattr(able[0], "activation_checkpointing_enable") else "gradient"
    if not able or getattr(able[0], f"is_{kind}_checkpointing"):
        return False
    getattr(able[0], f"{kind}_checkpointing_enable")({"use_reentrant": False})
    say("To save memory, activations are recomputed: a third more work for a fraction of it")
    return True
