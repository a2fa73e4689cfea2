"""R-Drop: two passes over the same reviews with different dropout should say the same (Wu et al. 2021).

The loss is half of the paper's equation 4, so that a learning rate means the same with it and without.
"""

import torch
from torch import Tensor


def duplicate_batch(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Each tensor (batch, ...) behind itself: (2 * batch, ...). One pass over it drops out other numbers in each half."""
    return tuple(torch.cat([tensor, tensor]) for tensor in tensors)


def symmetric_kl(log_odds: Tensor) -> Tensor:
    """Half the sum of both Kullback-Leibler divergences between the halves: log-odds (2 * batch,) -> (batch,), equation 2.

    Between two answers to a question of yes or no that sum is the product of their differences in probability and log-odds.
    """
    (first, second), (p, q) = log_odds.chunk(2), log_odds.sigmoid().chunk(2)
    return (p - q) * (first - second) / 2
