"""What a run trains: the encoded reviews and the model.

Each type of model has a subclass.
"""

from pathlib import Path

import numpy as np

from popcorn.config import RunConfig
from popcorn.data.competition import Competition


class Task:
    """A task reads nothing before `load`.

    With several processes, one calls `load` first and fills the caches for the others.
    """

    competition: Competition
    train_ids: list[str]
    test_ids: list[str]
    labels: np.ndarray
    """int64 (training file,)"""
    trainable_parameters = 0
    """number of parameters in a checkpoint; 0 for a model that is trained without checkpoints"""
    provenance: dict[str, str]
    """origin of the model's initial weights, and checksums: for the results and for `--resume`"""

    def __init__(self, config: RunConfig):
        self.config = config

    def load(self) -> None:
        """Reads the competition's files and encodes the reviews; raises `UserError` for mistakes in them."""
        raise NotImplementedError

    def pretrain(self, deadline: float) -> None:
        """Pretrains on all processes, before the model is built; `deadline` is a `time.monotonic()`."""

    def content(self) -> dict[str, str]:
        """Checksums of data and initial weights, which must be the same on resume."""
        return {"data": self.competition.checksum, **self.provenance}

    def save_artifacts(self, run_dir: Path) -> None:
        """Saves what the model needs in addition to its weights, for later predictions."""
        raise NotImplementedError
