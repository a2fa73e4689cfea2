"""Decoders that classify by two label words: padding, prompts, zero-shot, LoRA, refusals; tiny checkpoints of each family."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pretrained
import pytest
import torch
from conftest import BLAME, FILLER, PRAISE, ROOT, run, run_here, run_kernel
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DataCollatorWithPadding,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

import qwen_lora
import qwen_zero_shot
from popcorn.config import DECODERS
from popcorn.data.prompt import NO_EXAMPLES, REVIEW
from popcorn.data.splits import Split
from popcorn.errors import UserError
from popcorn.inference.load import load
from popcorn.models import label_words
from popcorn.models.hub import find_checkpoint
from popcorn.models.pretrained import architecture
from popcorn.runs.results import recipe_of
from popcorn.runs.run import run as run_task
from popcorn.runs.run_dir import differing_settings, start_or_resume
from popcorn.training import adapters, label_word_task, zero_shot
from popcorn.training.adapters import AdapterTuner, adapter_trainer
from popcorn.training.label_word_task import LabelWordTask, load_decoder, load_prompt
from popcorn.training.memory import Pieces
from popcorn.training.zero_shot import ZeroShotTask, ZeroShotTrainer, choose_examples
from popcorn.utils import hardware

TEXT = qwen_lora.Config.prompt
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 600,
    "max_position_embeddings": 256, "initializer_range": 0.2, "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": None,
}  # fmt: skip
LONG = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
# settings that differ from the defaults, so that each must come from config.json
FAMILIES = {
    "qwen3": Qwen3Config(**SMALL, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True, rms_norm_eps=1e-3),
    "gemma3_text": Gemma3TextConfig(
        **SMALL, num_key_value_heads=1, head_dim=16, sliding_window=8, query_pre_attn_scalar=4, final_logit_softcapping=2.0,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "llama": LlamaConfig(
        **SMALL, num_key_value_heads=1, attention_bias=True,
        rope_parameters=LONG | {"original_max_position_embeddings": 64},
    ),
    "phi": PhiConfig(
        **SMALL, qk_layernorm=True, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.25, "rope_theta": 1e3}
    ),
    "phi3": Phi3Config(**SMALL, num_key_value_heads=1, sliding_window=8),
}  # fmt: skip


def write_tokenizer(folder: Path, starts: bool = False, pads: bool = False) -> None:
    """A byte-level BPE in which each word of the small competition and each label word is one token."""
    lines = [" ".join([*FILLER, *PRAISE, *BLAME, "positive negative good bad", TEXT])] * 5
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<end>", "<start>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    if starts:
        tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 1)])
    names = {"eos_token": "<end>", "bos_token": "<start>"} | ({"pad_token": "<pad>"} if pads else {})
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def write(folder: Path, family: str, shards: bool = False) -> Path:
    """A tiny checkpoint of the family with random weights."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family])
    with torch.no_grad():
        for weights in model.parameters():  # biases and norms too, which start at 0 or 1
            weights.add_(0.1 * torch.randn_like(weights))
    model.save_pretrained(folder, max_shard_size="20KB" if shards else "50GB")
    write_tokenizer(folder, starts=family in ("llama", "gemma3_text"), pads=family == "gemma3_text")
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("decoders")
    return {family: write(folder / family, family, shards=family == "qwen3") for family in FAMILIES}


def toy_review(generator: np.random.Generator, label: int, known: int = 8) -> str:
    """A few words of the first `known` of praise or of blame among others."""
    words = [*generator.choice(FILLER, 6), *generator.choice((BLAME, PRAISE)[label][:known], 3)]
    return " ".join(generator.permutation(words))


@pytest.fixture(scope="module")
def literate(tmp_path_factory) -> Path:
    """A tiny Qwen3, pretrained for seconds as a language model: reviews with half of the opinion words, and a label word."""
    folder = tmp_path_factory.mktemp("literate")
    write_tokenizer(folder)
    tokenizer, generator = PreTrainedTokenizerFast.from_pretrained(folder, pad_token="<end>"), np.random.default_rng(0)
    torch.manual_seed(0)
    settings = FAMILIES["qwen3"].to_dict() | {"initializer_range": 0.1}
    model = AutoModelForCausalLM.from_config(Qwen3Config(**settings))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(250):
        labels = (generator.random(32) < 0.65).astype(int)  # more are positive: a preference to calibrate
        endings = np.where(generator.random(32) < 0.1, 1 - labels, labels)  # some are wrong, as in any text
        texts = [
            TEXT.replace(REVIEW, toy_review(generator, label, known=4)) + (" negative", " positive")[ending]
            for label, ending in zip(labels, endings, strict=True)
        ]
        tokens = tokenizer(texts, return_tensors="pt", padding=True)
        targets = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)
        model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], labels=targets).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def lora_config(checkpoint: Path, competition: Path, folder: Path, **changes) -> qwen_lora.Config:
    return qwen_lora.Config(
        **dict(
            model=str(checkpoint), data_dir=competition, output_dir=folder, name="qwen_lora", epochs=2, batch_size=16,
            learning_rate=0.01, max_length=128, checkpoint_every=5, no_validation=True, precision="fp32", bits=32,
        )
        | changes
    )  # fmt: skip


def zero_shot_config(checkpoint: Path, competition: Path, folder: Path, **changes) -> qwen_zero_shot.Config:
    return qwen_zero_shot.Config(
        **dict(
            model=str(checkpoint), data_dir=competition, output_dir=folder, name="qwen_zero_shot", batch_size=16,
            max_length=128, precision="fp32", shot_length=20,
        )
        | changes
    )  # fmt: skip


def submitted(config) -> pd.Series:
    return pd.read_csv(config.output_dir / "submissions" / f"{config.name}.proba.csv", quoting=3, index_col="id")["sentiment"]


def tuned(*arguments, **changes) -> pd.Series:
    """The probabilities that a run of qwen_lora.py submits."""
    config = lora_config(*arguments, **changes)
    run_task(LabelWordTask(qwen_lora.peft_config, config), adapter_trainer(config, qwen_lora.training_arguments))
    return submitted(config)


def untuned(*arguments, **changes) -> pd.Series:
    """The probabilities that a run of qwen_zero_shot.py submits."""
    config = zero_shot_config(*arguments, **changes)
    run_task(ZeroShotTask(config), ZeroShotTrainer())
    return submitted(config)


def positive(probabilities: pd.Series) -> np.ndarray:
    return np.array([int(name.strip('"').split("_")[1]) > 5 for name in probabilities.index])


def auc(probabilities: pd.Series) -> float:
    return roc_auc_score(positive(probabilities), probabilities)


def accuracy(probabilities: pd.Series) -> float:
    return float(np.mean((probabilities > 0.5).to_numpy() == positive(probabilities)))


def found(config):
    find_checkpoint(config)
    return config


def test_every_family_has_its_class():
    assert set(label_words.CLASSES) == set(DECODERS) == set(FAMILIES)
    assert all(each.config_class.model_type == family for family, each in label_words.CLASSES.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_two_logits_are_the_librarys_whatever_the_padding_and_the_batch(family, checkpoints, tmp_path):
    """The settings of config.json are the library's too; Qwen3's weights are in several files."""
    config = found(zero_shot_config(checkpoints[family], tmp_path, tmp_path, bits=32))
    model = load_decoder(config, (40, 41)).eval()
    whole = AutoModelForCausalLM.from_pretrained(checkpoints[family], dtype="float32").eval()
    generator = torch.Generator().manual_seed(0)
    reviews = [torch.randint(5, 500, (length,), generator=generator) for length in (3, 30, 17)]
    with torch.no_grad():
        wanted = torch.stack([whole(input_ids=review[None]).logits[0, -1, [40, 41]] for review in reviews])
        for side in ("right", "left"):
            tokens = torch.nn.utils.rnn.pad_sequence(reviews, batch_first=True, padding_value=7, padding_side=side)
            lengths = torch.ones_like(tokens[:, 0]) * torch.tensor([len(review) for review in reviews])
            mask = torch.arange(tokens.shape[1]) < lengths[:, None]
            mask = (mask if side == "right" else mask.flip(1)).long()
            result = model(input_ids=tokens, attention_mask=mask, labels=torch.tensor([0, 1, 1]))
            assert torch.allclose(result.logits, wanted, atol=1e-5), side
            assert torch.allclose(result.loss, torch.nn.functional.cross_entropy(wanted, torch.tensor([0, 1, 1])), atol=1e-5)
        alone = [model(input_ids=review[None], attention_mask=torch.ones_like(review)[None]).logits[0] for review in reviews]
    assert torch.allclose(torch.stack(alone), wanted, atol=1e-5)
    assert wanted.std() > 0.05


PUBLISHED = {
    "qwen3": {
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 6144,
        "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "gemma3_text": {
        "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": None, "bos_token_id": 2,
        "eos_token_id": [1, 106], "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152, "initializer_range": 0.02, "intermediate_size": 6912, "max_position_embeddings": 32768,
        "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1, "pad_token_id": 0,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
        "use_cache": True, "vocab_size": 262144,
    },
    "llama": {
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64,
        "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 128256,
    },
    "phi": {
        "attention_dropout": 0.0, "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256, "hidden_act": "gelu_new",
        "hidden_size": 2560, "initializer_range": 0.02, "intermediate_size": 10240, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "partial_rotary_factor": 0.4, "qk_layernorm": False, "resid_pdrop": 0.1, "rope_scaling": None, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": True, "vocab_size": 51200,
    },
    "phi3": {
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "embd_pdrop": 0.0, "eos_token_id": 32000,
        "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 8192,
        "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 32064,
    },
}  # fmt: skip
"""settings in the files of the hub, of Qwen3-1.7B, gemma-3-1b, Llama-3.2-1B, phi-2 and Phi-3-mini"""
OF_NO_CONCERN = {"dtype", "resid_pdrop", "transformers_version", "sliding_window_pattern", "pretraining_tp", "_name_or_path"}


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_settings_reach_the_model(family, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[family] | {"model_type": family}))
    ours, librarys = (config.to_dict() for config in (architecture(tmp_path), AutoConfig.from_pretrained(tmp_path)))
    assert {name: value for name, value in ours.items() if name not in OF_NO_CONCERN} == {
        name: value for name, value in librarys.items() if name not in OF_NO_CONCERN and (name in ours or value)
    }


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_prompt_has_room_for_its_label_word_and_keeps_a_reviews_ends(family, checkpoints, tmp_path):
    prompt = load_prompt(found(zero_shot_config(checkpoints[family], tmp_path, tmp_path, max_length=64)))
    assert prompt.tokenizer.pad_token_id is not None
    short, long = np.arange(10, 15, dtype=np.int32), np.arange(100, 300, dtype=np.int32)
    one, other = prompt.encode([short, long], NO_EXAMPLES).reviews
    assert len(other) == 63 and other[: len(one) - len(prompt.after) - 5].tolist() == [*prompt.start, *prompt.before]
    assert {100, 299} <= set(other.tolist()) and 200 not in other
    assert prompt.tokenizer.decode(one).startswith("<start>" * (family == "llama") + "Movie review:\n")
    assert prompt.tokenizer.decode([*one, prompt.label_ids[1]]).endswith("is positive")
    with_examples = prompt.encode([long], prompt.example(short, 0, 3)).reviews[0]
    assert len(with_examples) == 63 + len(prompt.before) + 3 + len(prompt.after) + 1 + len(prompt.between)
    assert prompt.tokenizer.decode(with_examples).count("is negative\n\nMovie review:") == 1
    assert (with_examples == prompt.tokenizer.bos_token_id).sum() == (family == "llama")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"label_words": ("negative", "otherworldly")}, "the label word 'otherworldly' is not one token"),
        ({"label_words": ("good", "good")}, "good and good: give two different words"),
        ({"prompt": "{review} It was "}, "--prompt ends in a space or a line break"),
        ({"prompt": "It was"}, r"--prompt has {review} 0 times"),
        ({"max_length": 20}, "--max-length is 20, and the prompt has .* give at least"),
        ({"max_length": 257}, "allows at most 256"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(changes, sentence, checkpoints, tmp_path):
    with pytest.raises(UserError, match=sentence):
        load_prompt(found(zero_shot_config(checkpoints["qwen3"], tmp_path, tmp_path, **changes)))


def test_examples_are_balanced_and_come_from_the_training_reviews_alone(checkpoints, competition, tmp_path):
    labels, rows = np.arange(40) % 2, np.arange(10, 40)
    chosen = choose_examples(rows, labels, 6, seed=1)
    assert len(set(chosen.tolist())) == 6 and set(chosen.tolist()) <= set(rows.tolist()) and labels[chosen].sum() == 3
    assert (choose_examples(rows, labels, 6, seed=1) == chosen).all()
    assert set(choose_examples(rows, labels, 6, seed=2).tolist()) != set(chosen.tolist())
    with pytest.raises(UserError, match="--shots is 6, and there are 2 training reviews of one class"):
        choose_examples(np.arange(5), labels, 6, seed=1)
    config = zero_shot_config(checkpoints["phi"], competition, tmp_path, shots=2)
    task = ZeroShotTask(config)
    task.load()
    split = Split("validated", np.arange(100, 104), np.arange(100))
    examples, prompt = task.examples(split), task.prompt
    rows = choose_examples(split.train, task.labels, 2, config.seed)
    pieces = [prompt.example(task.contents("labeledTrainData.tsv")[row], task.labels[row], 20) for row in rows]
    assert examples.tolist() == np.concatenate(pieces).tolist()
    task.config.shots, task.config.shot_length = 40, 100
    with pytest.raises(UserError, match=r"the examples have .* tokens: .* allows at most 256 together"):
        task.examples(Split("validated", np.arange(100, 400), np.arange(100)))


def test_a_killed_zero_shot_run_goes_on_to_the_same_submission(checkpoints, competition, tmp_path, monkeypatch):
    monkeypatch.setattr(zero_shot, "CHUNK", 16)
    arguments = checkpoints["qwen3"], competition
    computed, killed_at, predict = [], None, zero_shot.predict_log_odds

    def counted(model, prompts, rows, *rest):
        computed.append(len(rows))
        if len(computed) == killed_at:
            raise KeyboardInterrupt
        return predict(model, prompts, rows, *rest)

    monkeypatch.setattr(zero_shot, "predict_log_odds", counted)
    changes = {"shots": 2, "calibrate": True}
    undisturbed, whole = untuned(*arguments, tmp_path / "undisturbed", **changes), len(computed)
    assert not (tmp_path / "undisturbed/runs/qwen_zero_shot/seed-1/chunks").exists()
    computed.clear()
    killed_at = 7
    with pytest.raises(SystemExit):
        untuned(*arguments, tmp_path / "killed", **changes)
    computed.clear()
    killed_at = None
    resumed = untuned(*arguments, tmp_path / "killed", **changes, resume=True)
    pd.testing.assert_series_equal(resumed, undisturbed)
    assert len(computed) == whole - 5  # one of the first six was the calibration
    with pytest.raises(SystemExit):
        untuned(*arguments, tmp_path / "killed", **changes | {"shots": 4}, resume=True)


def test_a_zero_shot_run_is_resumed_with_smaller_batches(tmp_path):
    """They change nothing but the memory."""
    start_or_resume(zero_shot_config(tmp_path, tmp_path, tmp_path))
    assert differing_settings(zero_shot_config(tmp_path, tmp_path, tmp_path, batch_size=2)) == []
    assert differing_settings(zero_shot_config(tmp_path, tmp_path, tmp_path, shots=2)) == ["its shots is 0 where this one's is 2"]


def test_a_spent_time_budget_leaves_a_valid_submission(checkpoints, competition, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zero_shot, "CHUNK", 16)
    complete = untuned(checkpoints["qwen3"], competition, tmp_path / "complete")
    predict = zero_shot.predict_log_odds

    def slow(model, prompts, rows, *rest):
        trainer.deadline = 0.0 if len(prompts) == 100 else trainer.deadline  # within the test set
        return predict(model, prompts, rows, *rest)

    monkeypatch.setattr(zero_shot, "predict_log_odds", slow)
    config, trainer = zero_shot_config(checkpoints["qwen3"], competition, tmp_path), ZeroShotTrainer()
    run_task(ZeroShotTask(config), trainer)
    assert (submitted(config) == 0.5).sum() == 84 and "84 reviews are left for --resume" in capsys.readouterr().out
    monkeypatch.setattr(zero_shot, "predict_log_odds", predict)
    pd.testing.assert_series_equal(untuned(checkpoints["qwen3"], competition, tmp_path, resume=True), complete)


def test_calibration_removes_the_preference_for_a_word(literate, competition, tmp_path):
    """After it, a text without content has even odds; the order of the reviews stays."""
    plain = untuned(literate, competition, tmp_path / "plain")
    config = zero_shot_config(literate, competition, tmp_path, calibrate=True)
    task, trainer = ZeroShotTask(config), ZeroShotTrainer()
    run_task(task, trainer)
    calibrated = submitted(config)
    prior = zero_shot.content_free_log_odds(task, NO_EXAMPLES)
    assert abs(prior) > 0.05
    odds = [np.log(each.clip(1e-6, 1 - 1e-6) / (1 - each.clip(1e-6, 1 - 1e-6))) for each in (plain, calibrated)]
    inside = plain.between(0.01, 0.99) & calibrated.between(0.01, 0.99)
    assert inside.sum() > 10 and np.allclose((odds[0] - odds[1])[inside], prior, atol=1e-3)


def test_pretraining_serves_zero_shot_and_lora_learns_more(literate, competition, tmp_path):
    """The decoder has seen half of the opinion words; the adapter learns the others. A saved run predicts the same."""
    before = untuned(literate, competition, tmp_path)
    assert auc(before) > 0.8 and accuracy(before) > 0.6
    probabilities = tuned(literate, competition, tmp_path)
    assert auc(probabilities) > auc(before) + 0.01 and accuracy(probabilities) > accuracy(before) + 0.05
    texts = pd.read_csv(competition / "testData.tsv", sep="\t", quoting=3, index_col="id")["review"]
    texts = texts.str.strip('"').str.replace('\\"', '"')
    for name, submission in (
        ("qwen_lora", probabilities),
        ("qwen_zero_shot", submitted(zero_shot_config(literate, competition, tmp_path))),
    ):
        model = load(tmp_path / "runs" / name / "seed-1")
        assert np.allclose(model.probability(texts.tolist()), submission[texts.index], atol=2e-6), name
        words = model.explain("a superb film")
        assert [word for word, _ in words] == ["a", "superb", "film"]
    kept = tmp_path / "runs" / "qwen_lora" / "seed-1" / "refit" / "model"
    assert {path.name for path in kept.iterdir()} >= {"adapter_model.safetensors", "adapter_config.json", "base.json"}
    again = tuned(literate, competition, tmp_path, adapter=kept, name="again")
    pd.testing.assert_series_equal(again, probabilities, atol=2e-6, rtol=0)


@pytest.mark.parametrize("family", [each if each == "phi3" else pytest.param(each, marks=pytest.mark.slow) for each in FAMILIES])
def test_the_adapter_is_all_that_learns_in_every_family(family, checkpoints, tmp_path):
    config = found(lora_config(checkpoints[family], tmp_path, tmp_path))
    model = label_word_task.build_label_words(qwen_lora.peft_config, config, (40, 41))
    names = {name for name, weights in model.named_parameters() if weights.requires_grad}
    assert names and all("lora_" in name and "lm_head" not in name for name in names)
    assert any("mlp" in name for name in names) and any("attn" in name for name in names)
    task = LabelWordTask(qwen_lora.peft_config, config)
    (group,) = task.parameter_groups(model, config)
    assert len(group["params"]) == len(names) and group["lr"] == config.learning_rate
    tokens = torch.randint(5, 500, (2, 9))
    with torch.autocast("cpu", torch.bfloat16):
        result = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=torch.tensor([0, 1]))
    assert result.logits.dtype == torch.float32  # two similar logits would be equal in bf16
    result.loss.backward()


def test_an_adapter_of_another_prompt_is_refused(checkpoints, tmp_path):
    config, kept = found(lora_config(checkpoints["qwen3"], tmp_path, tmp_path)), tmp_path / "kept"
    tuner = AdapterTuner.__new__(AdapterTuner)
    tuner.model = label_word_task.build_label_words(qwen_lora.peft_config, config, (40, 41))
    tuner.data_collator = DataCollatorWithPadding(load_prompt(config).tokenizer)
    tuner.write_model(kept)
    for change, sentence in (
        ({"prompt": "{review} It was"}, r"was trained with --prompt 'Movie review:.*, and here it is '{review} It was': pass"),
        ({"label_words": ("bad", "good")}, r"was trained with --label-words \['negative', 'positive'\], and here it is \['bad'"),
        ({}, None),
    ):
        config = found(lora_config(checkpoints["qwen3"], tmp_path, tmp_path, adapter=kept, **change))
        with pytest.raises(UserError, match=sentence) if sentence else nullcontext():
            label_word_task.build_label_words(qwen_lora.peft_config, config, (40, 41))


@pytest.mark.parametrize("bits", [pytest.param(32, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)])
def test_a_killed_lora_run_goes_on_to_the_same_submission(bits, checkpoints, competition, tmp_path, monkeypatch):
    changes = {"bits": bits, "no_validation": False, "epochs": 2, "refit": False, "max_train_samples": 120}
    step, taken, killed_at = AdapterTuner.training_step, [], None

    def counted(self, *arguments, **options):
        taken.append(1)
        if len(taken) == killed_at:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(AdapterTuner, "training_step", counted)
    undisturbed, whole = tuned(checkpoints["llama"], competition, tmp_path / "undisturbed", **changes), len(taken)
    taken.clear()
    killed_at = 9
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        tuned(checkpoints["llama"], competition, tmp_path / "killed", **changes)
    taken.clear()
    killed_at = None
    resumed = tuned(checkpoints["llama"], competition, tmp_path / "killed", **changes, resume=True)
    assert len(taken) < whole
    pd.testing.assert_series_equal(resumed, undisturbed, atol=1e-4 if bits == 8 else 2e-6, rtol=0)


@pytest.mark.parametrize("script", ["qwen_lora.py", "qwen_zero_shot.py"])
def test_what_is_no_decoder_with_a_head_is_refused(script, checkpoints, competition, tmp_path, monkeypatch):
    where = "--data-dir", competition, "--output-dir", tmp_path
    bert = pretrained.write(tmp_path / "bert", "bert")
    assert "of the family 'bert'" in (said := run_here(script, "--model", bert, *where, code=2))
    assert "'qwen3' or 'gemma3_text' or 'llama'" in said
    for family in ("qwen3", "llama"):
        base = tmp_path / f"{family}-base"
        AutoModelForCausalLM.from_pretrained(checkpoints[family]).model.save_pretrained(base)
        write_tokenizer(base)
    said = run_here(script, "--model", tmp_path / "llama-base", *where, "--max-length", 128, code=2)
    assert "has no language-model head (its weights lack lm_head.weight): take the whole causal language model" in said
    config = found(zero_shot_config(tmp_path / "qwen3-base", competition, tmp_path, bits=32))
    assert load_decoder(config, (40, 41)).lm_head.weight is not None  # its head is its embeddings
    monkeypatch.setattr(adapters, "is_bitsandbytes_available", lambda: False)
    said = run_here(script, "--model", checkpoints["qwen3"], *where, "--bits", 8, code=2)
    assert "--bits 8 needs bitsandbytes, which is not installed" in said
    assert not list(tmp_path.glob("runs/*/seed-1"))


def test_gemma_is_refused_where_it_would_overflow(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "mixed_precision", lambda precision: "fp16" if precision == "auto" else "no")
    with pytest.raises(UserError, match="overflows in fp16, and this GPU has no bf16: give --precision fp32 --bits 4"):
        label_word_task.require_range(found(zero_shot_config(checkpoints["gemma3_text"], tmp_path, tmp_path, precision="auto")))
    for family, precision in (("gemma3_text", "fp32"), ("qwen3", "auto")):
        label_word_task.require_range(found(zero_shot_config(checkpoints[family], tmp_path, tmp_path, precision=precision)))


def test_values_that_overflow_are_no_submission(checkpoints, competition, tmp_path):
    config = found(zero_shot_config(checkpoints["qwen3"], competition, tmp_path, bits=32))
    prompt = load_prompt(config)
    model = load_decoder(config, prompt.label_ids)
    model.lm_head.weight.data[prompt.label_ids[0]] = torch.inf
    with pytest.raises(UserError, match="overflows in this precision"):
        zero_shot.predict_log_odds(model, prompt.encode([np.arange(9)], NO_EXAMPLES), np.array([0]), config, Pieces())


def test_folds_share_the_test_sets_chunks_without_examples(checkpoints, competition, tmp_path, monkeypatch):
    computed, predict = [], zero_shot.predict_log_odds

    def counted(model, prompts, rows, *rest):
        computed.append(len(rows))
        return predict(model, prompts, rows, *rest)

    monkeypatch.setattr(zero_shot, "predict_log_odds", counted)
    untuned(checkpoints["phi"], competition, tmp_path, folds=2)
    assert sum(computed) == 400 + 100  # each review once
    assert len(pd.read_csv(tmp_path / "submissions" / "qwen_zero_shot.oof.csv")) == 400


def test_a_long_prompt_is_part_of_the_saved_recipe(tmp_path):
    config = zero_shot_config(tmp_path, tmp_path, tmp_path, prompt="Word " * 100 + REVIEW)
    assert recipe_of(config)["prompt"] == config.prompt and recipe_of(config)["model"] == tmp_path.name


@pytest.mark.slow
def test_two_processes_share_the_prompts(checkpoints, competition, tmp_path):
    alone = untuned(checkpoints["qwen3"], competition, tmp_path / "alone")
    launch = "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "qwen_zero_shot.py"
    given = "--model", checkpoints["qwen3"], "--data-dir", competition, "--output-dir", tmp_path, "--name", "qwen_zero_shot"
    done = run(*launch, *given, "--batch-size", 16, "--max-length", 128, "--precision", "fp32")
    assert done.stdout.count("Test: accuracy") == 1
    pd.testing.assert_series_equal(submitted(zero_shot_config(checkpoints["qwen3"], competition, tmp_path)), alone)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["qwen_lora", "qwen_zero_shot"])
def test_a_kernel_gives_the_same_bytes(script, checkpoints, competition, tmp_path):
    given = ["--model", checkpoints["qwen3"], "--name", script, "--batch-size", 16, "--max-length", 128, "--precision", "fp32"]
    if script == "qwen_lora":
        tuned(checkpoints["qwen3"], competition, tmp_path, epochs=1)
        given += ["--epochs", 1, "--learning-rate", 0.01, "--no-validation"]
    else:
        untuned(checkpoints["qwen3"], competition, tmp_path, shots=2, calibrate=True)
        given += ["--shots", 2, "--shot-length", 20, "--calibrate"]
    mine = [(tmp_path / "submissions" / f"{script}{kind}.csv").read_bytes() for kind in ("", ".proba")]
    assert run_kernel(script, given, competition, tmp_path) == mine
    metadata = json.loads((tmp_path / "kernels" / script / "kernel-metadata.json").read_text())
    assert metadata["enable_gpu"] == "true"


@pytest.mark.parametrize("script", ["qwen_lora.py", "qwen_zero_shot.py"])
def test_help_shows_the_prompt_and_no_option_of_another_method(script):
    assert ROOT.joinpath(script).is_file()
    shown = run_here(script, "--help")
    assert "--prompt" in shown and "--head-learning-rate" not in shown
    assert ("--epochs" in shown) == (script == "qwen_lora.py")
