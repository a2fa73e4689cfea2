"""No weight is lost on the way: from a checkpoint to the training that goes on, to the best epoch, and to `predict`."""

from types import SimpleNamespace

import numpy as np
import pretrained
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import bert_native
import bert_scratch
import bert_trainer
import deberta_lora
import deberta_ptuning
from popcorn.errors import UserError
from popcorn.inference import load
from popcorn.runs.run import run
from popcorn.runs.run_dir import PREDICTIONS
from popcorn.training.adapters import AdapterTuner, build_adapter
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.hf_trainer import HFTrainer
from popcorn.training.masked_lm import FurtherPretraining
from popcorn.training.review_trainer import ReviewTrainer

SCRIPTS = {"bert_trainer": bert_trainer, "bert_scratch": bert_scratch}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """With the names that Google's first BERT has for a layer norm's weights, which no layer norm has left as they began."""
    torch.manual_seed(0)
    folder = pretrained.write(tmp_path_factory.mktemp("checkpoint") / "bert", "bert", initializer_range=0.4)
    path, first = folder / "model.safetensors", {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = load_file(path)
    for new, old in first.items():
        for name in [name for name in weights if name.endswith(new)]:
            weights[name.replace(new, old)] = weights.pop(name) + torch.rand(16)
    save_file(weights, path, metadata={"format": "pt"})
    assert any("gamma" in name for name in load_file(path))
    return folder


@pytest.fixture
def config_of(checkpoint, competition, tmp_path):
    def make(script, folder, **more):
        options = {
            "model": str(checkpoint), "data_dir": competition, "output_dir": tmp_path / folder, "name": script.__name__,
            "epochs": 3, "batch_size": 16, "learning_rate": 1e-2, "precision": "fp32", "max_length": 16, "checkpoint_every": 2,
            "max_train_samples": 80, "refit": False, "patience": 3,
        } | more  # fmt: skip
        return script.Config(**options)

    return make


def submitted(config) -> bytes:
    return (config.output_dir / "submissions" / f"{config.name}.proba.csv").read_bytes()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_resumed_run_is_the_undisturbed_one_and_so_is_what_it_leaves(script, config_of, monkeypatch):
    """Of a checkpoint with other names for layer norms; the run ends in the second epoch, and the best epoch is not the last."""
    module, step, taken = SCRIPTS[script], ReviewTrainer.training_step, []

    def killed(self, *arguments, **options):
        taken.append(1)
        if len(taken) == 9:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    whole, parts = config_of(module, "whole"), config_of(module, "parts")
    task = FinetuningTask(module.build, whole)
    run(task, HFTrainer(module.training_arguments))
    monkeypatch.setattr(ReviewTrainer, "training_step", killed)
    with pytest.raises(SystemExit):
        run(FinetuningTask(module.build, parts), HFTrainer(module.training_arguments))
    parts.resume = True
    run(FinetuningTask(module.build, parts), HFTrainer(module.training_arguments))
    assert len(taken) < 18 and submitted(parts) == submitted(whole)
    (left, other) = (config.output_dir / "runs" / script / "seed-1" / "validated" for config in (whole, parts))
    assert (left / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()
    texts = task.competition.read("testData.tsv").texts
    found = load.load(left.parent).probability(texts)
    with np.load(left / PREDICTIONS) as saved:
        assert np.allclose(found, saved["test"], atol=1e-6) and found.std() > 1e-3


def trainer_of(kind, model, folder):
    """A trainer with nothing but its model: what writes and reads its weights needs no more."""
    trainer = kind.__new__(kind)
    trainer.model, trainer.args = model, SimpleNamespace(should_save=True, output_dir=str(folder))
    return trainer


def models(checkpoint, tmp_path):
    """By name a trainer's class and two models of its kind with other weights."""
    torch.manual_seed(1)
    deberta = pretrained.write(tmp_path / "deberta", "deberta-v2", initializer_range=0.1)
    for name, build, config in (
        ("bert", bert_trainer.build, bert_trainer.Config()),
        ("scratch", bert_scratch.build, bert_scratch.Config()),
    ):
        yield name, ReviewTrainer, [build(config, checkpoint) for _ in range(2)]
    for script in (deberta_lora, deberta_ptuning):
        config = script.Config(model=str(deberta), bits=32, precision="fp32")
        yield script.__name__, AdapterTuner, [build_adapter(script.peft_config, config, deberta) for _ in range(2)]


@pytest.mark.parametrize("name", ["bert", "scratch", "deberta_lora", "deberta_ptuning"])
def test_a_checkpoint_is_read_whole_or_refused(name, checkpoint, tmp_path):
    kind, (one, other) = next(its[1:] for its in models(checkpoint, tmp_path) if its[0] == name)
    with torch.no_grad():
        for weights in one.parameters():
            if weights.requires_grad:
                weights.add_(torch.rand_like(weights))
    folder = tmp_path / "checkpoint-1"
    trainer_of(kind, one, folder)._save(str(folder))
    for rest in ("optimizer.pt", "scheduler.pt"):
        (folder / rest).write_bytes(b"")
    assert not list(folder.glob("*.bin"))  # the library would pickle its arguments there
    trainer = trainer_of(kind, other, folder)
    trainer.state = SimpleNamespace(best_model_checkpoint=str(folder))
    trainer._load_best_model()
    for (key, left), right in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(left, right) or "original_module" in key, key  # PEFT's copy of what a head was before
    path = folder / "model.safetensors"
    weights = load_file(path)
    for spoiled in (
        {key: value for key, value in weights.items() if key != sorted(weights)[0]},
        weights | {"surplus": torch.zeros(1)},
        {key.replace("weight", "gamma"): value for key, value in weights.items()},
    ):
        save_file(spoiled, path)
        with pytest.raises(UserError, match="is damaged"):
            trainer._load_from_checkpoint(str(folder))
    save_file(weights, path)
    for rest in ("optimizer.pt", "scheduler.pt"):
        (folder / rest).unlink()
        with pytest.raises(UserError, match=f"lacks {rest}"):
            trainer._load_from_checkpoint(str(folder))
        (folder / rest).write_bytes(b"")


def test_further_pretraining_loses_no_weight(config_of, checkpoint, tmp_path):
    config = config_of(
        bert_native, "further", pretrain_epochs=1, max_train_samples=32
    )  # two steps: the first has a learning rate of 0
    task = FinetuningTask(bert_native.BERT, config)
    task.load()
    first = FurtherPretraining(config, task.train, task.tokenizer, "content")
    first.train(float("inf"))
    before, after = (AutoModel.from_pretrained(folder).state_dict() for folder in (checkpoint, first.folder))
    kept = load_file(first.folder / "model.safetensors")
    assert kept.keys() == after.keys() == before.keys()
    assert all(torch.equal(kept[name], after[name]) for name in after)
    norms = [name for name in after if "LayerNorm" in name]
    assert norms and all(0 < (after[name] - before[name]).abs().max() < 0.1 for name in norms)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("lost", r"1 of 41 are missing, such as bert.encoder.layer.1.output.LayerNorm.weight: "),
        ("surplus", "cannot be read"),
        ("renamed", r"1 of 41 are missing, such as bert.encoder.layer.1.output.LayerNorm.weight \("),
    ],
)
def test_predict_refuses_a_model_with_a_weight_missing(spoil, said, config_of, tmp_path):
    config = config_of(bert_trainer, "run", epochs=1, max_train_samples=40, no_validation=True, refit=True)
    run(FinetuningTask(bert_trainer.build, config), HFTrainer(bert_trainer.training_arguments))
    folder = tmp_path / "run" / "runs" / "bert_trainer" / "seed-1"
    path = folder / "refit" / "model" / "model.safetensors"
    weights = load_file(path)
    name = "bert.encoder.layer.1.output.LayerNorm.weight"
    value = weights.pop(name)
    if spoil != "lost":
        weights |= {name: value, "surplus": value.clone()} if spoil == "surplus" else {name + "s": value}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=said):
        load.load(folder)


@pytest.mark.parametrize("spoil", ["lost", "surplus", "renamed"])
def test_an_adapter_with_a_weight_missing_is_refused(spoil, tmp_path):
    torch.manual_seed(1)
    base = pretrained.write(tmp_path / "deberta", "deberta-v2", initializer_range=0.1)
    config = deberta_lora.Config(model=str(base), bits=32, precision="fp32")
    model = build_adapter(deberta_lora.peft_config, config, base)
    kept = tmp_path / "kept"
    trainer = trainer_of(AdapterTuner, model, kept)
    trainer.data_collator = SimpleNamespace(tokenizer=SimpleNamespace(save_pretrained=lambda folder: None))
    trainer.is_world_process_zero = lambda: True
    trainer.save_artifacts(kept)
    config.adapter = kept
    build_adapter(deberta_lora.peft_config, config, base)
    path = kept / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "lora_B" in name)
    value = weights.pop(name)
    if spoil != "lost":
        weights |= {name: value, name.replace("layer.", "layer.9"): value.clone()} if spoil == "surplus" else {name + "s": value}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="is not an adapter of a finished run"):
        build_adapter(deberta_lora.peft_config, config, base)
