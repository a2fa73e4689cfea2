"""Soft pseudo-labels for the unlabeled reviews, from a teacher.

A model is trained on pseudo-labels as if they were labels (Lee 2013). They are the teacher's probabilities, not its classes
(Hinton et al. 2015). A teacher that uses n-grams and a model over word vectors complement each other (co-training, Blum &
Mitchell 1998).
"""

from dataclasses import replace

import numpy as np

from popcorn.config import NBSVM, TrainingConfig
from popcorn.data.competition import RULE, UNLABELED, Competition
from popcorn.data.splits import Split, validation_splits
from popcorn.errors import log
from popcorn.models.unlabeled import ORIGIN
from popcorn.training.teachers import Reviews, find_teacher
from popcorn.utils.processes import is_main_process

TOO_HIGH = "unknown, so the validation metrics may be too high"
"""the teacher's origin in the saved results"""


class PseudoLabels:
    """The unlabeled reviews as additional training reviews, with the teacher's probabilities."""

    def __init__(self, config: TrainingConfig, competition: Competition):
        """Takes at most `max_train_samples` unlabeled reviews.

        Raises `UserError` where there are none, where the teacher is missing, or where it was trained on reviews that this run is
        validated on. Warns where that is not known.
        """
        reviews = Reviews(competition, config.max_train_samples)
        self.labels = reviews.labels
        self.teacher = find_teacher(config.pseudo_labels, reviews, config)
        splits = validation_splits(config, reviews.train_ids, reviews.labels)
        for split in splits:  # before the first one is trained
            self.teacher.require_unseen(split.validation)
        self.provenance = {} if config.pseudo_labels == NBSVM else {"teacher_sha256": self.teacher.checksum}
        if not self.teacher.is_known and len(splits[0].validation):
            self.provenance[ORIGIN] = TOO_HIGH
            if is_main_process():
                log(
                    f"{RULE}\nWARNING: what {config.pseudo_labels} was trained on is unknown. Where that includes this run's\n"
                    f"validation reviews, its validation metrics are too high. The test score is not affected.\n{RULE}"
                )

    def add(self, split: Split) -> tuple[Split, np.ndarray]:
        """Adds the unlabeled reviews to the split; targets of both, float64 (train + unlabeled,).

        Rows of unlabeled reviews follow those of the training file. The teacher was not trained on the validation reviews; of a
        file, that is not known.
        """
        return add_unlabeled(split, self.labels, self.teacher.probability(split))


def find_pseudo_labels(config: TrainingConfig, competition: Competition) -> PseudoLabels | None:
    """The run's pseudo-labels, or None: without a teacher, or where the script's default teacher has no reviews to label.

    In the second case it sets `config.pseudo_labels` to None, so that settings and results have what was done.
    """
    if not config.pseudo_labels:
        return None
    if config.pseudo_labels == type(config).pseudo_labels and competition.path(UNLABELED) is None:
        if is_main_process():
            log(f"{competition.folder} lacks {UNLABELED}: trained on the labeled reviews alone, without pseudo-labels")
        config.pseudo_labels = None
        return None
    return PseudoLabels(config, competition)


def add_unlabeled(split: Split, labels: np.ndarray, values: np.ndarray) -> tuple[Split, np.ndarray]:
    """Adds the unlabeled reviews to the split's training rows, with `values` (unlabeled,) as their targets.

    labels (train,) -> targets float64 (train + unlabeled,)
    """
    targets = np.concatenate([labels, values])
    rows = np.arange(len(labels), len(targets))
    return replace(split, train=np.concatenate([split.train, rows])), targets
