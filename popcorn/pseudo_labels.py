"""Soft pseudo-labels: what a teacher that sees n-grams believes of the reviews that nobody has labelled.

A model learns from them as from labels (Lee 2013), from the teacher's probabilities and not its verdicts (Hinton et al. 2015).
The teacher is the NB-SVM, whose view of a review differs from that of every model over word vectors: each can learn from the
other what it cannot see itself (co-training, Blum & Mitchell 1998).
"""

from dataclasses import replace

import numpy as np

import nbsvm
from popcorn.data import TRAIN, UNLABELLED, Competition
from popcorn.errors import UserError, say
from popcorn.experiment import Part
from popcorn.text import clean, enough_terms


class Teacher:
    """The NB-SVM with its own recipe, fitted anew for every part on that part's reviews alone."""

    def __init__(self, competition: Competition, limit: int | None):
        """Takes at most `limit` of the unlabelled reviews. Raises `UserError` where the competition's folder has none."""
        texts = competition.read(UNLABELLED).texts[:limit] if competition.path(UNLABELLED) else []
        if not texts:
            raise UserError(
                f"--unlabelled: there are no reviews in {UNLABELLED} (or its zip) of {competition.folder}; "
                "put the competition's own there, or leave the option out"
            )
        train = competition.read(TRAIN)
        self.labels = train.labels
        self.texts = np.array([clean(text) for text in train.texts], dtype=object)
        self.unlabelled = [clean(text) for text in texts]

    def teach(self, part: Part) -> tuple[Part, np.ndarray]:
        """The part with all unlabelled reviews to learn from too, and targets for both, float64 (train + unlabelled,).

        Rows of the unlabelled reviews follow those of the training file. No review that the part is validated on, nor its
        label, is seen by the teacher.
        """
        say(f"{part.name}: the teacher learns from {len(part.train):,} labelled reviews")
        with enough_terms():
            teacher = nbsvm.model(nbsvm.Config()).fit(self.texts[part.train], self.labels[part.train])
        targets = np.concatenate([self.labels, teacher.predict_proba(self.unlabelled)[:, 1]])
        rows = np.arange(len(self.labels), len(targets))
        return replace(part, train=np.concatenate([part.train, rows])), targets
