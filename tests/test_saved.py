"""What is saved of a scikit-learn pipeline."""

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from popcorn.models.saved import get_state, set_state

TEXTS, LABELS = ["a superb movie", "a dull movie", "superb and moving", "dull and awful"], np.array([1, 0, 1, 0])


def test_a_restored_pipeline_predicts_the_same():
    fitted, restored = (make_pipeline(TfidfVectorizer(), LogisticRegression()) for _ in range(2))
    set_state(restored, get_state(fitted.fit(TEXTS, LABELS)))
    assert np.array_equal(fitted.predict_proba(TEXTS), restored.predict_proba(TEXTS))


@pytest.mark.parametrize(("step", "attribute"), [(StandardScaler(with_mean=False), "mean_"), (TruncatedSVD(2), "components_")])
def test_a_fitted_attribute_that_is_not_saved_is_refused(step, attribute):
    pipeline = make_pipeline(CountVectorizer(), step, LogisticRegression()).fit(TEXTS, LABELS)
    with pytest.raises(TypeError, match=attribute):
        get_state(pipeline)
