"""Packages that are missing or broken cost the part that needs them, and a sentence says what to install."""

import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run
from peft import import_utils
from torch import nn
from transformers import DebertaV2Config

from popcorn import memory_estimate
from popcorn.data import word_tokenizer
from popcorn.data.batching import EncodedReviews
from popcorn.errors import UserError
from popcorn.inference import load, predict
from popcorn.inference.predictors import Neural
from popcorn.kaggle import kernel
from popcorn.models import hub
from popcorn.reporting import leaderboard
from popcorn.runs.results import Row
from popcorn.training import adapters

ERRORS = {"missing": None, "broken": "RuntimeError('libfoo.so: wrong version')", "older": "AttributeError('no such name')"}
SIZES = DebertaV2Config(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50, num_labels=2
)


@pytest.fixture(params=ERRORS)
def spoil(request, tmp_path, monkeypatch):
    """A way to make a package missing, or to have its import raise; and how the sentence about it goes on."""

    def make(package: str) -> str:
        top = package.partition(".")[0]
        for name in [name for name in sys.modules if name == top or name.startswith(top + ".")]:
            monkeypatch.delitem(sys.modules, name)
        error = ERRORS[request.param]
        monkeypatch.setitem(sys.modules, top, None)  # and whatever the test makes of it is undone
        if error is None:
            return "which is not installed: pip install"
        monkeypatch.delitem(sys.modules, top)
        (tmp_path / "packages" / top).mkdir(parents=True)
        (tmp_path / "packages" / top / "__init__.py").write_text(f"raise {error}\n")
        monkeypatch.syspath_prepend(str(tmp_path / "packages"))
        return r"which cannot be imported here \(\w+Error: .*\): pip install --upgrade"

    return make


def neural() -> Neural:
    """Three words, each a token."""
    embedding = nn.Embedding(10, 4)
    return Neural(
        lambda tokens, lengths: embedding(tokens).sum((1, 2)), embedding, embedding,
        lambda texts: EncodedReviews([np.array([2, 3, 4])] * len(texts), 8),
        lambda text: [(word, 1) for word in text.split()], num_special_tokens=0,
    )  # fmt: skip


def test_predict_shows_its_result_without_captum(spoil, capsys):
    said = spoil("captum")
    model, console = neural(), predict.make_console()
    assert not predict.show(model, "a good film", console) and not predict.show(model, "a good film", console)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("probability of positive") == 2 and shown.count("a good film") == 2
    assert len(re.findall(f"needs captum, {said} captum", shown)) == 1


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("gensim", "popcorn.utils.progress"), ("gensim", "paragraph_vectors"), ("jinja2", "popcorn.reporting.report"),
        ("matplotlib", "popcorn.reporting.plots"), ("adjustText", "popcorn.reporting.plots"),
    ],
)  # fmt: skip
def test_a_module_names_the_package_that_it_lacks(package, module, spoil, monkeypatch):
    said = spoil(package)
    for name in (module, "popcorn.utils.progress"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match=f"needs {package}, {said} {package}"):
        import_module(module)


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("nbformat", lambda: kernel.notebook(["a", "b"])),
        ("gradio", lambda: predict.serve(None, "lstm")),
        ("tenacity", lambda: hub.fetch("someone/model", "bert")),
        ("nltk", lambda: word_tokenizer._tokenizer.__wrapped__()),
    ],
)
def test_a_command_names_the_package_that_it_lacks(package, use, spoil):
    said = spoil(package)
    with pytest.raises(UserError, match=f"needs {package}, {said} {package}"):
        use()


@pytest.mark.parametrize("package", ["sentencepiece", "protobuf"])
def test_a_tokenizer_of_sentencepiece_names_what_it_lacks(package, spoil, tmp_path):
    from popcorn.models.tokenizer import read_tokenizer

    SIZES.save_pretrained(tmp_path)
    (tmp_path / "spm.model").touch()
    said = spoil({"protobuf": "google"}.get(package, package))
    with pytest.raises(UserError, match=f"needs {package}, {said} {package}"):
        read_tokenizer(tmp_path)


def test_training_goes_on_without_tensorboard(spoil, monkeypatch, tmp_path, capsys):
    from transformers import TrainingArguments

    from popcorn.config import TrainingConfig
    from popcorn.training import loop
    from popcorn.training.micro_batches import LengthGroupedBatchSampler, ReviewDataset
    from popcorn.training.model_task import ModelTask
    from popcorn.training.pytorch_trainer import PyTorchTrainer
    from popcorn.training.review_trainer import complete_arguments

    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    spoil("tensorboard")
    dataset = ReviewDataset(EncodedReviews([np.array([1, 2])] * 4, 8), np.arange(4))
    batches = LengthGroupedBatchSampler(dataset, 2, 2, 1)
    made = complete_arguments(TrainingArguments(), TrainingConfig(precision="fp32"), tmp_path, batches, 2, epochs=1)
    assert made.report_to == []
    trainer = PyTorchTrainer(loop.train)
    trainer.set_up(ModelTask(TrainingConfig(precision="fp32")), tmp_path, 0.0)
    assert [tracker.name for tracker in trainer.accelerator.trackers] == ["jsonl"]
    trainer.finish()
    assert capsys.readouterr().out.count("No curves for TensorBoard: TensorBoard needs tensorboard, which") == 2


def test_tensorboard_leaves_tensorflow_alone(tmp_path, monkeypatch):
    from popcorn.utils.packages import tensorboard_if_usable

    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise AssertionError('TensorFlow was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("tensorboard.compat")]:
        monkeypatch.delitem(sys.modules, name)
    assert tensorboard_if_usable() == ["tensorboard"]
    from tensorboard.compat import tf

    assert tf.io.gfile.exists(str(tmp_path))


def test_the_leaderboard_is_written_without_its_drawing(spoil, monkeypatch, tmp_path, capsys):
    monkeypatch.delitem(sys.modules, "popcorn.reporting.plots", raising=False)
    row = Row("lstm", 0.9, None, 0.01, 0.95, 0.9, False, 60.0, 10.0, 2**30, 10**6, 1, "machine", "python lstm.py")
    monkeypatch.setattr(leaderboard, "rows", lambda folder: iter([row]))
    readme = tmp_path / "README.md"
    readme.write_text(f"{leaderboard.begin('results')}\n{leaderboard.END}\n")
    said = spoil("adjustText")
    leaderboard.update(tmp_path, (readme,))
    assert "| lstm |" in readme.read_text() and not (tmp_path / "leaderboard.png").exists()
    assert f"leaderboard.png is not drawn: a chart needs adjustText, {said[:10]}" in capsys.readouterr().out


@pytest.mark.parametrize("version", ["0.10.0", "0.15.0", "0.17.0"])
@pytest.mark.parametrize("script", ["deberta_lora", "deberta_prefix"])
def test_peft_works_beside_any_torchao(version, script, tmp_path, monkeypatch):
    """Too old for PEFT, or broken: no adapter is of torchao's."""
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.delitem(sys.modules, "torchao")
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text("raise RuntimeError('torchao is broken')")
    (tmp_path / f"torchao-{version}.dist-info").mkdir()
    (tmp_path / f"torchao-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torchao\nVersion: {version}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import_utils.is_torchao_available.cache_clear()
    module = import_module(script)
    assert memory_estimate.adapter_on_meta(module, module.Config(model=str(tmp_path)), SIZES).peft_config
    import_utils.is_torchao_available.cache_clear()


def test_a_broken_bitsandbytes_is_left_out(spoil, monkeypatch, capsys):
    from popcorn.utils.packages import hide_unusable_quantizers

    said = spoil("bitsandbytes")
    hide_unusable_quantizers()
    assert find_spec("bitsandbytes") is None
    assert ("bitsandbytes cannot be imported here" in capsys.readouterr().out) == ("cannot" in said)


@pytest.mark.parametrize(
    ("script", "broken"),
    [pytest.param("bert_trainer", ["bitsandbytes"], marks=pytest.mark.slow), ("deberta_lora", ["bitsandbytes", "torchao"])],
)
def test_a_script_starts_beside_broken_quantizers(script, broken, tmp_path):
    """The library's Trainer imports PEFT, which imports them."""
    for package in broken:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('libfoo.so: wrong version')")
    done = run(f"{script}.py", "--help", PYTHONPATH=str(tmp_path))
    assert "--learning-rate" in done.stdout and done.stdout.count("bitsandbytes cannot be imported here") == 1


def test_predict_takes_the_bits_that_can_be_had(monkeypatch):
    """Trained with 8 bits on a GPU, asked where bitsandbytes is missing: 16 are what an adapter can do without it."""
    monkeypatch.setattr(adapters, "is_bitsandbytes_available", lambda: False)
    monkeypatch.setattr(load, "require_file", lambda path: path)
    monkeypatch.setattr(adapters, "build_adapter", lambda peft_config, config, checkpoint: config.bits)
    monkeypatch.setattr(load, "load_hf_predictor", lambda model, config, checkpoint: model)
    config = import_module("deberta_lora").Config(bits=8)
    config.checkpoint = Path("base")
    assert load._adapter(None, config, Path("part")) == 32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    config.bits = 8
    assert load._adapter(None, config, Path("part")) == 16


@pytest.mark.parametrize(
    ("package", "command", "said"),
    [
        ("gensim", ("glove-gensim.py", "--glove", "a.txt", "--output", "b.kv"), "a .kv file needs gensim"),
        ("gensim", ("paragraph_vectors.py",), "training word vectors needs gensim"),
        ("platformdirs", ("lstm.py",), "the package platformdirs"),
    ],
)
def test_a_script_without_its_packages_ends_in_a_sentence(package, command, said, tmp_path):
    """In the imports, outside of everything that could catch them."""
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('No module named {package}', name='{package}')")
    done = run(*command, code=2, PYTHONPATH=str(tmp_path))
    assert done.stderr.startswith(f"error: {said}") and f"is not installed: pip install {package}" in done.stderr
