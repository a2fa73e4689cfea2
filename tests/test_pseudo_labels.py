"""Teachers of all kinds: what each is trained on, what is refused, and what a run records of it."""

import json
import shutil
from dataclasses import replace
from importlib import import_module

import numpy as np
import pandas as pd
import pretrained
import pytest
import torch
from conftest import SMALL, run
from transformers import BertConfig, BertForSequenceClassification

import lm_lstm
import lstm
import nbsvm
from popcorn.data import competition as competition_data
from popcorn.data.splits import Split, validation_splits
from popcorn.data.word_tokenizer import clean
from popcorn.errors import UserError
from popcorn.inference import unlabeled as prediction
from popcorn.inference.load import load
from popcorn.inference.predict import predict
from popcorn.kaggle.kernel import write_kernel
from popcorn.reporting.ensemble import ensemble
from popcorn.runs.run import run as run_task
from popcorn.runs.run_dir import differing_settings, load_fit_result, save_fit_result, start_or_resume
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.hf_trainer import FineTuner, HFTrainer
from popcorn.training.loop import train
from popcorn.training.pseudo_labels import PseudoLabels
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.sklearn_pipeline import SklearnTrainer, TextTask
from popcorn.training.word_model import WordModelTask

HELD_OUT = Split("validated", np.arange(300), np.arange(300, 400))
TINY = {"hidden": 4, "epochs": 1, "batch_size": 32, "learning_rate": 0.03, "precision": "fp32", "pseudo_labels": None}
LINEAR = {"nbsvm": {"folds": 2}, "paragraph_vectors": {"folds": 2, "sample": 0, "vector_size": 20, "ngrams": 1, "epochs": 2}}


def labels_of(folder, name: str = "nbsvm", output_dir=None, **options) -> PseudoLabels:
    """The pseudo-labels of a student of that teacher, without a validation set unless `options` say otherwise."""
    given = {"no_validation": True} | options
    config = lstm.Config(data_dir=folder, output_dir=output_dir or folder, name="student", pseudo_labels=str(name), **given)
    return PseudoLabels(config, competition_data.Competition(folder, "--data-dir"))


def train_lstm(competition, glove, output_dir, name: str, **options) -> None:
    config = lstm.Config(
        data_dir=competition, word_vectors=glove, output_dir=output_dir, name=name, **{**TINY, **options}
    )  # fmt: skip
    run_task(WordModelTask(lstm.LSTM, config), PyTorchTrainer(train))


def predict_unlabeled(model: str, competition, output_dir, output=None) -> None:
    predict(model, [], None, output, output_dir, False, True, competition)


@pytest.fixture(scope="module")
def finished(competition, glove, tmp_path_factory):
    """Finished runs: an LSTM with a hold-out and one with folds, linear models with folds; ensembles of them."""
    folder = tmp_path_factory.mktemp("teachers")
    train_lstm(competition, glove, folder, "lstm")
    train_lstm(competition, glove, folder, "lstm-folds", folds=2)
    for script, options in LINEAR.items():
        module = import_module(script)
        config = module.Config(data_dir=competition, output_dir=folder, name=f"{script}-folds", **options)
        run_task(TextTask(module.build_pipeline, config, 2 * (script != "nbsvm")), SklearnTrainer())
    linear = [f"{script}-folds" for script in LINEAR]
    ensemble(linear, folder, "linear", competition, False)
    ensemble([*linear, "lstm-folds"], folder, "mixed", competition, False)
    return folder


def without_predictions(finished, tmp_path):
    """The runs as if `predict --unlabeled` had never been called."""
    return shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("unlabeled.npz", "*.unlabeled.csv"))


def test_the_teacher_knows_the_unlabeled_and_leaves_the_labels(competition):
    part, targets = labels_of(competition).add(HELD_OUT)
    assert targets.shape == (460,) and part.train.tolist() == [*range(300), *range(400, 460)]
    train_file, unlabeled = (
        competition_data.Competition(competition, "--data-dir").read(name)
        for name in (competition_data.TRAIN, competition_data.UNLABELED)
    )
    assert np.array_equal(targets[:400], train_file.labels) and np.array_equal(part.validation, np.arange(300, 400))
    soft = targets[400:]
    assert ((soft > 0) & (soft < 1)).all()
    truth = np.arange(60) % 2  # how conftest writes them; the file itself does not tell
    assert ((soft > 0.5) == truth).mean() > 0.8
    itself = nbsvm.build_pipeline(nbsvm.Config()).fit([clean(text) for text in train_file.texts[:300]], train_file.labels[:300])
    assert np.array_equal(soft, itself.predict_proba([clean(text) for text in unlabeled.texts])[:, 1])


@pytest.mark.parametrize("teacher", ["nbsvm", "nbsvm-folds", "linear"])
def test_a_linear_teacher_never_sees_what_is_validated_on(teacher, finished, competition, tmp_path):
    """Other labels and other words in the held-out rows change nothing that it says of the unlabeled."""
    folder = tmp_path / "other"
    shutil.copytree(competition, folder)
    lines = (folder / competition_data.TRAIN).read_text().splitlines()
    for row in range(301, 401):
        id, label, _ = lines[row].split("\t")
        lines[row] = f'{id}\t{1 - int(label)}\t"something else entirely"'
    (folder / competition_data.TRAIN).write_text("\n".join(lines) + "\n")
    first, second = (labels_of(where, teacher, finished) for where in (competition, folder))
    soft = first.add(HELD_OUT)[1][400:]
    assert np.array_equal(soft, second.add(HELD_OUT)[1][400:]) and soft.std() > 0.01
    everything = Split("refit", np.arange(400), np.arange(0))
    assert not np.allclose(first.add(everything)[1][400:], second.add(everything)[1][400:])


def test_a_quick_try_takes_as_many_unlabeled_as_labeled_reviews(finished, competition):
    for teacher in ("nbsvm", "linear"):
        part, targets = labels_of(competition, teacher, finished, max_train_samples=40).add(
            Split("refit", np.arange(40), np.arange(0))
        )
        assert len(part.train) == 80 and len(targets) == 440


def test_without_unlabeled_reviews_it_says_so(competition, tmp_path):
    folder = tmp_path / "less"
    shutil.copytree(competition, folder)
    (folder / competition_data.UNLABELED).write_text("id\treview\n")
    for _ in range(2):  # an empty file, then none
        with pytest.raises(UserError, match="give --pseudo-labels None"):
            labels_of(folder)
        (folder / competition_data.UNLABELED).unlink(missing_ok=True)


def test_the_default_recipe_does_without_unlabeled_reviews(competition, glove, tmp_path):
    """It says and records so, and trains as with `--pseudo-labels None`."""
    folder = shutil.copytree(competition, tmp_path / "less", ignore=shutil.ignore_patterns(f"{competition_data.UNLABELED}*"))
    options = ["--data-dir", folder, "--word-vectors", glove, *SMALL, "--output-dir", tmp_path]
    default, without = run("lstm.py", *options, "--save-results"), run("lstm.py", *options, "--pseudo-labels", "None")
    assert f"lacks {competition_data.UNLABELED}: trained on the labeled reviews alone" in default.stdout
    assert competition_data.UNLABELED not in without.stdout
    assert json.loads((tmp_path / "results" / "lstm.json").read_text())["config"]["pseudo_labels"] is None
    submissions = tmp_path / "submissions"
    assert (submissions / "lstm.proba.csv").read_bytes() == (submissions / "lstm-no-pseudo-labels.proba.csv").read_bytes()
    refused = run("lstm.py", *options, "--pseudo-labels", "gru", code=2)
    assert "give --pseudo-labels None" in refused.stderr and len(list(submissions.iterdir())) == 4


def test_a_script_has_its_default_teacher(competition, glove, tmp_path):
    done = run("lstm.py", "--data-dir", competition, "--word-vectors", glove, *SMALL, "--output-dir", tmp_path)
    assert "the teacher is trained on 400 labeled reviews" in done.stdout  # the refit's; the validated part's before
    assert {path.name for path in (tmp_path / "submissions").iterdir()} == {"lstm.csv", "lstm.proba.csv"}


@pytest.mark.parametrize(
    ("config", "teacher", "name"),
    [
        (lstm.Config, "nbsvm", "lstm"), (lstm.Config, None, "lstm-no-pseudo-labels"),
        (lm_lstm.Config, "nbsvm", "lm_lstm-pseudo-labels"), (lm_lstm.Config, None, "lm_lstm"),
    ],
)  # fmt: skip
def test_a_run_with_another_teacher_than_its_scripts_has_a_name_of_its_own(config, teacher, name):
    options = config(pseudo_labels=teacher)
    options.prepare(config.__module__)
    assert options.name == name


@pytest.mark.parametrize(
    ("teacher", "name"),
    [
        ("linear", "linear"), ("a/gru.unlabeled.csv", "gru"), ("a/gru.csv.gz", "gru"), ("gru.unlabeled.csv.zip", "gru"),
        ("runs/gru/seed-2", "gru-seed-2"),
    ],
)  # fmt: skip
def test_a_students_name_ends_in_that_of_its_teacher(teacher, name):
    config = lstm.Config(pseudo_labels=teacher)
    config.prepare("lstm")
    assert config.name == f"lstm-pseudo-labels-{name}"


def test_a_run_teaches_with_the_model_that_did_not_see_the_validation_set(finished, competition, tmp_path):
    """Of the same hold-out, or of the same fold; without a validation set, with what it submits."""
    folder = without_predictions(finished, tmp_path)
    data = competition_data.Competition(competition, "--data-dir")
    train_file, unlabeled = data.read(competition_data.TRAIN), data.read(competition_data.UNLABELED)
    with pytest.raises(UserError, match=r"has no predictions of the unlabeled reviews yet: run .*--unlabeled --model"):
        labels_of(competition, "lstm", folder)
    for name, options, models in (
        ("lstm", {}, [["validated"], ["refit"]]),
        ("lstm-folds", {"folds": 2}, [["fold-1"], ["fold-2"], ["fold-1", "fold-2"]]),
        ("lstm-folds", {}, [["fold-1"], ["fold-1", "fold-2"]]),  # which holds out all of the hold-out
    ):
        predict_unlabeled(name, competition, folder)
        student = labels_of(competition, name, folder, no_validation=False, **options)
        splits = validation_splits(lstm.Config(**options), train_file.ids, train_file.labels)
        for split, names in zip([*splits, Split("refit", np.arange(400), np.arange(0))], models, strict=True):
            model = load(folder / "runs" / name / "seed-1", names)
            assert np.allclose(student.add(split)[1][400:], model.probability(unlabeled.texts))
        written = pd.read_csv(folder / "submissions" / f"{name}.unlabeled.csv")
        assert list(written) == ["id", "probability"] and len(written) == 60
        submitted = load(folder / "runs" / name / "seed-1").probability(unlabeled.texts)
        assert np.allclose(written["probability"], submitted, atol=1e-6)


def test_a_teacher_that_saw_the_validation_set_is_refused(finished, competition, glove, tmp_path):
    folder = without_predictions(finished, tmp_path)
    train_lstm(competition, glove, folder, "all", no_validation=True)
    for name in ("lstm", "mixed", "all"):  # of the mixed ensemble's members, the LSTM is predicted with
        predict_unlabeled(name, competition, folder)
    for name, options in (
        ("lstm-folds", {"folds": 3}),
        ("mixed", {"folds": 3}),
        ("lstm", {"folds": 2}),
        ("lstm", {"split_by": "random"}),
        ("all", {}),
    ):
        with pytest.raises(UserError, match="was trained on reviews that this run is validated on: train both with the same"):
            labels_of(competition, name, folder, no_validation=False, **options)
        labels_of(competition, name, folder, **options | {"folds": None})
    # allowed are the members' own folds and, as the first of them has all of it, the hold-out; of a linear ensemble all splits
    for options in ({}, {"folds": 2}):
        labels_of(competition, "mixed", folder, no_validation=False, **options)
    for options in ({}, {"folds": 3}, {"split_by": "random"}):
        labels_of(competition, "linear", folder, no_validation=False, **options)
    for name, teacher in (("lstm", "lstm"), ("lstm-folds", "mixed")):  # the second one is of the ensemble's members
        config = lstm.Config(data_dir=competition, output_dir=folder, name=name, pseudo_labels=teacher)
        with pytest.raises(UserError, match="is that of the teacher, whose run this one would replace"):
            PseudoLabels(config, competition_data.Competition(competition, "--data-dir"))


def test_a_run_that_does_not_fit_is_refused(finished, competition, tmp_path):
    folder = without_predictions(finished, tmp_path)
    run_dir = folder / "runs" / "lstm" / "seed-1"
    other = shutil.copytree(competition, tmp_path / "other")
    lines = (other / competition_data.TRAIN).read_text().splitlines()
    (other / competition_data.TRAIN).write_text("\n".join(lines[:-40]) + "\n")
    with pytest.raises(UserError, match="was trained on another split of the training reviews"):
        predict_unlabeled("lstm", other, folder)
    (run_dir / "validated" / "best.safetensors").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"validated lacks best\.safetensors"):
        predict_unlabeled("lstm", competition, folder)
    (tmp_path / "away").rename(run_dir / "validated" / "best.safetensors")
    predict_unlabeled("lstm", competition, folder)
    for name, where, message in (("lstm", other, "is of other reviews"), ("linear", other, "is of other training reviews")):
        with pytest.raises(UserError, match=message):
            labels_of(where, name, folder)
    (run_dir / "unlabeled.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="is damaged"):
        labels_of(competition, "lstm", folder)
    shutil.rmtree(folder / "runs" / "nbsvm-folds")
    with pytest.raises(UserError, match="lacks the run nbsvm-folds/seed-1 of the ensemble linear"):
        labels_of(competition, "linear", folder)
    with pytest.raises(UserError, match="there is no run of nobody"):
        labels_of(competition, "nobody", folder)


def test_what_was_predicted_before_the_run_went_on_is_refused(finished, competition, tmp_path):
    """A split that ended after `predict --unlabeled`, and a member that was trained again after the ensemble."""
    folder = without_predictions(finished, tmp_path)
    ended = folder / "runs" / "lstm-folds" / "seed-1" / "fold-2"
    ended.rename(tmp_path / "fold-2")
    predict_unlabeled("lstm-folds", competition, folder)
    (tmp_path / "fold-2").rename(ended)
    with pytest.raises(UserError, match="has the models fold-1, fold-2, and only fold-1 predicted the unlabeled reviews: run"):
        labels_of(competition, "lstm-folds", folder)
    member = folder / "runs" / "nbsvm-folds" / "seed-1"
    result = load_fit_result(member / "fold-1")
    save_fit_result(member / "fold-1", replace(result, test=result.test / 2))
    for use in (lambda: labels_of(competition, "linear", folder), lambda: load(folder / "runs" / "linear")):
        with pytest.raises(
            UserError, match="nbsvm-folds/seed-1 was trained again after the ensemble linear was made: run python"
        ):
            use()


def test_an_interrupted_prediction_goes_on_with_the_next_split(finished, competition, tmp_path, monkeypatch):
    folder, loaded = without_predictions(finished, tmp_path), []

    def interrupted_at(number: int):
        def load_one(folder, splits, device):
            loaded.extend(splits)
            if len(loaded) == number:
                raise KeyboardInterrupt
            return load(folder, splits, device)

        return load_one

    monkeypatch.setattr(prediction, "load", interrupted_at(2))
    with pytest.raises(KeyboardInterrupt):
        predict_unlabeled("lstm-folds", competition, folder)
    monkeypatch.setattr(prediction, "load", interrupted_at(0))
    predict_unlabeled("lstm-folds", competition, folder)
    assert loaded == ["fold-1", "fold-2", "fold-2"]
    predict_unlabeled("lstm-folds", competition, folder)  # a complete one starts anew
    assert loaded[3:] == ["fold-1", "fold-2"]
    labels_of(competition, "lstm-folds", folder)


def test_a_model_is_moved_to_the_device(finished):
    (model,) = load(finished / "runs" / "lstm" / "seed-1", device=torch.device("meta")).models
    assert model.device.type == "meta" and all(weights.is_meta for weights in model.module.parameters())


def test_an_ensemble_predicts_new_reviews_by_its_stacker(finished, competition):
    data = competition_data.Competition(competition, "--data-dir")
    test, model = data.read(competition_data.TEST), load(finished / "runs" / "mixed")
    members = [*(f"{script}-folds" for script in LINEAR), "lstm-folds"]
    odds = []
    for name in members:
        submitted = pd.read_csv(finished / "submissions" / f"{name}.proba.csv", quoting=3).set_index("id")["sentiment"]
        odds.append(np.log(submitted[test.ids] / (1 - submitted[test.ids])).to_numpy())
    wanted = 1 / (1 + np.exp(-(np.array(odds).T @ model.coef + model.intercept)))
    assert np.allclose(model.probability(test.texts), wanted, atol=1e-4) and wanted.std() > 0.1
    words = dict(model.explain("superb and dull"))
    assert words["superb"] > words["dull"]


def test_the_ensemble_weighs_its_members_without_the_validation_set(finished, competition, tmp_path):
    """Nonsense in its members' out-of-fold probabilities of those rows changes nothing."""
    folder = without_predictions(finished, tmp_path)
    first = labels_of(competition, "linear", folder)
    second = labels_of(competition, "linear", folder)
    features = second.teacher.features.copy()
    features[300:] = np.random.default_rng(0).normal(size=features[300:].shape)
    second.teacher = replace(second.teacher, features=features)
    assert np.array_equal(first.add(HELD_OUT)[1], second.add(HELD_OUT)[1])
    everything = Split("refit", np.arange(400), np.arange(0))
    assert not np.allclose(first.add(everything)[1], second.add(everything)[1])


def test_a_file_teaches_with_a_warning_that_is_recorded(finished, competition, glove, tmp_path, capsys):
    path = tmp_path / "any.csv"
    predict_unlabeled("linear", competition, finished, path)
    table = pd.read_csv(path)
    table.iloc[::-1].to_csv(path, index=False)  # in another order
    student = labels_of(competition, path)
    assert np.allclose(student.add(HELD_OUT)[1][400:], table["probability"])
    capsys.readouterr()
    assert "teacher_origin" not in student.provenance  # nothing is validated
    options = {"pseudo_labels": str(path), "folds": 2, "save_results": True}
    train_lstm(competition, glove, tmp_path, "student", **options)
    assert "WARNING: what" in capsys.readouterr().out
    content = json.loads((tmp_path / "results" / "student.json").read_text())
    (entry,) = content["runs"]
    assert content["config"]["pseudo_labels"] == "any.csv" and entry["teacher_sha256"] == student.provenance["teacher_sha256"]
    assert entry["teacher_origin"] == "unknown, so the validation metrics may be too high"
    # a student's student inherits the doubt
    predict_unlabeled("student", competition, tmp_path)
    config = lstm.Config(data_dir=competition, output_dir=tmp_path, name="second", pseudo_labels="student", folds=2)
    assert "teacher_origin" in PseudoLabels(config, competition_data.Competition(competition, "--data-dir")).provenance
    table["probability"] = table["probability"] / 2
    table.to_csv(path, index=False)
    with pytest.raises(SystemExit):
        train_lstm(competition, glove, tmp_path, "student", resume=True, **options)
    assert "its teacher_sha256 is" in capsys.readouterr().err


def test_a_resumed_run_may_have_its_teacher_elsewhere(tmp_path):
    config = lstm.Config(output_dir=tmp_path, name="student", pseudo_labels="here.csv")
    start_or_resume(config, teacher_sha256="same")
    moved = replace(config, pseudo_labels="there.csv")
    assert differing_settings(moved, teacher_sha256="same") == []
    assert differing_settings(moved, teacher_sha256="other") == ["its teacher_sha256 is same where this one's is other"]
    for other in ("nbsvm", None):  # which have no checksum
        expected = [f"its pseudo_labels is here.csv where this one's is {other}"]
        assert differing_settings(replace(config, pseudo_labels=other)) == expected


def test_a_file_that_does_not_fit_is_refused(competition, tmp_path):
    ids = [id.strip('"') for id in competition_data.Competition(competition, "--data-dir").read(competition_data.UNLABELED).ids]
    good = pd.DataFrame({"id": ids, "probability": 0.5})
    path = tmp_path / "teacher.csv"
    for table, message in (
        (good[:-1], "has 59 rows where these data have 60, of which it lacks 1"),
        (good.assign(id=[*ids[:-1], "other"]), "of which it lacks 1"),
        (good.assign(probability=[0.5] * 59 + [1.5]), "row 61: the probability is 1.5, not a probability"),
        (good.assign(probability=[None] + [0.5] * 59), "row 2: the probability is , not a probability"),
        (good.rename(columns={"probability": "sentiment"}), "lacks the column 'probability'"),
    ):
        table.to_csv(path, index=False)
        with pytest.raises(UserError, match=message):
            labels_of(competition, path)
    with pytest.raises(UserError, match="there is no file"):
        labels_of(competition, tmp_path / "none.csv")


@pytest.mark.parametrize("script", ["bert_native", "bert_trainer"])
def test_a_pretrained_model_is_fine_tuned_with_a_teacher(script, finished, competition, tmp_path):
    """Even where all its probabilities are below one half, they are not classes."""
    checkpoint, module, path = pretrained.write(tmp_path / "bert", "bert"), import_module(script), tmp_path / "teacher.csv"
    predict_unlabeled("linear", competition, finished, path)
    table = pd.read_csv(path)
    results = []
    for factor in (0.0, 0.5):
        table.assign(probability=table["probability"] * factor).to_csv(path, index=False)
        config = module.Config(
            data_dir=competition, output_dir=tmp_path, name="bert", model=str(checkpoint), epochs=1, max_length=32, refit=False,
            precision="fp32", pseudo_labels=str(path), learning_rate=1e-3,
        )  # fmt: skip
        is_native = script == "bert_native"
        task = FinetuningTask(module.BERT if is_native else module.build, config)
        run_task(task, PyTorchTrainer(module.train) if is_native else HFTrainer(module.training_arguments))
        assert len(task.train) == 460
        results.append(pd.read_csv(tmp_path / "submissions" / "bert.proba.csv", quoting=3)["sentiment"])
    assert results[1].mean() > results[0].mean()
    settings = json.loads((tmp_path / "runs" / "bert" / "seed-1" / "settings.json").read_text())
    assert settings["pseudo_labels"] == str(path) and len(settings["teacher_sha256"]) == 64


def test_probabilities_of_0_and_1_give_the_library_loss():
    """The cross-entropy of two classes is that of their log-odds."""
    labels = torch.tensor([0, 1, 1])
    model = BertForSequenceClassification(BertConfig(**pretrained.SMALL, num_labels=2)).eval()
    tuner = FineTuner.__new__(FineTuner)
    inputs = {"input_ids": torch.arange(12).view(3, 4), "labels": labels}
    wanted = model(**inputs).loss
    loss, outputs = tuner.mean_loss(model, inputs | {"labels": labels.double()})
    assert torch.allclose(loss, wanted) and outputs.logits.shape == (3, 2)


def test_a_kernel_takes_a_file_and_no_run(tmp_path):
    with pytest.raises(UserError, match=r"is a run, which Kaggle does not have: upload the file .* name it in dataset_sources"):
        write_kernel("gru", tmp_path, "somebody", "--pseudo-labels linear")
    write_kernel("gru", tmp_path, "somebody", "--pseudo-labels nbsvm")
    made = (tmp_path / "gru" / "gru.py").read_text()
    assert "FILES['nbsvm.py']" in made and "FILES['popcorn/training/sklearn_pipeline.py']" in made
    metadata = tmp_path / "gru" / "kernel-metadata.json"
    written = json.loads(metadata.read_text())
    assert written["dataset_sources"] == []
    metadata.write_text(json.dumps(written | {"dataset_sources": ["somebody/teacher"]}))
    write_kernel("gru", tmp_path, "somebody", "--pseudo-labels /kaggle/input/teacher/lstm.unlabeled.csv")
    assert json.loads(metadata.read_text())["dataset_sources"] == ["somebody/teacher"]  # which the user attached
    assert "FILES['nbsvm.py']" not in (tmp_path / "gru" / "gru.py").read_text()
    metadata.write_text("{")
    with pytest.raises(UserError, match=r"kernel-metadata\.json cannot be read .*: correct it, or remove it"):
        write_kernel("gru", tmp_path, "somebody")
