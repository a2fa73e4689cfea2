"""A task whose model is a PyTorch module."""

import numpy as np
from accelerate.utils import set_seed
from torch import nn

from popcorn.config import TrainingConfig
from popcorn.data.batching import EncodedReviews
from popcorn.data.splits import Split
from popcorn.training.pseudo_labels import PseudoLabels
from popcorn.training.task import Task


class ModelTask(Task):
    """The reviews as token ids, and a PyTorch module, new for every split."""

    train: EncodedReviews
    """reviews of the training file, followed by those that `with_pseudo_labels` may add"""
    test: EncodedReviews
    pseudo_labels: PseudoLabels | None = None

    def build_model(self) -> nn.Module:
        """A new model on the CPU; `new_model` sets the random seed before."""
        raise NotImplementedError

    def parameter_groups(self, model: nn.Module, config: TrainingConfig) -> list[dict]:
        """Parameter groups for the optimizer, each with its peak `lr`; `config` has the learning rates."""
        raise NotImplementedError

    def new_model(self) -> nn.Module:
        """A new model, with the same initial weights every time."""
        set_seed(self.config.seed)
        return self.build_model()

    def content(self) -> dict[str, str]:
        """Adds the model's modules and the teacher; counts the parameters."""
        if self.pseudo_labels:
            self.provenance = self.provenance | self.pseudo_labels.provenance
        model = self.new_model()
        self.trainable_parameters, self.parameters = count_parameters(model)
        return super().content() | {"model": str(model)}

    def with_pseudo_labels(self, split: Split) -> tuple[Split, np.ndarray]:
        """The split, including any pseudo-labeled reviews, and the targets of `train`."""
        return self.pseudo_labels.add(split) if self.pseudo_labels else (split, self.labels)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Numbers of trainable parameters and of all parameters.

    PEFT counts the parameters in a quantized weight.
    """
    if hasattr(model, "get_nb_trainable_parameters"):
        return model.get_nb_trainable_parameters()
    sizes = [(weights.numel(), weights.requires_grad) for weights in model.parameters()]
    return sum(size for size, is_trainable in sizes if is_trainable), sum(size for size, _ in sizes)
