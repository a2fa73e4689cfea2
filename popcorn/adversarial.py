"""Adversarial training on word vectors (Miyato, Dai & Goodfellow 2017, section 3, equations 2 to 5).

Each review is learnt twice: as it stands, and with its word vectors moved by a small step in the direction in which its own
loss grows the fastest. It keeps a model from leaning on single words, as dropout does, but aims where dropout is blind.
"""

from torch import Tensor, nn


class Adversary:
    """Watches what an embedding gives out, and moves it when told to."""

    def __init__(self, embedding: nn.Embedding, epsilon: float):
        """epsilon: the Euclidean norm of the step, over all the word vectors of a review."""
        self.epsilon = epsilon
        self.words: Tensor | None = None
        self.step: Tensor | None = None
        embedding.register_forward_hook(self._hook)

    def _hook(self, embedding: nn.Embedding, _: tuple, words: Tensor) -> Tensor | None:
        """words (batch, time, width)"""
        if not embedding.training:
            return None
        if self.step is not None:
            return words + self.step
        words.retain_grad()
        self.words = words
        return None

    def attack(self) -> None:
        """Chooses the step, after the backward pass of the loss; the forward pass that follows is moved by it.

        The loss may be scaled by any positive number. Padding is not moved: no model's loss depends on it.
        """
        gradient = self.words.grad.nan_to_num(0, 0, 0)  # fp16 may overflow, and the gradient scaler then skips the step
        norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-20)  # (batch,); a review may have no gradient at all
        self.step = self.epsilon * gradient / norm[:, None, None]

    def rest(self) -> None:
        """Ends the attack."""
        self.words = self.step = None
