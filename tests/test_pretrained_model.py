"""What a checkpoint's folder may hold, and what becomes of it: all weights or a sentence, its sizes and no other setting."""

import json
import math
import re
import shutil
from importlib import import_module
from pathlib import Path

import pretrained
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    ModernBertForMaskedLM,
    RobertaForMaskedLM,
)  # fmt: skip

import bert_native
import bert_scratch
import bert_trainer
import deberta_trainer
import distilbert_native
import distilbert_trainer
import modernbert_trainer
import roberta_trainer
from popcorn.errors import UserError
from popcorn.inference.load import load
from popcorn.kaggle import plan
from popcorn.memory_estimate import Arithmetic
from popcorn.models.hub import fetch, find_checkpoint
from popcorn.models.pretrained import architecture, weights_checksum
from popcorn.models.saved import save_metadata
from popcorn.models.tokenizer import load_tokenizer
from popcorn.runs.run_dir import PREDICTIONS
from popcorn.training import adapters
from popcorn.training.finetuning_task import FinetuningTask

BUILDS = {
    "bert_native": bert_native.BERT, "bert_scratch": bert_scratch.build, "bert_trainer": bert_trainer.build,
    "distilbert_native": distilbert_native.DistilBERT, "distilbert_trainer": distilbert_trainer.build,
    "roberta_trainer": roberta_trainer.build, "deberta_trainer": deberta_trainer.build,
    "modernbert_trainer": modernbert_trainer.build,
    "deberta_lora": lambda config, checkpoint: adapters.load_frozen_base(config, checkpoint),
}  # fmt: skip
NEW = {
    "bert_native": ("classifier",), "distilbert_native": ("head",), "bert_scratch": ("dense", "classifier"),
    "distilbert_trainer": ("pre_classifier", "classifier"), "deberta_lora": ("pooler", "classifier"),
    "deberta_trainer": ("pooler", "classifier"), "modernbert_trainer": ("head", "classifier"),
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A tiny checkpoint of each family."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    return {family: pretrained.write(folder / family, family) for family in pretrained.FAMILIES}


@pytest.fixture
def copy(checkpoints, tmp_path):
    """A copy of a checkpoint to change."""
    return lambda family="bert": shutil.copytree(checkpoints[family], tmp_path / "changed", dirs_exist_ok=True)


def config_of(script: str, checkpoint: Path, **options):
    config = import_module(script).Config(model=str(checkpoint), **options)
    config.bits, config.precision = 32, "fp32"
    find_checkpoint(config)
    return config


def built(script: str, checkpoint: Path):
    torch.manual_seed(1)
    return BUILDS[script](config_of(script, checkpoint), checkpoint)


def rewritten(folder: Path, change) -> Path:
    """The folder with its weights changed by a function of all of them."""
    path = folder / "model.safetensors"
    save_file({name: value.contiguous() for name, value in change(load_file(path)).items()}, path)
    return folder


def configured(folder: Path, **settings) -> Path:
    """The folder with more, or other, settings in its config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def require_same(model, expected) -> None:
    """Every weight, to the last bit; of a new head the random numbers too."""
    its, wanted = model.state_dict(), expected.state_dict()
    assert its.keys() == wanted.keys()
    assert all(torch.equal(its[name], wanted[name]) for name in wanted)


def family_of(script: str) -> str:
    return import_module(script).Config.MODEL_TYPE


# weights


@pytest.mark.parametrize("script", BUILDS)
def test_every_weight_but_the_head_s_is_the_checkpoint_s(script, checkpoints):
    model, weights = (
        built(script, checkpoints[family_of(script)]),
        load_file(checkpoints[family_of(script)] / "model.safetensors"),
    )
    heads = NEW.get(script, ("classifier",))
    inside = {name: value for name, value in model.state_dict().items() if name.partition(".")[0] not in heads}
    found = {name.partition(".")[2]: value for name, value in inside.items()}
    assert found.keys() <= weights.keys() and all("pooler" in name for name in weights.keys() - found.keys())
    assert all(torch.equal(found[name], weights[name]) for name in found) and len(found) > 12


WRAPPED = {
    "module": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "model": lambda name: f"model.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "named": lambda name: f"FAMILY.{name}",
    "wrapped and named": lambda name: f"model.module.FAMILY.{name}",
    "another name": lambda name: f"backbone.{name}",
    "in between": lambda name: name.replace("layer.0.", "layer.0._checkpoint_wrapped_module."),
    "older": lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
}


@pytest.mark.parametrize("script", BUILDS)
def test_known_wrappings_are_taken_off(script, checkpoints, copy):
    """All of them by one script, some by each."""
    family = family_of(script)
    expected = built(script, checkpoints[family])
    prefix = {"deberta-v2": "deberta", "modernbert": "model"}.get(family, family)
    for wrap in WRAPPED.values() if script == "bert_trainer" else (WRAPPED["wrapped and named"], WRAPPED["older"]):
        folder = rewritten(copy(family), lambda weights, wrap=wrap: {
            wrap(name).replace("FAMILY", prefix): value for name, value in weights.items()
        })  # fmt: skip
        require_same(built(script, folder), expected)
        shutil.rmtree(folder)


def test_a_wrapped_classifier_keeps_its_head(checkpoints, copy):
    classifier = BertForSequenceClassification.from_pretrained(checkpoints["bert"])
    folder = copy()
    save_file(
        {f"model.{name}": value.contiguous() for name, value in classifier.state_dict().items()}, folder / "model.safetensors"
    )
    require_same(built("bert_trainer", folder), classifier)


def no_layer(weights: dict) -> dict:
    return {name: value for name, value in weights.items() if not re.search(r"layers?\.1\.", name)}


REFUSED = {
    "other names": (lambda weights: {f"x{name}": value for name, value in weights.items()}, r"\d+ of \d+ are missing, such as"),
    "a layer": (no_layer, r"\d+ of \d+ are missing, such as .*layers?\.1\."),
    "one weight": (
        lambda weights: {name: value for name, value in weights.items() if "word_embeddings" not in name},
        r"1 of \d+ are missing, such as .*word_embeddings",
    ),
    "more layers": (
        lambda weights: weights | {re.sub(r"(layers?)\.1\.", r"\1.2.", name): value + 0 for name, value in weights.items()},
        r"\d+ of them are not part of it, such as .*layers?\.2\.",
    ),
    "another shape": (
        lambda weights: {name: value[:100] if "word_emb" in name else value for name, value in weights.items()},
        r"1 of \d+ have another shape, such as .*word_embeddings.*\(100, 16\) in place of \(30522, 16\)",
    ),
    "not a number": (
        lambda weights: {name: value * (math.nan if re.search(r"layers?\.0\.", name) else 1) for name, value in weights.items()},
        r"are damaged .*layers?\.0\..* has values that are not numbers",
    ),
    "infinite": (
        lambda weights: {name: value / (0 if "word_emb" in name else 1) for name, value in weights.items()},
        "are damaged .*word_embeddings.* has values that are not numbers",
    ),
    "half empty": (
        lambda weights: {name: value * (not re.search(r"layers?\.1\.", name)) for name, value in weights.items()},
        r"are damaged .*layers?\.1\..* is all zeros",
    ),
    "quantized": (
        lambda weights: {
            name: value.to(torch.int8) if re.search(r"layers?\.1\.", name) else value for name, value in weights.items()
        },
        r"are quantized .*torch\.int8",
    ),
    "two models": (
        lambda weights: {f"{side}.{name}": value + 0 for side in ("ask", "tell") for name, value in weights.items()},
        r"are of 2 models \(ask\., tell\.\)",
    ),
    "twice": (
        lambda weights: weights | {f"module.{name}": value + 1 for name, value in weights.items()},
        "twice, once in a wrapper",
    ),
    "another family's": (
        lambda weights: {f"electra.{name}": value for name, value in weights.items()},
        r"\d+ of \d+ are missing, such as",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "script"),
    [(case, "bert_trainer") for case in REFUSED]
    + [(case, script) for case in ("other names", "a layer", "not a number") for script in BUILDS if script != "bert_trainer"]
    + [(case, "modernbert_trainer") for case in ("more layers", "half empty", "quantized")],
)
def test_weights_that_are_not_the_model_s_are_refused(case, script, copy):
    change, said = REFUSED[case]
    folder = rewritten(copy(family_of(script)), change)
    with pytest.raises(UserError, match=said) as raised:
        built(script, folder)
    assert str(folder) in str(raised.value)


def test_a_bert_without_a_pooler_is_for_the_script_that_needs_none(checkpoints, copy):
    """A language model that somebody has trained further: its pooler would be random numbers."""
    folder = copy()
    BertForMaskedLM.from_pretrained(checkpoints["bert"]).save_pretrained(folder)
    for script in ("bert_native", "bert_trainer"):
        with pytest.raises(UserError, match=r"2 of \d+ are missing, such as .*pooler.*bert_scratch\.py needs no pooler"):
            built(script, folder)
    require_same(built("bert_scratch", folder), built("bert_scratch", checkpoints["bert"]))


@pytest.mark.parametrize("kind", [BertForPreTraining, BertForSequenceClassification, BertForTokenClassification])
def test_heads_for_other_tasks_are_left(kind, checkpoints, copy):
    folder = copy()
    torch.manual_seed(3)
    kind.from_pretrained(checkpoints["bert"]).save_pretrained(folder)
    script = "bert_scratch" if kind is BertForTokenClassification else "bert_native"  # the former has no pooler
    inner, expected = (next(built(script, each).children()) for each in (folder, checkpoints["bert"]))
    require_same(inner, expected)


def test_a_roberta_as_the_hub_has_it(checkpoints, copy):
    """A language model without a pooler, which this classifier does not have either."""
    folder = copy("roberta")
    RobertaForMaskedLM.from_pretrained(checkpoints["roberta"]).save_pretrained(folder)
    require_same(built("roberta_trainer", folder), built("roberta_trainer", checkpoints["roberta"]))


def test_a_modernbert_as_the_hub_has_it(checkpoints, copy):
    """A language model, whose head is the classifier's too, with the older settings of its layers."""
    folder = copy("modernbert")
    torch.manual_seed(3)
    language_model = ModernBertForMaskedLM.from_pretrained(checkpoints["modernbert"])
    language_model.save_pretrained(folder)
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    newer = settings.pop("layer_types"), settings.pop("rope_parameters")
    older = {"global_attn_every_n_layers": 2, "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0}
    path.write_text(json.dumps(settings | older | {"reference_compile": True, "classifier_pooling": "cls"}))
    model = built("modernbert_trainer", folder)
    assert (model.config.layer_types, model.config.rope_parameters) == newer
    assert model.config.reference_compile is False and model.config.classifier_pooling == "mean"
    require_same(model.model, built("modernbert_trainer", checkpoints["modernbert"]).model)
    require_same(model.head, language_model.head)
    assert model.random_weights == ["classifier.bias", "classifier.weight"]


def test_half_precision_weights_are_trained_in_float32(copy, checkpoints):
    """As DeBERTa-v3's are on the hub: gradients of half precision weights would be lost."""
    folder = as_torch(rewritten(copy("deberta-v2"), lambda weights: {name: value.half() for name, value in weights.items()}))
    configured(folder, torch_dtype="float16")
    assert {weights.dtype for weights in built("deberta_trainer", folder).parameters()} == {torch.float32}


# files


def as_torch(folder: Path, content=None) -> Path:
    torch.save(load_file(folder / "model.safetensors") if content is None else content, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def sharded(folder: Path) -> Path:
    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="1MB")
    assert not (folder / "model.safetensors").exists() and len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.mark.parametrize("stored", [as_torch, sharded])
@pytest.mark.parametrize("script", ["bert_native", "distilbert_trainer", "deberta_lora"])
def test_weights_of_every_form_are_the_same(stored, script, checkpoints, copy):
    family = family_of(script)
    require_same(built(script, stored(copy(family))), built(script, checkpoints[family]))


def test_damaged_files_are_refused(checkpoints, copy):
    def cut(folder):
        path = as_torch(folder) / "pytorch_model.bin"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def emptied(folder):
        (as_torch(folder) / "pytorch_model.bin").write_bytes(b"")

    def with_code(folder):
        as_torch(folder, {"embeddings.word_embeddings.weight": Path("x")})

    def nested(folder):
        as_torch(folder, {"epoch": 3, "state_dict": load_file(folder / "model.safetensors")})

    def without_a_shard(folder):
        min(sharded(folder).glob("model-*.safetensors")).unlink()

    def elsewhere(folder):
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {"a": "../model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    for damage in (cut, emptied, with_code, nested, without_a_shard, elsewhere):
        folder = copy()
        damage(folder)
        with pytest.raises(UserError, match=r"the weights in .* cannot be read \(.*\): fetch or attach the whole model again"):
            built("bert_trainer", folder)
        shutil.rmtree(folder)


def test_a_weight_that_the_shards_lack_is_missed(copy):
    folder = sharded(copy())
    shard = min(folder.glob("model-*.safetensors"))
    save_file(dict(list(load_file(shard).items())[1:]), shard)
    with pytest.raises(UserError, match=r"1 of \d+ are missing"):
        built("bert_trainer", folder)


def test_one_file_and_a_list_of_several_are_not_both_taken(copy):
    for name in ("model.safetensors", "pytorch_model.bin"):
        folder = copy()
        if name != "model.safetensors":
            as_torch(folder)
        (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(UserError, match=rf"has both {name} and {name}\.index\.json.*remove the one that is not meant"):
            fetch(str(folder), "bert")
        shutil.rmtree(folder)


def lora_beside(folder: Path) -> None:
    """An adapter that changes every answer, in the form in which the library takes it up by itself."""
    about = LoraConfig(target_modules=["query", "query_proj", "q_lin", "Wqkv"], init_lora_weights=False)
    get_peft_model(AutoModel.from_pretrained(folder), about).save_pretrained(folder / "adapter")
    for path in (folder / "adapter").glob("adapter_*"):
        shutil.copy(path, folder)


EXTRA = {
    "an adapter": lora_beside,
    "an adapter of nothing": lambda folder: (folder / "adapter_config.json").write_text("{"),
    "torch's file": lambda folder: torch.save({}, folder / "pytorch_model.bin"),
    "other libraries'": lambda folder: [(folder / name).write_bytes(b"?") for name in ("tf_model.h5", "flax_model.msgpack")],
    "a variant": lambda folder: (folder / "model.fp16.safetensors").write_bytes(b"?"),
    "generation": lambda folder: (folder / "generation_config.json").write_text("{"),
    "a template": lambda folder: (folder / "chat_template.jinja").write_text("{{ x }}"),
    "code": lambda folder: (folder / "modeling_bert.py").write_text("raise SystemExit('code was run')"),
    "a folder": lambda folder: shutil.copytree(folder, folder / "onnx"),
    "another's weights": lambda folder: configured(folder, transformers_weights="other.safetensors"),
}


@pytest.mark.parametrize(
    ("case", "script"),
    [(case, "bert_trainer") for case in EXTRA] + [("an adapter", script) for script in BUILDS if script != "bert_trainer"],
)
def test_other_files_change_nothing(case, script, checkpoints, copy):
    family = family_of(script)
    folder = copy(family)
    before = weights_checksum(checkpoints[family])
    EXTRA[case](folder)
    model = built(script, folder)
    require_same(model, built(script, checkpoints[family]))
    assert not getattr(model, "_hf_peft_config_loaded", False)
    weights_checksum.cache_clear()
    assert weights_checksum(folder) == before
    config = config_of(script, folder)
    text = "A superb film."
    assert load_tokenizer(config)(text)["input_ids"] == load_tokenizer(config_of(script, checkpoints[family]))(text)["input_ids"]


def a_run(folder: Path, checkpoint: Path) -> Path:
    """What a finished run leaves, and no more."""
    config = config_of("bert_trainer", checkpoint)
    model = bert_trainer.build(config, checkpoint)
    own = folder / "refit" / "model"
    model.save_pretrained(own)
    load_tokenizer(config).save_pretrained(own)
    (folder / "refit" / PREDICTIONS).write_bytes(b"")
    save_metadata(folder, bert_trainer.build, config, "subwords")
    return own


@pytest.mark.parametrize("case", ["an adapter", "torch's file", "another's weights"])
def test_a_run_s_own_model_is_what_it_was_whatever_lies_beside_it(case, checkpoints, tmp_path):
    own = a_run(tmp_path, checkpoints["bert"])
    before = load(tmp_path).probability(["a superb film", "dull"])
    EXTRA[case](own)
    assert (load(tmp_path).probability(["a superb film", "dull"]) == before).all()


@pytest.mark.parametrize("lost", ["classifier.weight", "classifier.bias", "bert.encoder.layer.0.output.dense.weight"])
def test_a_run_s_own_model_is_never_completed(lost, checkpoints, tmp_path):
    """Not even the head, which may be new where a run begins."""
    own = a_run(tmp_path, checkpoints["bert"])
    rewritten(own, lambda weights: {name: value for name, value in weights.items() if name != lost})
    with pytest.raises(UserError, match=lost.replace(".", r"\.")):
        load(tmp_path)


@pytest.mark.parametrize("part", ["model.safetensors", "config.json", "tokenizer.json"])
def test_nothing_in_a_run_s_own_model_is_to_be_fetched(part, checkpoints, tmp_path):
    own = a_run(tmp_path, checkpoints["bert"])
    (own / part).write_bytes((own / part).read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot be read .*: copy the run's whole folder, or run its script again") as refusal:
        load(tmp_path)
    assert "fetch" not in str(refusal.value)


# settings

LEAKS = {
    "the task": {
        "problem_type": "multi_label_classification", "num_labels": 3, "id2label": {"0": "a", "1": "b", "2": "c"},
        "label2id": {"a": 0, "b": 1, "c": 2}, "summary_type": "mean", "last_layers": 1,
    },
    "another loss": {"problem_type": "regression"},
    "the decoder": {"is_decoder": True, "use_cache": False, "add_cross_attention": False, "tie_word_embeddings": False},
    "the outputs": {
        "output_attentions": True, "output_hidden_states": True, "return_dict": False, "use_return_dict": False,
        "torchscript": True,
    },
    "the head": {
        "classifier_dropout": 0.9, "seq_classif_dropout": 0.9, "cls_dropout": 0.9, "pooler_dropout": 0.9,
        "pooler_hidden_act": "relu", "pooler_hidden_size": 7,
    },
    "the computer": {
        "dtype": "float16", "torch_dtype": "bfloat16", "attn_implementation": "eager", "_attn_implementation": "none such",
        "gradient_checkpointing": True, "chunk_size_feed_forward": 3,
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    },
    "code and files": {
        "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}, "transformers_weights": "other.safetensors",
    },
    "older": {"pruned_heads": {"0": [0]}, "position_embedding_type": "relative_key"},
}  # fmt: skip


def answer(model, script: str, training: bool = False):
    """Of a native model the logits, of another the loss too."""
    model.train(training)
    torch.manual_seed(5)
    tokens, labels = torch.arange(1_000, 1_016).view(2, 8), torch.tensor([0, 1])
    if script.endswith("native"):
        return model(tokens, torch.tensor([8, 8]))
    outputs = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels)
    assert outputs.logits.shape == (2, 2)
    return torch.cat([outputs.logits.flatten(), outputs.loss.view(1)])


@pytest.mark.parametrize("script", BUILDS)
def test_the_checkpoint_s_settings_are_not_the_script_s(script, checkpoints, copy):
    """In the eyes of the answer and the loss, with dropout and without."""
    family = family_of(script)
    expected = built(script, checkpoints[family])
    wanted = [answer(expected, script, training) for training in (False, True)]
    for name, settings in LEAKS.items():
        model = built(script, configured(copy(family), **settings))
        for training, its in zip((False, True), wanted, strict=True):
            assert torch.equal(answer(model, script, training), its), name
        assert {weights.dtype for weights in model.parameters()} == {torch.float32}, name


def test_the_plan_is_of_the_script_s_settings_too(checkpoints, copy):
    folder = configured(copy("deberta-v2"), **{name: value for some in LEAKS.values() for name, value in some.items()})
    script = import_module("deberta_lora")
    steps = [
        plan.training_step(script, script.Config(), each, 2, 16, Arithmetic()) for each in (folder, checkpoints["deberta-v2"])
    ]
    assert steps[0] == steps[1]


def test_sizes_are_the_checkpoint_s(checkpoints):
    """All that the library's config of the same checkpoint has, but for what it only notes down."""
    for family, folder in checkpoints.items():
        noted = {"architectures", "dtype", "transformers_version", "_name_or_path", "torch_dtype"}
        theirs, ours = (config.to_dict() for config in (AutoConfig.from_pretrained(folder), architecture(folder)))
        assert {name: value for name, value in theirs.items() if name not in noted} == {
            name: value for name, value in ours.items() if name not in noted
        }, family


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": "wide"},
        {"num_attention_heads": 3},
        {"num_attention_heads": 0},
        {"hidden_act": "none such"},
        {"vocab_size": -1},
    ],
)
def test_values_that_are_none_are_refused(settings, copy):
    with pytest.raises(UserError, match="changed"):
        built("bert_trainer", configured(copy(), **settings))


@pytest.mark.parametrize(
    "settings", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"hidden_size": 32}, {"type_vocab_size": 1}]
)
def test_sizes_of_another_model_are_refused(settings, copy):
    with pytest.raises(UserError, match=r"do not fit this script's model: \d+ of"):
        built("bert_trainer", configured(copy(), **settings))


# further pretraining


def test_a_modernbert_trained_further_keeps_the_head_for_the_classifier(copy, competition, tmp_path):
    folder = copy("modernbert")
    config = config_of(
        "modernbert_trainer", folder, data_dir=competition, further_pretrain=True, pretrain_epochs=1, output_dir=tmp_path
    )
    config.max_train_samples, config.max_length = 64, 8  # two steps: the first one's rate is 0
    task = FinetuningTask(BUILDS["modernbert_trainer"], config)
    task.load()
    task.pretrain(float("inf"))
    model, before = task.new_model(), load_file(folder / "model.safetensors")
    assert model.random_weights == ["classifier.bias", "classifier.weight"]
    after = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
    assert before.keys() <= after.keys() and not any(torch.equal(after[name], before[name]) for name in before)


def test_a_deberta_is_not_pretrained_further(checkpoints, competition, tmp_path):
    config = config_of(
        "deberta_trainer", checkpoints["deberta-v2"], data_dir=competition, further_pretrain=True, output_dir=tmp_path
    )
    with pytest.raises(UserError, match=r"--further-pretrain trains a masked .*'deberta-v2' .*: leave it out"):
        FinetuningTask(BUILDS["deberta_trainer"], config).load()


@pytest.mark.parametrize(
    ("family", "script"), [("bert", "bert_scratch"), ("roberta", "roberta_trainer"), ("bert", "bert_trainer")]
)
def test_a_language_model_trained_further_has_the_checkpoint_s_pooler_or_none(
    family, script, checkpoints, copy, competition, tmp_path
):
    """A random one would be taken for the checkpoint's by the next script."""
    folder, has_pooler = copy(family), script == "bert_trainer"
    if not has_pooler:
        rewritten(folder, lambda weights: {name: value for name, value in weights.items() if "pooler" not in name})
    config = config_of(script, folder, data_dir=competition, further_pretrain=True, pretrain_epochs=1, output_dir=tmp_path)
    config.max_train_samples, config.max_length = 16, 8
    task = FinetuningTask(BUILDS[script], config)
    task.load()
    task.pretrain(float("inf"))
    (made,) = (tmp_path / "runs" / "further-pretrained").glob("*/model.safetensors")
    before, after = load_file(folder / "model.safetensors"), load_file(made)
    assert len(before) == len(after) and any("pooler" in name for name in after) == has_pooler
    task.new_model()  # nothing is missing


@pytest.mark.parametrize("case", ["other names", "a layer", "not a number"])
def test_a_language_model_begins_with_all_weights_too(case, copy, competition, tmp_path):
    change, said = REFUSED[case]
    folder = rewritten(copy(), change)
    config = config_of("bert_trainer", folder, data_dir=competition, further_pretrain=True, output_dir=tmp_path, max_length=8)
    task = FinetuningTask(bert_trainer.build, config)
    task.load()
    with pytest.raises(UserError, match=said):
        task.pretrain(float("inf"))
