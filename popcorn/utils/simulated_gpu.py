"""What a GPU keeps for the backward pass, for estimates on a CPU from tensor shapes."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

scaled_dot_product_attention = F.scaled_dot_product_attention


@contextmanager
def replaced(owner: object, functions: dict[str, Callable]):
    """Replaces functions of a module or a class for a while."""
    before = {name: vars(owner).get(name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(owner, name, function)
        yield
    finally:
        for name, function in before.items():
            if function is None:  # inherited
                delattr(owner, name)
            else:
                setattr(owner, name, function)


def in_float32(function: Callable) -> Callable:
    """The function, with its tensors in float32."""

    def float32_function(*arguments, **options) -> Tensor:
        return function(*(each.float() if isinstance(each, Tensor) else each for each in arguments), **options)

    return float32_function


def fused_dropout(states: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout that keeps one byte a value, as on a GPU; a CPU keeps the factors."""
    return torch.native_dropout(states, p, training)[0] if training and p else states


def fused_attention(*arguments, dropout_p: float = 0.0, **options) -> Tensor:
    """Attention that does not keep its weights: a GPU does so with dropout too, a CPU without it."""
    return scaled_dot_product_attention(*arguments, **options)


@contextmanager
def gpu_kernels(precision: str):
    """Keeps the tensors for the backward pass that a GPU keeps, where the tensors are a CPU's.

    With mixed precision, layer norm and softmax are computed in float32 there (PyTorch's table of autocast's operations).
    """
    functions = {"dropout": fused_dropout, "scaled_dot_product_attention": fused_attention}
    of_tensor = {}
    if precision != "no":
        functions |= {name: in_float32(getattr(F, name)) for name in ("layer_norm", "softmax")}
        of_tensor = {"softmax": in_float32(Tensor.softmax)}
    with replaced(F, functions), replaced(Tensor, of_tensor):
        yield
