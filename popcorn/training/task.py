"""What a run trains on: the reviews as a model takes them, and the model. Each kind of model has its own subclass."""

from pathlib import Path

import numpy as np

from popcorn.config import RunConfig
from popcorn.data.competition import Competition


class Task:
    """Reads nothing before `load`, which one of several processes calls first and fills the caches for the others."""

    competition: Competition
    train_ids: list[str]
    test_ids: list[str]
    labels: np.ndarray
    """int64 (training file,)"""
    provenance: dict[str, str]
    """for the record and for `--resume`: where the model's first weights come from, and checksums"""

    def __init__(self, config: RunConfig):
        self.config = config

    def load(self) -> None:
        """Reads the competition's files and encodes the reviews. Raises `UserError` where something is wrong with them."""
        raise NotImplementedError

    def pretrain(self, deadline: float) -> None:
        """Trains what comes before the model is built, on all processes, until a deadline in `time.monotonic()`."""

    def content(self) -> dict[str, str]:
        """What a run must be resumed with, beside its options: checksums of the data and of the first weights."""
        return {"data": self.competition.checksum, **self.provenance}

    def save_artifacts(self, run_dir: Path) -> None:
        """Writes what the model needs beside its weights, to predict later."""
        raise NotImplementedError
