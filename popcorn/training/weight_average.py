"""Exponential moving average of a model's weights over the training steps.

The average varies less from step to step than the weights (Polyak & Juditsky 1992). Izmailov et al. 2018 find it closer to the
center of a flat region of the loss, where models generalize better.
"""

from functools import partial

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model for the average: call `update_parameters(model)` after each step.

    Parameters are averaged, and buffers are copied.
    """
    return AveragedModel(model, multi_avg_fn=partial(update, decay))


def update(decay: float, averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor) -> None:
    """Changes the averages in place: decay * average + (1 - decay) * weights.

    After t steps the decay is at most (1 + t) / (10 + t), as in Sachan et al. 2019 (exp_moving_avg.py of their code) and in
    TensorFlow's ExponentialMovingAverage. So more than 90% of the average come from the last quarter of the steps. With a decay
    of 0.999 from the start, the first step would be more than half of the average for 692 steps. Adam's bias correction (Kingma &
    Ba 2015, section 3) would give almost the same weight to all steps of a short run, even to those of the warm-up.
    """
    steps = int(num_averaged)
    get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averages, weights, num_averaged)
