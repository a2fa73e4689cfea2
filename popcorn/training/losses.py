"""R-Drop: two passes with different dropout should predict the same (Liang et al. 2021).

The loss is half of the paper's equation 4, so the same learning rate fits with and without R-Drop.
"""

import torch
from torch import Tensor


def duplicate_batch(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Concatenates each tensor (batch, ...) with itself: (2 * batch, ...).

    One pass over it then has different dropout in each half.
    """
    return tuple(torch.cat([tensor, tensor]) for tensor in tensors)


def symmetric_kl(log_odds: Tensor) -> Tensor:
    """Symmetric KL divergence between the halves (equation 2): log-odds (2 * batch,) -> (batch,)

    It is half the sum of both divergences. For two classes this sum is the difference of the probabilities times the difference
    of the log-odds.
    """
    (first, second), (p, q) = log_odds.chunk(2), log_odds.sigmoid().chunk(2)
    return (p - q) * (first - second) / 2
