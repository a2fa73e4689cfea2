"""The plan's estimate against what torch's allocator gave out in real steps of the same small model."""

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import run
from peft import get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import DebertaV2Config, DebertaV2Model
from transformers.models.deberta_v2 import modeling_deberta_v2

from popcorn.__main__ import Plan
from popcorn.errors import UserError
from popcorn.kaggle import plan
from popcorn.models.deberta import DebertaClassifier
from popcorn.models.deberta_sizes import PUBLISHED
from popcorn.training import adapters
from popcorn.training.memory import recompute_activations

SIZES = DebertaV2Config(
    hidden_size=128, pooler_hidden_size=128, num_hidden_layers=5, num_attention_heads=4, intermediate_size=512, vocab_size=500,
    relative_attention=True, position_buckets=32, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"],
    position_biased_input=False, conv_kernel_size=3, type_vocab_size=0, num_labels=2,
)  # fmt: skip
METHODS = "deberta_lora", "deberta_prompt", "deberta_ptuning", "deberta_prefix"
REVIEWS, TOKENS = 8, 64


def measured(script, config, recomputed: bool, folder, reviews: int = REVIEWS) -> float:
    """Bytes of the real model, and what the allocator had given out beside it at most, in two steps."""
    if config.bits == 32:
        about = script.peft_config(config)
        if hasattr(about, "prompt_tuning_init"):
            about.prompt_tuning_init = "RANDOM"
        model = get_peft_model(DebertaClassifier(SIZES), about)
    else:
        model = adapters.build_adapter(script.peft_config, config, folder)
    model.train()
    if recomputed:
        assert recompute_activations(model)
    held = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    optimizer = torch.optim.AdamW([weights for weights in model.parameters() if weights.requires_grad])
    tokens = torch.randint(5, 500, (reviews, config.max_length))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(2):
            given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": torch.zeros(reviews).long()}
            model(**given).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    given_out = [event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]"]
    return sum(held.values()) + max(given_out) - given_out[0]


def config_of(name: str, bits: int, folder):
    """The script's config, for a model of the sizes above."""
    config = import_module(name).Config(model=str(folder), max_length=TOKENS, bits=bits, precision="fp32")
    config.checkpoint = folder  # no tokenizer is read
    return config


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_memory_is_what_real_steps_take(name, recomputed, tmp_path):
    script, config = import_module(name), config_of(name, 32, tmp_path)
    estimate = plan.training_step(script, config, SIZES, REVIEWS, 32, recomputed).peak
    assert estimate == pytest.approx(measured(script, config, recomputed, tmp_path), rel=0.2)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["deberta_lora", "deberta_ptuning", "deberta_prefix"])
def test_memory_of_quantized_weights(name, bits, tmp_path):
    DebertaClassifier(SIZES).save_pretrained(tmp_path)
    script, config = import_module(name), config_of(name, bits, tmp_path)
    config.max_length = 8  # so few that the weights take most of the memory
    estimate = plan.training_step(script, config, SIZES, 1, bits, False).peak
    assert estimate == pytest.approx(measured(script, config, False, tmp_path, reviews=1), rel=0.2)


def test_a_step_in_fake_tensors_costs_the_products_of_its_matrices():
    """Forward, and in LoRA back to every input but not to a frozen weight: twice as much, but for the thin matrices."""
    step = plan.training_step(import_module("deberta_lora"), config_of("deberta_lora", 32, None), SIZES, REVIEWS, 32, False)
    linear = 2 * REVIEWS * TOKENS * SIZES.num_hidden_layers * plan.layer_matrices(SIZES)
    assert linear < step.forward < 2.5 * linear and 1.8 * step.forward < step.flop < 2.4 * step.forward


@pytest.mark.parametrize(
    "name", ["make_log_bucket_position", "scaled_size_sqrt", "c2p_dynamic_expand", "p2c_dynamic_expand", "build_rpos"]
)
def test_functions_that_transformers_had_compiled_take_fake_tensors(name, monkeypatch):
    """As its versions before the one that is installed here have them."""
    script, config = import_module("deberta_lora"), config_of("deberta_lora", 32, None)
    expected = plan.training_step(script, config, SIZES, 2, 32, False)
    compiled = torch.jit.script(getattr(modeling_deberta_v2, name))
    monkeypatch.setattr(modeling_deberta_v2, name, compiled)
    assert plan.training_step(script, config, SIZES, 2, 32, False) == expected
    assert getattr(modeling_deberta_v2, name) is compiled


@pytest.mark.parametrize(
    ("model", "embedding", "rest"),
    [
        ("microsoft/deberta-v2-xxlarge", 197, 1368), ("microsoft/deberta-v2-xlarge", 197, 688),
        ("microsoft/deberta-v3-large", 131, 303), ("microsoft/deberta-v3-base", 98, 86), ("microsoft/deberta-v3-small", 98, 43),
        ("microsoft/deberta-v3-xsmall", 49, 22),
    ],
)  # fmt: skip
def test_published_sizes_need_no_network(model, embedding, rest, monkeypatch):
    """Their parameters in millions, which Microsoft rounds to 1.5 billion, 900, 304 + 131, 86 + 98, 44 + 98 and 22 + 48."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with torch.device("meta"):
        found = DebertaV2Model(plan.sizes_of(model))
    words = found.embeddings.word_embeddings.weight.numel()
    numbers = sum(weights.numel() for weights in found.parameters())
    assert words / 1e6 == pytest.approx(embedding, abs=0.5) and (numbers - words) / 1e6 == pytest.approx(rest, abs=0.6)


@pytest.mark.parametrize("script", METHODS)
def test_every_scripts_own_model_has_published_sizes(script):
    assert import_module(script).Config().model in PUBLISHED


def test_what_fits_is_found():
    """The micro-batch is halved until it fits, and small ones recompute."""
    cost = {(8, False): 9.0, (4, True): 3.0, (2, True): 2.0, (1, True): 1.0}

    def step(reviews: int, recomputed: bool) -> plan.Step:
        return plan.Step(cost[reviews, recomputed] * plan.GIB, 1.0, 3.0, 0, 0, False)

    for memory, expected in ((10, (8, False)), (8, (4, True)), (3, (2, True)), (1, None)):
        found = plan.fitting(step, plan.Machine("", memory * plan.GIB, 1.0, 8), 8)
        assert (found and found[:2]) == expected
    # each of two devices has half of the batch, which is no reason to recompute
    assert plan.fitting(lambda *its: step(2 * its[0], its[1]), plan.Machine("", 10 * plan.GIB, 1.0, 8, count=2), 8)[:2] == (
        4,
        False,
    )


def test_the_command_needs_a_config_and_nothing_else(tmp_path, capsys):
    SIZES.save_pretrained(tmp_path)
    done = run("-m", "popcorn", "plan", "deberta_prompt.py", "--model", tmp_path, "--max-length", 32, "--batch-size", 4)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if line.startswith("│")]
    rows = {name: rest for name, *rest in cells}
    assert rows.keys() >= {"T4", "2 x T4", "P100"} and "this machine" in done.stdout
    assert rows["T4"][:3] == ["8", "4", "no"] and rows["2 x T4"][1] == "2" and rows["P100"][0] == "4"
    plan.show(import_module("deberta_lora"), import_module("deberta_lora").Config(model=str(tmp_path), max_length=32, bits=8))
    assert [line.split("│")[3].strip() for line in capsys.readouterr().out.splitlines() if "P100" in line] == ["refused"]
    with pytest.raises(UserError, match="trains no adapter"):
        Plan(Path("lstm.py")).run()
    with pytest.raises(UserError, match=r"config\.json"):
        Plan(Path("deberta_lora.py"), model=str(tmp_path / "nothing")).run()


@pytest.mark.parametrize("place", ["a copy", "a folder that does not exist"])
def test_another_file_of_a_script_s_name_is_refused(place, tmp_path):
    """Not planned as if it were the repository's own."""
    path = tmp_path / "deberta_lora.py"
    if place == "a copy":
        path.write_text("other = 'recipe'")
    with pytest.raises(UserError, match="is not a script of this repository"):
        Plan(path).run()
