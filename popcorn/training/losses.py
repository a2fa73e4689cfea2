"""Losses in addition to cross-entropy: R-Drop, and supervised contrastive learning.

R-Drop: two passes with different dropout should predict the same (Liang et al. 2021). The loss is half of the paper's equation 4,
so the same learning rate fits with and without R-Drop.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from popcorn.config import TrainingConfig
from popcorn.errors import log

TEMPERATURE = 0.3
"""of the contrastive loss (Gunel et al. 2021, section 4.2)"""


def duplicate_batch(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Concatenates each tensor (batch, ...) with itself: (2 * batch, ...).

    One pass over it then has different dropout in each half.
    """
    return tuple(torch.cat([tensor, tensor]) for tensor in tensors)


def symmetric_kl(logits: Tensor) -> Tensor:
    """Symmetric KL divergence between the halves (equation 2): logits (2 * batch,) -> (batch,)

    It is half the sum of both divergences. For two classes this sum is the difference of the probabilities times the difference
    of the logits.
    """
    (first, second), (p, q) = logits.chunk(2), logits.sigmoid().chunk(2)
    return (p - q) * (first - second) / 2


def supervised_contrastive(features: Tensor, labels: Tensor) -> Tensor:
    """Contrastive loss of each review (Gunel et al. 2021, equation 3): (batch, hidden), (batch,) -> float32 (batch,)

    The mean negative log-probability of the reviews with the same label: a softmax over all other reviews, of the cosine between
    the features divided by the temperature. It is 0 if no other review has that label. Labels may be probabilities, and above 0.5
    are positive.
    """
    features = features.float()  # also under autocast, which would round a product of matrices
    scores = cosine_similarity(features.unsqueeze(1), features, dim=-1) / TEMPERATURE  # (batch, batch)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # the lowest finite number, since infinity would make the gradient of a single review NaN
    log_probability = scores.masked_fill(itself, torch.finfo(scores.dtype).min).log_softmax(1)
    classes = labels > 0.5
    positives = (classes.unsqueeze(1) == classes) & ~itself
    return -log_probability.masked_fill(~positives, 0).sum(1) / positives.sum(1).clamp(min=1)


@contextmanager
def pooled_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list of one tensor (batch, hidden) per forward pass: the input of the model's last linear layer.

    This is the last hidden layer before the logits, in every classifier of this collection and of transformers.
    """
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    features: list[Tensor] = []
    with last.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0])):
        yield features


def log_contrastive_limit(config: TrainingConfig, micro_batch_size: int, batch_size: int) -> None:
    """Logs that the contrastive loss compares fewer reviews than a batch has, if so."""
    if getattr(config, "scl", 0) and micro_batch_size < batch_size:
        log(f"--scl compares only the {micro_batch_size} reviews of a micro-batch, not all {batch_size} of a batch")
