"""Adapters of a frozen DeBERTa: what learns, what is kept, what comes back, in 32, 8 and 4 bits."""

import shutil
from importlib import import_module
from itertools import product
from pathlib import Path

import pandas as pd
import pretrained
import pytest
import sentencepiece
import torch
from accelerate.utils import set_seed
from conftest import run_here, run_in_two_processes, run_kernel, some_fast
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from popcorn.errors import UserError
from popcorn.models import deberta
from popcorn.models.hub import find_checkpoint
from popcorn.runs.run import run as run_task
from popcorn.training import adapters
from popcorn.training.adapters import AdapterTask, AdapterTuner, adapter_trainer, resolve_bits

WIDER = {"hidden_size": 32, "pooler_hidden_size": 32, "intermediate_size": 64}
METHODS = "deberta_lora", "deberta_prompt", "deberta_ptuning", "deberta_prefix"
BITS = 32, 8, 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return pretrained.write(
        tmp_path_factory.mktemp("checkpoints") / "tiny",
        "deberta-v2",
        hidden_size=32,
        pooler_hidden_size=32,
        intermediate_size=64,
        initializer_range=0.1,
    )


def options(script: str, checkpoint: Path, competition: Path, folder: Path, **changes):
    """A config that makes a run of the script take seconds."""
    return import_module(script).Config(
        **dict(
            model=str(checkpoint), data_dir=competition, output_dir=folder, name=script, epochs=4, batch_size=16,
            learning_rate=0.01, head_learning_rate=0.01, max_length=64, checkpoint_every=5, no_validation=True, precision="fp32",
        )
        | changes
    )  # fmt: skip


def start(config, script: str) -> None:
    """What the script does with its options."""
    module = import_module(script)
    run_task(AdapterTask(module.peft_config, config), adapter_trainer(config, module.training_arguments))


def build(config, script: str):
    """The script's model, as the config has it."""
    find_checkpoint(config)
    return adapters.build_adapter(import_module(script).peft_config, config, config.checkpoint)


def trained(script: str, *arguments, **changes) -> pd.Series:
    """The probabilities that a run submits."""
    config = options(script, *arguments, **changes)
    start(config, script)
    return pd.read_csv(config.output_dir / "submissions" / f"{config.name}.proba.csv", quoting=3, index_col="id")["sentiment"]


def moved(kept: Path, script: str, *arguments) -> float:
    """How far training has taken the adapter itself, apart from pooler and head, from where it began."""
    weights = load_file(kept / "adapter_model.safetensors")
    if script == "deberta_lora":  # B is zero at first
        return max(float(value.abs().max()) for name, value in weights.items() if "lora_B" in name)
    config = options(script, *arguments, bits=32)
    set_seed(config.seed)
    before = build(config, script).get_prompt_embedding_to_save("default")
    return float((weights["prompt_embeddings"] - before).abs().max())


def auc(probabilities: pd.Series) -> float:
    from sklearn.metrics import roc_auc_score

    return roc_auc_score([int(name.strip('"').split("_")[1]) > 5 for name in probabilities.index], probabilities)


@pytest.mark.parametrize(
    ("script", "bits"),
    some_fast([*product(METHODS[:1], BITS), (METHODS[1], 8)], product(METHODS, BITS)),
)
def test_every_method_learns_and_its_adapter_comes_back(script, bits, checkpoint, competition, tmp_path):
    """Loaded anew it says the same of every review, and it is small: the frozen weights are not in it."""
    arguments = script, checkpoint, competition, tmp_path
    found = trained(*arguments, bits=bits)
    assert auc(found) > 0.7
    # what is put before a random encoder cannot mend it, and what is learned beside its weights can
    assert script != "deberta_lora" or auc(found) > 0.85
    kept = tmp_path / "runs" / script / "seed-1" / "refit" / "model"
    assert (kept / "adapter_model.safetensors").stat().st_size < 0.05 * (checkpoint / "model.safetensors").stat().st_size
    assert moved(kept, *arguments) > 1e-2
    again = trained(*arguments, bits=bits, adapter=kept, name="again")
    # in 8 bits rounding depends on the batch's other reviews
    pd.testing.assert_series_equal(again, found, atol=1e-4 if bits == 8 else 2e-6, rtol=0)
    assert found.nunique() > 90  # and not the same of all


@pytest.mark.parametrize("script", METHODS)
def test_the_frozen_weights_stay_and_pooler_and_head_learn(script, checkpoint, competition, tmp_path):
    config = options(script, checkpoint, competition, tmp_path, bits=32)
    model = build(config, script)
    learning = {name for name, weights in model.named_parameters() if weights.requires_grad}
    head = {name for name in learning if "modules_to_save" in name}
    assert {"pooler", "classifier"} == {name.split(".modules_to_save")[0].split(".")[-1] for name in head}
    assert all("lora_" in name or "prompt_encoder" in name for name in learning - head) and learning - head
    rest, heads = AdapterTask(import_module(script).peft_config, config).parameter_groups(model, config)
    assert len(heads["params"]) == len(head) and len(rest["params"]) == len(learning - head)
    assert all(weights.dtype == torch.float32 for weights in rest["params"] + heads["params"])


@pytest.mark.parametrize("from_the_beginning", [False, True])
def test_virtual_tokens_that_may_not_be_read_change_nothing(from_the_beginning, checkpoint, tmp_path):
    """The pooler reads [CLS] behind them, and the text's places are those it has alone, counted from its beginning or not."""
    torch.manual_seed(0)
    folder = pretrained.write(tmp_path, "deberta-v2", initializer_range=0.3, position_biased_input=from_the_beginning)
    model = deberta.DebertaClassifier.from_pretrained(folder, num_labels=2, dtype="float32").eval()
    tokens, mask = torch.randint(5, 1000, (2, 9)), torch.ones(2, 9)
    with torch.no_grad():
        alone = model(tokens, attention_mask=mask).logits
        words = model.get_input_embeddings()(tokens)
        both = torch.cat([torch.randn(2, 4, words.shape[-1]), words], 1)
        model.virtual_tokens = 4
        masked = model(attention_mask=torch.cat([torch.zeros(2, 4), mask], 1), inputs_embeds=both).logits
        read = model(attention_mask=torch.ones(2, 13), inputs_embeds=both).logits
        model.virtual_tokens = 0  # the common mistake: the pooler reads the first of them
        wrong = model(attention_mask=torch.cat([torch.zeros(2, 4), mask], 1), inputs_embeds=both).logits
    assert torch.allclose(masked, alone, atol=1e-5)
    assert not torch.allclose(read, alone, atol=1e-3) and not torch.allclose(wrong, alone, atol=1e-3)


@pytest.mark.parametrize(
    ("script", "bits"),
    some_fast(
        [("deberta_ptuning", 32), ("deberta_lora", 8)], [("deberta_ptuning", 32), ("deberta_lora", 8), ("deberta_lora", 4)]
    ),
)
def test_a_killed_run_goes_on_to_the_same_submission(script, bits, checkpoint, competition, tmp_path, monkeypatch):
    """Of P-tuning too, whose network PEFT's own checkpoints leave out; and validated, over a quantized base."""
    changes = {"bits": bits, "no_validation": False, "epochs": 2, "refit": False, "max_train_samples": 200}
    step, taken = AdapterTuner.training_step, []

    def counted(self, *arguments, **options):
        taken.append(1)
        if len(taken) == killed_at:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(AdapterTuner, "training_step", counted)
    killed_at = None
    undisturbed = trained(script, checkpoint, competition, tmp_path / "undisturbed", **changes)
    whole, killed_at = len(taken), 12
    taken.clear()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trained(script, checkpoint, competition, tmp_path / "killed", **changes)
    killed_at = None
    taken.clear()
    resumed = trained(script, checkpoint, competition, tmp_path / "killed", **changes, resume=True)
    assert len(taken) == whole - 10  # it goes on from the checkpoint of step 10
    pd.testing.assert_series_equal(resumed, undisturbed, atol=1e-4 if bits == 8 else 2e-6, rtol=0)


def test_two_processes_have_a_quantized_base_each(checkpoint, competition, tmp_path):
    """As on two GPUs: half of every batch each, in pieces of two, which are few enough to recompute activations."""
    given = "--bits", 8, "--batch-size", 8, "--micro-batch-size", 2, "--epochs", 1, "--max-train-samples", 48, "--max-length", 64
    where = "--data-dir", competition, "--output-dir", tmp_path, "--name", "two"
    printed = run_in_two_processes("deberta_lora.py", "--model", checkpoint, *given, *where, "--no-validation")
    assert printed.count("Test: accuracy") == 1 and "activations are recomputed" in printed
    assert len(pd.read_csv(tmp_path / "submissions" / "two.csv")) == 100
    assert (tmp_path / "runs" / "two" / "seed-1" / "refit" / "model" / "adapter_model.safetensors").is_file()


def test_a_prompt_begins_as_its_text(checkpoint, competition, tmp_path):
    config = options("deberta_prompt", checkpoint, competition, tmp_path, bits=32)
    model = build(config, "deberta_prompt")
    ids = AutoTokenizer.from_pretrained(checkpoint)(config.text)["input_ids"]
    wanted = (ids * 2)[: config.virtual_tokens]  # of a shorter text the beginning again
    words = model.get_base_model().get_input_embeddings()(torch.tensor(wanted))
    assert torch.equal(model.get_prompt_embedding_to_save("default"), words)


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_half_precision_beside_frozen_weights_of_any_kind(bits, checkpoint, competition, tmp_path):
    """As on a GPU: a quantized matrix answers in float32 behind a layer norm, beside scores of half precision."""
    for script in METHODS:
        config = options(script, checkpoint, competition, tmp_path, bits=bits)
        model = build(config, script)
        kinds = {weights.dtype for weights in model.parameters() if weights.requires_grad}
        assert kinds == {torch.float32}
        tokens, mask = torch.randint(5, 1000, (2, 9)), torch.ones(2, 9)
        for mode in (model.train(), model.eval()):
            with torch.autocast("cpu", torch.bfloat16):
                found = mode(input_ids=tokens, attention_mask=mask, labels=torch.tensor([0, 1]))
            assert found.logits.isfinite().all()
            found.loss.backward()


def test_an_adapter_knows_how_many_virtual_tokens_it_has(checkpoint, competition, tmp_path):
    """And not the options that it is used with."""
    config = options(
        "deberta_prompt", checkpoint, competition, tmp_path, bits=32, epochs=1, max_train_samples=20, virtual_tokens=7
    )
    start(config, "deberta_prompt")
    kept = tmp_path / "runs" / "deberta_prompt" / "seed-1" / "refit" / "model"
    later = options("deberta_prompt", checkpoint, competition, tmp_path, bits=32, adapter=kept)
    assert build(later, "deberta_prompt").get_base_model().virtual_tokens == 7
    with pytest.raises(SystemExit):  # of the same name, it would move the run away whose adapter it needs
        start(later, "deberta_prompt")
    assert kept.is_dir()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": 0}, "--rank is 0"),
        ({"dropout": 1.5}, "--dropout is 1.5"),
        ({"adapter": Path("x"), "folds": 2}, "only predicts, without training"),
        ({"checkpoint_every": 0}, "--checkpoint-every is 0"),
        ({"warmup_ratio": 2.0}, "--warmup-ratio is 2.0"),
        ({"weight_decay": -1.0}, "--weight-decay is -1.0"),
        ({"learning_rate": -1e-4}, "--learning-rate is -0.0001: give a number above 0"),
        ({"head_learning_rate": float("nan")}, "--head-learning-rate is nan"),
    ],
)
def test_options_are_checked(given, said):
    with pytest.raises(UserError, match=said):
        import_module("deberta_lora").Config(**given)


@pytest.mark.parametrize("script", some_fast(["deberta_lora"], METHODS))
def test_its_kernel_gives_the_same_bytes(script, checkpoint, competition, tmp_path):
    trained(script, checkpoint, competition, tmp_path, bits=32, epochs=1)
    given = ["--model", checkpoint, "--name", script, "--epochs", 1, "--batch-size", 16, "--learning-rate", 0.01]
    given += ["--head-learning-rate", 0.01, "--max-length", 64, "--bits", 32, "--no-validation", "--precision", "fp32"]
    mine = [(tmp_path / "submissions" / f"{script}{kind}.csv").read_bytes() for kind in ("", ".proba")]
    assert run_kernel(script, given, competition, tmp_path) == mine


def test_bits_are_refused_where_they_cannot_be_had(monkeypatch):
    assert resolve_bits(None) == 32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, by_itself in (((6, 0), 4), ((7, 5), 8), ((9, 0), 8)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert resolve_bits(None) == by_itself
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 0))
    with pytest.raises(UserError, match=r"--bits 8 needs a GPU of compute capability 7\.5.* 6\.0.*--bits 4"):
        resolve_bits(8)
    monkeypatch.setattr(adapters, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(UserError, match="bitsandbytes, which is not installed"):
        resolve_bits(4)


@pytest.mark.parametrize("script", METHODS)
def test_a_model_of_another_family_is_refused(script, tmp_path):
    printed = run_here(f"{script}.py", "--model", pretrained.write(tmp_path, "bert"), "--output-dir", tmp_path, code=2)
    assert "'bert'" in printed and "'deberta-v2'" in printed


def test_an_adapter_of_another_base_or_kind_is_refused(checkpoint, competition, tmp_path):
    config = options("deberta_lora", checkpoint, competition, tmp_path, bits=32, epochs=1, max_train_samples=20)
    start(config, "deberta_lora")
    kept = tmp_path / "runs" / "deberta_lora" / "seed-1" / "refit" / "model"
    torch.manual_seed(1)
    other = pretrained.write(tmp_path / "other", "deberta-v2", **WIDER)
    with pytest.raises(UserError, match=r"was trained on tiny, and --model .*other has other weights"):
        build(options("deberta_lora", other, competition, tmp_path, bits=32, adapter=kept), "deberta_lora")
    with pytest.raises(UserError, match="is of type LORA, and this script's are PREFIX_TUNING"):
        build(options("deberta_prefix", checkpoint, competition, tmp_path, bits=32, adapter=kept), "deberta_prefix")
    with pytest.raises(UserError, match=r"tiny is no folder with an adapter: give one such as"):
        options("deberta_lora", checkpoint, competition, tmp_path, adapter=checkpoint).prepare("deberta_lora")
    for name, content in (
        ("adapter_config.json", b"{}"),
        ("adapter_config.json", b'{"peft_type": "MAGIC"}'),
        ("base.json", b"[]"),
        ("adapter_model.safetensors", (kept / "adapter_model.safetensors").read_bytes()[:500]),
    ):
        damaged = shutil.copytree(kept, tmp_path / "damaged", dirs_exist_ok=True)
        (damaged / name).write_bytes(content)
        with pytest.raises(UserError, match="is not an adapter of a finished run"):
            build(options("deberta_lora", checkpoint, competition, tmp_path, bits=32, adapter=damaged), "deberta_lora")


def test_a_sentencepiece_model_is_read_as_deberta_v3_has_it(checkpoint, competition, tmp_path):
    """Its checkpoints on the hub have spm.model and no tokenizer.json."""
    lines = pd.read_csv(competition / "unlabeledTrainData.tsv", sep="\t", quoting=3)["review"]
    (tmp_path / "text").write_text("\n".join(lines))
    folder = tmp_path / "v3"
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(folder / "spm"), vocab_size=90, unk_id=3, pad_id=0, bos_id=1, eos_id=2,
        pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]", minloglevel=2,
    )  # fmt: skip
    (folder / "spm.vocab").unlink()
    AutoConfig.from_pretrained(checkpoint).save_pretrained(folder)
    (folder / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("a superb film")["input_ids"]
    assert (ids[0], ids[-1]) == (1, 2) and tokenizer.decode(ids[1:-1]).strip() == "a superb film"
    assert trained("deberta_lora", folder, competition, tmp_path, bits=32, epochs=1).between(0, 1).all()
