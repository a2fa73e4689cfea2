"""A task whose model is a PyTorch module."""

import numpy as np
from accelerate.utils import set_seed
from torch import nn

from popcorn.data.batching import EncodedReviews
from popcorn.data.splits import Split
from popcorn.training.task import Task


class ModelTask(Task):
    """The reviews as token ids, and a module that is built anew for every split."""

    train: EncodedReviews
    """the training file's reviews, and after them any that `with_pseudo_labels` adds"""
    test: EncodedReviews

    def build_model(self) -> nn.Module:
        """A new model, on the CPU; `new_model` seeds its random weights."""
        raise NotImplementedError

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """The model's parameters in groups for the optimizer, each with its peak learning rate."""
        raise NotImplementedError

    def new_model(self) -> nn.Module:
        """A new model, with the same first weights every time."""
        set_seed(self.config.seed)
        return self.build_model()

    def content(self) -> dict[str, str]:
        """The modules of the model too. Counts its parameters."""
        model = self.new_model()
        self.trainable_parameters, self.parameters = count_parameters(model)
        return super().content() | {"model": str(model)}

    def with_pseudo_labels(self, split: Split) -> tuple[Split, np.ndarray]:
        """The split, with more to train on where there are pseudo-labels, and the targets of `train`."""
        return split, self.labels


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Trainable parameters, and all of them; PEFT knows how many a quantized weight stands for."""
    if hasattr(model, "get_nb_trainable_parameters"):
        return model.get_nb_trainable_parameters()
    sizes = [(weights.numel(), weights.requires_grad) for weights in model.parameters()]
    return sum(size for size, is_trainable in sizes if is_trainable), sum(size for size, _ in sizes)
