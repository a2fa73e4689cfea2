"""Soft pseudo-labels: what a teacher that sees n-grams believes of the reviews that nobody has labeled.

A model learns from them as from labels (Lee 2013), from the teacher's probabilities and not its verdicts (Hinton et al. 2015).
The teacher is the NB-SVM, whose view of a review differs from that of every model over word vectors: each can learn from the
other what it cannot see itself (co-training, Blum & Mitchell 1998).
"""

from dataclasses import replace

import numpy as np

from popcorn.data.competition import TRAIN, UNLABELED, Competition
from popcorn.data.splits import Split
from popcorn.data.word_tokenizer import clean, enough_terms
from popcorn.errors import UserError, log
from popcorn.utils.scripts import load_script


class Teacher:
    """The NB-SVM with its own recipe, fitted anew for every part on that part's reviews alone."""

    def __init__(self, competition: Competition, max_train_samples: int | None):
        """Takes at most `max_train_samples` unlabeled reviews. Raises `UserError` where the competition's folder has none."""
        texts = competition.read(UNLABELED).texts[:max_train_samples] if competition.path(UNLABELED) else []
        if not texts:
            raise UserError(
                f"--pseudo-labels: there are no reviews in {UNLABELED} (or its zip) of {competition.folder}; "
                "put the competition's own there, or leave the option out"
            )
        train = competition.read(TRAIN)
        self.labels = train.labels
        self.texts = np.array([clean(text) for text in train.texts], dtype=object)
        self.unlabeled = [clean(text) for text in texts]

    def with_pseudo_labels(self, part: Split) -> tuple[Split, np.ndarray]:
        """The part with all unlabeled reviews to learn from too, and targets for both, float64 (train + unlabeled,).

        Rows of the unlabeled reviews follow those of the training file. No review that the part is validated on, nor its
        label, is seen by the teacher.
        """
        nbsvm = load_script("nbsvm")
        log(f"{part.name}: the teacher is trained on {len(part.train):,} labeled reviews")
        with enough_terms():
            teacher = nbsvm.build_pipeline(nbsvm.Config()).fit(self.texts[part.train], self.labels[part.train])
        targets = np.concatenate([self.labels, teacher.predict_proba(self.unlabeled)[:, 1]])
        rows = np.arange(len(self.labels), len(targets))
        return replace(part, train=np.concatenate([part.train, rows])), targets
