"""The plan's estimate against what torch's allocator gave out in real steps of the same small model."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import run
from peft import get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    ModernBertConfig,
    Qwen3Config,
    RobertaConfig,
)
from transformers.models.deberta_v2 import modeling_deberta_v2

import qwen_lora
from popcorn.__main__ import Plan
from popcorn.errors import UserError
from popcorn.kaggle import plan
from popcorn.kaggle.model_config import config_folder
from popcorn.memory_estimate import Arithmetic, autocast_loss
from popcorn.models.deberta import DebertaClassifier
from popcorn.models.label_words import CLASSES
from popcorn.models.pretrained import architecture
from popcorn.training import adapters
from popcorn.training.memory import recompute_activations

SIZES = DebertaV2Config(
    hidden_size=128, pooler_hidden_size=128, num_hidden_layers=5, num_attention_heads=4, intermediate_size=512, vocab_size=500,
    relative_attention=True, position_buckets=32, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
    position_biased_input=False, conv_kernel_size=3, type_vocab_size=0, num_labels=2,
)  # fmt: skip
QWEN = Qwen3Config(
    hidden_size=128, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2, head_dim=32, intermediate_size=512,
    vocab_size=500, num_labels=2,
)  # fmt: skip
SMALL = {"hidden_size": 128, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 512, "vocab_size": 500}
FINE_TUNED = {
    "bert": BertConfig(**SMALL), "roberta": RobertaConfig(**SMALL, pad_token_id=1),
    "modernbert": ModernBertConfig(**SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
    "deberta-v2": SIZES,
    "distilbert": DistilBertConfig(dim=128, n_layers=5, n_heads=4, hidden_dim=512, vocab_size=500),
}  # fmt: skip
METHODS = "deberta_lora", "deberta_prompt", "deberta_ptuning", "deberta_prefix"
SCRIPTS = (
    "bert_native", "bert_scratch", "bert_trainer", *sorted(METHODS), "distilbert_native", "distilbert_trainer", "roberta_trainer",
)  # fmt: skip
REVIEWS, TOKENS = 8, 64
H100 = {"bert_trainer": 8_442_312_192, "distilbert_trainer": 4_477_155_328}
"""bytes that an H100's allocator gave out at most: 32 reviews of 512 tokens, bf16 (results/benchmarks/sizes.json)"""


def real_adapter(script, config, folder) -> torch.nn.Module:
    """The adapter of small sizes, with weights."""
    if config.bits != 32:
        return adapters.build_adapter(script.peft_config, config, folder)
    about = script.peft_config(config)
    if hasattr(about, "prompt_tuning_init"):
        about.prompt_tuning_init = "RANDOM"
    return get_peft_model(DebertaClassifier(SIZES), about)


def measured(model, folder, arithmetic, reviews=REVIEWS, length=TOKENS, recomputed=False, accumulated=False) -> float:
    """Bytes of the real model, plus the most that the allocator had given out in two steps."""
    model.train()
    if recomputed:
        assert recompute_activations(model)
    held = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    optimizer = torch.optim.AdamW([weights for weights in model.parameters() if weights.requires_grad], fused=True)
    tokens = torch.randint(5, 500, (reviews, length))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(2):
            autocast_loss(model, tokens, arithmetic).backward()
            optimizer.step()
            if not accumulated:
                optimizer.zero_grad()
    return sum(held.values()) + peak_of(profiler, folder)


def peak_of(profiler: profile, folder: Path) -> float:
    """Bytes that the allocator had given out at most."""
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    given_out = [event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]"]
    return max(given_out) - given_out[0]


@pytest.fixture
def sizes(tmp_path) -> Path:
    """A folder with the config.json of the small DeBERTa."""
    SIZES.save_pretrained(tmp_path)
    return tmp_path


def config_of(name: str, bits: int, folder):
    """The script's config, for a model of the sizes above."""
    config = import_module(name).Config(model=str(folder), max_length=TOKENS, bits=bits, precision="fp32")
    config.checkpoint = folder  # no tokenizer is read
    return config


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_memory_is_what_real_steps_take(name, recomputed, sizes):
    script, config = import_module(name), config_of(name, 32, sizes)
    estimate = plan.training_step(script, config, sizes, REVIEWS, TOKENS, Arithmetic(), recomputed).peak
    real = measured(real_adapter(script, config, sizes), sizes, Arithmetic(), recomputed=recomputed)
    assert estimate == pytest.approx(real, rel=0.2)


@pytest.mark.parametrize("recomputed", [False, True])
def test_memory_of_a_decoder_is_what_real_steps_take(recomputed, tmp_path):
    QWEN.save_pretrained(tmp_path)
    script, config = qwen_lora, config_of("qwen_lora", 32, tmp_path)
    estimate = plan.training_step(script, config, tmp_path, REVIEWS, TOKENS, Arithmetic(), recomputed).peak
    model = CLASSES["qwen3"](QWEN).requires_grad_(False)
    model.label_ids = (3, 4)
    real = measured(get_peft_model(model, script.peft_config(config)), tmp_path, Arithmetic(), recomputed=recomputed)
    assert estimate == pytest.approx(real, rel=0.2)


def test_memory_of_a_prediction_is_what_a_real_one_takes(tmp_path):
    QWEN.save_pretrained(tmp_path)
    model = CLASSES["qwen3"](QWEN).requires_grad_(False).eval()
    model.label_ids = (3, 4)
    held = sum(weights.nbytes for weights in {id(weights): weights for weights in model.parameters()}.values())
    tokens = torch.randint(5, 500, (64, TOKENS))
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        autocast_loss(model, tokens, Arithmetic())
    assert plan.prediction_step(tmp_path, 64, TOKENS, Arithmetic()).peak == pytest.approx(
        held + peak_of(profiler, tmp_path), rel=0.2
    )


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["deberta_lora", "deberta_ptuning", "deberta_prefix"])
def test_memory_of_quantized_weights(name, bits, tmp_path):
    """So few tokens that the weights take most of the memory."""
    DebertaClassifier(SIZES).save_pretrained(tmp_path)
    script, config = import_module(name), config_of(name, bits, tmp_path)
    estimate = plan.training_step(script, config, tmp_path, 1, 8, Arithmetic(bits=bits)).peak
    real = measured(real_adapter(script, config, tmp_path), tmp_path, Arithmetic(), reviews=1, length=8)
    assert estimate == pytest.approx(real, rel=0.2)


@pytest.mark.parametrize(
    ("name", "precision", "recomputed", "accumulated"),
    [
        ("bert_trainer", "no", False, False), ("bert_trainer", "bf16", True, False), ("bert_trainer", "no", False, True),
        ("bert_native", "bf16", False, False), ("bert_scratch", "no", False, False), ("distilbert_native", "no", True, False),
        ("distilbert_trainer", "bf16", False, True), ("roberta_trainer", "bf16", False, False),
        ("modernbert_trainer", "no", False, False), ("deberta_trainer", "no", False, False),
    ],
)  # fmt: skip
def test_memory_of_full_fine_tuning(name, precision, recomputed, accumulated, tmp_path):
    script, arithmetic = import_module(name), Arithmetic(precision)
    AutoModel.from_config(FINE_TUNED[script.Config.MODEL_TYPE]).save_pretrained(tmp_path)
    config = script.Config(model=str(tmp_path))
    estimate = plan.training_step(script, config, tmp_path, REVIEWS, TOKENS, arithmetic, recomputed, accumulated).peak
    build = getattr(script, "build", None) or getattr(script, {"bert_native": "BERT"}.get(name, "DistilBERT"))
    model = build(config, tmp_path)
    real = measured(model, tmp_path, arithmetic, recomputed=recomputed, accumulated=accumulated)
    assert estimate == pytest.approx(real, rel=0.2)


@pytest.mark.parametrize("name", H100)
def test_memory_is_what_a_gpu_took(name, tmp_path):
    script = import_module(name)
    checkpoint = config_folder(script.Config.model, script.Config.MODEL_TYPE, tmp_path)
    estimate = plan.training_step(script, script.Config(), checkpoint, 32, 512, Arithmetic("bf16", on_gpu=True)).peak
    assert estimate == pytest.approx(H100[name], rel=0.1)


def test_a_step_in_fake_tensors_costs_the_products_of_its_matrices(sizes):
    """Forward, and in LoRA back to every input but not to a frozen weight: twice as much, but for the thin matrices."""
    config = config_of("deberta_lora", 32, sizes)
    step = plan.training_step(import_module("deberta_lora"), config, sizes, REVIEWS, TOKENS, Arithmetic())
    matrices = 4 * SIZES.hidden_size**2 + 2 * SIZES.hidden_size * SIZES.intermediate_size  # attention, and feed-forward
    linear = 2 * REVIEWS * TOKENS * SIZES.num_hidden_layers * matrices
    assert linear < step.forward < 2.5 * linear and 1.8 * step.forward < step.flop < 2.4 * step.forward


@pytest.mark.parametrize(
    "name", ["make_log_bucket_position", "scaled_size_sqrt", "c2p_dynamic_expand", "p2c_dynamic_expand", "build_rpos"]
)
def test_functions_that_transformers_had_compiled_take_fake_tensors(name, sizes, monkeypatch):
    """As its versions before the one that is installed here have them."""
    given = import_module("deberta_lora"), config_of("deberta_lora", 32, sizes), sizes, 2, 32, Arithmetic()
    expected = plan.training_step(*given)
    compiled = torch.jit.script(getattr(modeling_deberta_v2, name))
    monkeypatch.setattr(modeling_deberta_v2, name, compiled)
    assert plan.training_step(*given) == expected
    assert getattr(modeling_deberta_v2, name) is compiled


@pytest.mark.parametrize(
    ("model", "embedding", "rest"),
    [
        ("microsoft/deberta-v2-xxlarge", 197, 1368), ("microsoft/deberta-v2-xlarge", 197, 688),
        ("microsoft/deberta-v3-large", 131, 303), ("microsoft/deberta-v3-base", 98, 86), ("microsoft/deberta-v3-small", 98, 43),
        ("microsoft/deberta-v3-xsmall", 49, 22),
    ],
)  # fmt: skip
def test_published_sizes_need_no_network(model, embedding, rest, tmp_path, monkeypatch):
    """Their parameters in millions, which Microsoft rounds to 1.5 billion, 900, 304 + 131, 86 + 98, 44 + 98 and 22 + 48."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with torch.device("meta"):
        found = DebertaV2Model(architecture(config_folder(model, "deberta-v2", tmp_path)))
    words = found.embeddings.word_embeddings.weight.numel()
    numbers = sum(weights.numel() for weights in found.parameters())
    assert words / 1e6 == pytest.approx(embedding, abs=0.5) and (numbers - words) / 1e6 == pytest.approx(rest, abs=0.6)


@pytest.mark.parametrize(
    ("model", "model_type", "millions"),
    [
        ("bert-base-uncased", "bert", 109.5), ("distilbert-base-uncased", "distilbert", 66.4), ("roberta-base", "roberta", 124.6),
        ("answerdotai/ModernBERT-base", "modernbert", 149.0), ("Qwen/Qwen3-1.7B", "qwen3", 1_720.6),
    ],
)  # fmt: skip
def test_published_sizes_have_the_published_parameters(model, model_type, millions, tmp_path):
    """In millions, as the models' cards and papers round them: 110, 66, 125, 149 and 1,700."""
    config = AutoConfig.from_pretrained(config_folder(model, model_type, tmp_path))
    with torch.device("meta"):
        found = AutoModel.from_config(config)
    assert sum(weights.numel() for weights in found.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_every_script_that_trains_a_pretrained_model_is_planned_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    found = {script.__name__: script.Config for script in plan.pretrained_scripts()}
    assert found.keys() >= set(SCRIPTS)
    for name in SCRIPTS:
        assert (config_folder(found[name].model, found[name].MODEL_TYPE, tmp_path) / "config.json").is_file()


def test_what_fits_is_found():
    """The micro-batch is halved until it fits, and small ones recompute."""
    cost = {(8, False): 9.0, (4, True): 3.0, (2, True): 2.0, (1, True): 1.0}
    for memory, expected in ((10, (8, False)), (8, (4, True)), (3, (2, True)), (1, None)):
        machine = plan.Machine("", memory * plan.GIB, 1.0, Arithmetic())
        found = plan.fitting(lambda *its: cost[its] * plan.GIB, machine, 8)
        assert (found and found[:2]) == expected
    # each of two devices has half of the batch, which is no reason to recompute
    two = plan.Machine("", 10 * plan.GIB, 1.0, Arithmetic(), count=2)
    assert plan.fitting(lambda size, recomputed: cost[2 * size, recomputed] * plan.GIB, two, 8)[:2] == (4, False)


def test_two_gpus_exchange_gradients_in_buckets(sizes):
    """As large as the gradients; each has half of the batch, and the time is half."""
    script, one = import_module("deberta_lora"), config_of("deberta_lora", 8, sizes)
    single = plan.estimate(script, replace(one, batch_size=4), plan.T4, sizes)
    double = plan.estimate(script, replace(one, batch_size=8), plan.T4_X2, sizes)
    trainable = plan.training_step(script, one, sizes, 4, TOKENS, Arithmetic("fp16", on_gpu=True, bits=8)).trainable
    assert single.micro_batch_size == double.micro_batch_size == 4
    assert double.peak - single.peak == 4 * trainable
    assert double.epoch_hours == pytest.approx(single.epoch_hours / 2) and double.run_hours > 3 * double.epoch_hours


def test_flop_are_of_reviews_of_usual_lengths():
    """A linear part of 2 for each token and a quadratic one of 3, on lengths cut to 512."""
    lengths = plan.LENGTHS.clip(max=512)
    assert plan.mean_flop(lambda length: 2 * length + 3 * length**2, 512) == pytest.approx((2 * lengths + 3 * lengths**2).mean())
    assert lengths.mean() == pytest.approx(265, abs=1)


def test_the_command_needs_a_config_and_nothing_else(sizes):
    done = run("-m", "popcorn", "plan", "deberta_prompt.py", "--model", sizes, "--max-length", 32, "--batch-size", 4)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if line.startswith("│")]
    assert [row[:5] for row in rows[:2]] == [
        ["deberta_prompt", "T4", "fp16, 8 bits", "4", "no"], ["deberta_prompt", "T4 x2", "fp16, 8 bits", "2", "no"]
    ]  # fmt: skip
    assert "this CPU" in done.stdout and "P100" not in done.stdout
    with pytest.raises(UserError, match="uses no pretrained model"):
        Plan((Path("lstm.py"),)).run()
    with pytest.raises(UserError, match=r"bert_trainer.py trains all of its weights: leave --bits out"):
        Plan((Path("bert_trainer.py"),), bits=8).run()
    with pytest.raises(UserError, match=r"config\.json"):
        Plan((Path("deberta_lora.py"),), model=str(sizes / "nothing")).run()
    with pytest.raises(UserError, match=r"family 'deberta-v2' .*, and this script is for 'bert' models"):
        Plan((Path("bert_trainer.py"),), model=str(sizes)).run()


def test_several_scripts_are_added_up(sizes, monkeypatch, capsys):
    """On Kaggle's two T4s: the hours of all, and the sessions that they take."""
    monkeypatch.setattr(plan, "estimate", lambda *_: plan.Estimate(16, False, 6 * plan.GIB, 2.5, 13.3))
    Plan((Path("deberta_lora.py"), Path("deberta_prefix")), model=str(sizes)).run()
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("T4 x2") == 3 and "this CPU" not in printed
    assert "2 scripts on T4 x2: 26.6 GPU hours, or 3 Kaggle sessions of 12 hours" in printed


@pytest.mark.parametrize("place", ["a copy", "a folder that does not exist"])
def test_another_file_of_a_script_s_name_is_refused(place, tmp_path):
    """Not planned as if it were the repository's own."""
    path = tmp_path / "deberta_lora.py"
    if place == "a copy":
        path.write_text("other = 'recipe'")
    with pytest.raises(UserError, match="is not a script of this repository"):
        Plan((path,)).run()
