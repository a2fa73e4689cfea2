"""What is saved of a run's options and of a scikit-learn pipeline."""

import json

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cnn
import qwen_zero_shot
from popcorn.errors import UserError
from popcorn.models.saved import METADATA, get_state, load_recipe, save_metadata, set_state

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


@pytest.mark.parametrize(
    ("build", "config", "kind"),
    [
        (cnn.CNN, cnn.Config(kernel_sizes=(1, 4)), "words"),
        (qwen_zero_shot.Config, qwen_zero_shot.Config(label_words=("bad", "good")), "zero_shot"),
    ],
)
def test_saved_options_are_read_with_their_types(build, config, kind, tmp_path):
    save_metadata(tmp_path, build, config, kind)
    read = load_recipe(tmp_path)
    options = {name: value for name, value in vars(read.config).items() if name != "output_dir"}
    assert options == {name: value for name, value in vars(config).items() if name != "output_dir"}
    assert (read.build, read.kind) == (build, kind)


@pytest.mark.parametrize("wrong", [{"config": {"num_filters": "many"}}, {"config": []}, {"build": "AnotherCNN"}, {"build": 5}])
def test_a_model_that_does_not_fit_its_script_is_refused(wrong, tmp_path):
    save_metadata(tmp_path, cnn.CNN, cnn.Config(), "words")
    content = json.loads((tmp_path / METADATA).read_text())
    (tmp_path / METADATA).write_text(json.dumps(content | wrong))
    with pytest.raises(UserError, match=r"model\.json does not fit cnn\.py"):
        load_recipe(tmp_path)
