"""Adversarial and virtual adversarial training on word vectors (Miyato et al. 2017).

The paper normalizes the word vectors, so that a model cannot make a perturbation small by making the vectors large. Here the
perturbation is multiplied by their standard deviation instead. Both are equivalent, apart from the scale of the weights. But here
the vectors are not rescaled. So one language model serves with and without adversarial training.

A label of NaN means an unlabeled review.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from popcorn.training.session import Session

GRADIENT_SCALE = 2.0**10
"""keeps small gradients from becoming zero in fp16; the direction does not depend on it"""


def word_frequency(session: Session) -> Tensor:
    """Relative frequency of each word in the training reviews, float32 (vocabulary,)."""
    words = np.concatenate([session.train.reviews[row] for row in session.split.train])
    counts = np.bincount(words, minlength=session.model.embedding.num_embeddings)
    return torch.from_numpy(counts / counts.sum()).to(session.model.embedding.weight)


@torch.no_grad()
def standard_deviation(vectors: Tensor, frequency: Tensor) -> Tensor:
    """Standard deviation of each dimension of the word vectors, weighted by frequency (equation 1).

    vectors (vocabulary, width), frequency (vocabulary,) -> (width,)
    """
    mean = frequency @ vectors
    return (frequency @ vectors.square() - mean.square()).clamp(min=0).sqrt()


def adversarial_passes(
    model: nn.Module, inputs: tuple[Tensor, Tensor], labels: Tensor, frequency: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Logits without and with the adversarial perturbation of the word vectors, each (batch,); both with the same dropout.

    inputs: tokens (batch, time) and lengths (batch,); labels (batch,); frequency (vocabulary,). The model adds its third input
    (batch, time, width) to the word vectors. The perturbation has the L2 norm `epsilon` over all words of a review, in standard
    deviations of the word vectors.

    Its direction is that of the logit's gradient g. Virtual adversarial training finds its direction by power iteration (equation
    7). With two classes, the Hessian of the KL divergence is p (1 - p) g g^T, so one step finds g or -g: power iteration is not
    needed. This function takes the sign that lowers the probability of the label, or of the predicted class without a label. With
    a label, this is the direction of adversarial training as well (equation 5).
    """
    scale = epsilon * standard_deviation(model.embedding.weight, frequency)
    direction = scale.new_zeros(*inputs[0].shape, len(scale)).requires_grad_()
    with same_dropout(scale.device):
        logits = model(*inputs, scale * direction)
    (gradient,) = torch.autograd.grad(GRADIENT_SCALE * logits.sum(), direction, retain_graph=True)  # zero at the padding
    is_positive = torch.where(labels.isnan(), logits > 0, labels > 0.5)
    sign = torch.where(is_positive, -1.0, 1.0).view(-1, 1, 1)
    return logits, model(*inputs, scale * sign * normalize(gradient.flatten(1)).view_as(gradient))


@contextmanager
def same_dropout(device: torch.device) -> Iterator[None]:
    """Restores the random state at the end, so the next forward pass has the same dropout."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over the labeled reviews; logits (batch,), labels (batch,)."""
    is_labeled = ~labels.isnan()
    return binary_cross_entropy_with_logits(logits[is_labeled], labels[is_labeled].to(logits), reduction="sum")


def kl_divergence(logits: Tensor, perturbed: Tensor) -> Tensor:
    """KL divergence from the prediction, held constant, to the perturbed one (equation 8): sum over the batch.

    logits (batch,), perturbed logits (batch,)
    """
    logits, probability = logits.detach(), logits.detach().sigmoid()
    return binary_cross_entropy_with_logits(perturbed, probability, reduction="sum") - entropy(logits)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the predictions (Grandvalet & Bengio 2005): logits (batch,), sum over the batch."""
    return binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="sum")
