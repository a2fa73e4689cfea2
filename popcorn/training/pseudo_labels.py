"""Soft pseudo-labels for the unlabeled reviews, from an NB-SVM teacher.

A model is trained on pseudo-labels like on labels (Lee 2013). They are the teacher's probabilities, not its classes (Hinton et
al. 2015). The NB-SVM uses n-grams, unlike the models over word vectors, so the two complement each other (co-training, Blum &
Mitchell 1998).
"""

from dataclasses import replace

import numpy as np

from popcorn.data.competition import TRAIN, UNLABELED, Competition
from popcorn.data.splits import Split
from popcorn.data.word_tokenizer import clean, enough_terms
from popcorn.errors import UserError, log
from popcorn.utils.scripts import load_script


class Teacher:
    """The NB-SVM, trained anew for every split, on its training reviews alone."""

    def __init__(self, competition: Competition, max_train_samples: int | None):
        """Takes at most `max_train_samples` unlabeled reviews; raises `UserError` where there are none."""
        texts = competition.read(UNLABELED).texts[:max_train_samples] if competition.path(UNLABELED) else []
        if not texts:
            raise UserError(
                f"--pseudo-labels: there are no reviews in {UNLABELED} (or its zip) of {competition.folder}; "
                "put the competition's file there, or leave the option out"
            )
        train = competition.read(TRAIN)
        self.labels = train.labels
        self.texts = np.array([clean(text) for text in train.texts], dtype=object)
        self.unlabeled = [clean(text) for text in texts]

    def with_pseudo_labels(self, split: Split) -> tuple[Split, np.ndarray]:
        """Adds all unlabeled reviews to the split; targets of both, float64 (train + unlabeled,).

        Rows of unlabeled reviews follow those of the training file. The teacher is not trained on any validation review or its
        label.
        """
        nbsvm = load_script("nbsvm")
        log(f"{split.name}: the teacher is trained on {len(split.train):,} labeled reviews")
        with enough_terms():
            teacher = nbsvm.build_pipeline(nbsvm.Config()).fit(self.texts[split.train], self.labels[split.train])
        targets = np.concatenate([self.labels, teacher.predict_proba(self.unlabeled)[:, 1]])
        rows = np.arange(len(self.labels), len(targets))
        return replace(split, train=np.concatenate([split.train, rows])), targets
