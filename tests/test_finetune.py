"""Fine-tuning in this process: what a pretrained model reads, how it is trained, and that both trainers train it alike."""

import json
import re
import shutil
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pretrained
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn
from torch.distributions import Bernoulli, kl_divergence
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForSequenceClassification,
    DebertaV2ForSequenceClassification,
    Trainer,
    TrainingArguments,
)  # fmt: skip
from transformers.modeling_outputs import SequenceClassifierOutput

import bert_native
import bert_scratch
import bert_trainer
import deberta_trainer
import distilbert_native
import distilbert_trainer
import modernbert_trainer
import roberta_trainer
from benchmarks import layouts
from popcorn.data import competition as competition_data
from popcorn.data.splits import Split, validation_splits
from popcorn.data.subword_tokenizer import read_subwords
from popcorn.errors import UserError
from popcorn.models.hub import find_checkpoint
from popcorn.models.layers import mask_of
from popcorn.models.tokenizer import load_tokenizer
from popcorn.runs.run_dir import settings_of
from popcorn.training.finetuning_task import FinetuningTask
from popcorn.training.hf_trainer import FineTuner, HFTrainer
from popcorn.training.losses import duplicate_batch, pooled_features, supervised_contrastive, symmetric_kl
from popcorn.training.masked_lm import MODEL_CLASSES, MaskedTrainer
from popcorn.training.micro_batches import LengthGroupedBatchSampler, ReviewDataset
from popcorn.training.optim import layer_decay_groups
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.review_trainer import IGNORE_INDEX

SCRIPTS = {
    "bert_native": (bert_native.BERT, bert_native.Config),
    "distilbert_native": (distilbert_native.DistilBERT, distilbert_native.Config),
    "bert_scratch": (bert_scratch.build, bert_scratch.Config),
    "bert_trainer": (bert_trainer.build, bert_trainer.Config),
    "distilbert_trainer": (distilbert_trainer.build, distilbert_trainer.Config),
    "roberta_trainer": (roberta_trainer.build, roberta_trainer.Config),
    "deberta_trainer": (deberta_trainer.build, deberta_trainer.Config),
    "modernbert_trainer": (modernbert_trainer.build, modernbert_trainer.Config),
}
TRAIN = {"bert_native": bert_native.train, "distilbert_native": distilbert_native.train}
"""the scripts' own loops"""
# no dropout, and weights so large that a few steps tell one review from another
STEADY = {
    "bert": {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "initializer_range": 0.4},
    "distilbert": {"dropout": 0.0, "initializer_range": 0.4},
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A tiny checkpoint of each family, BERT and DistilBERT without dropout."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    return {family: pretrained.write(folder / family, family, **STEADY.get(family, {})) for family in pretrained.FAMILIES}


@pytest.fixture
def config_of(checkpoints, competition):
    def make(script: str = "bert_trainer", **options):
        config = SCRIPTS[script][1]
        recipe = {
            "model": str(checkpoints[config.MODEL_TYPE]), "data_dir": competition, "epochs": 2, "batch_size": 16,
            "learning_rate": 2e-3, "precision": "fp32", "dropout": 0.0, "attention_dropout": 0.0, "checkpoint_every": 4,
            "name": "test",
        }  # fmt: skip
        made = config(**{name: value for name, value in (recipe | options).items() if hasattr(config, name)})
        find_checkpoint(made)
        return made

    return make


class TwoLogits(nn.Module):
    """The library's classifier as the native loop takes it: tokens (batch, time), lengths (batch,) -> log-odds (batch,)"""

    def __init__(self, config, checkpoint):
        super().__init__()
        self.inner = bert_trainer.build(config, checkpoint)

    def forward(self, tokens, lengths):
        logits = self.inner(tokens, attention_mask=mask_of(lengths, tokens.shape[1]).long()).logits
        return logits[:, 1] - logits[:, 0]


SPLIT = Split("validated", np.arange(96), np.arange(300, 360))  # six batches of sixteen
BEST_BEFORE_THE_LAST = replace(SPLIT, train=np.arange(300))


def trainer_of(script):
    """The trainer of the script."""
    return PyTorchTrainer(TRAIN[script]) if script in TRAIN else HFTrainer(bert_trainer.training_arguments)


def loaded(build, config):
    """The task, with its reviews."""
    task = FinetuningTask(build, config)
    task.load()
    return task


def fit(trainer, build, config, run_dir, *splits, deadline=float("inf"), change=lambda model: model):
    """The result of the fit to the last of the splits."""
    splits = splits or (SPLIT,)
    for split in splits:
        (run_dir / split.name).mkdir(parents=True, exist_ok=True)
    task = loaded(lambda config, checkpoint: change(build(config, checkpoint)), config)
    trainer.set_up(task, run_dir, deadline)
    results = [trainer.fit(split) for split in splits]
    trainer.finish()
    return results[-1]


# what the model reads


def test_subwords_are_framed_and_keep_head_and_tail(config_of, competition):
    config = config_of(max_length=20)
    tokenizer = load_tokenizer(config)
    texts = competition_data.Competition(competition, "").read(competition_data.TRAIN).texts
    reviews = read_subwords(competition_data.Competition(competition, ""), competition_data.TRAIN, tokenizer, config)
    for text, ids in zip(texts, reviews.reviews, strict=True):
        whole = tokenizer(re.sub("<br />", " ", text), add_special_tokens=False)["input_ids"]
        inside = whole if len(whole) <= 18 else whole[:4] + whole[-14:]
        assert ids.tolist() == [tokenizer.cls_token_id, *inside, tokenizer.sep_token_id]
    tokens, lengths = reviews.batch(np.array([0, 1]))
    assert (tokens[mask_of(lengths, tokens.shape[1]).logical_not()] == tokenizer.pad_token_id).all()


def test_more_tokens_than_positions_are_refused(config_of):
    with pytest.raises(UserError, match=r"--max-length is 513: .* allows at most 512"):
        load_tokenizer(config_of(max_length=513))


def test_a_roberta_has_no_places_for_its_padding(config_of):
    """Its tokenizers do not always say how much it reads."""
    config = config_of("roberta_trainer")
    folder = shutil.copytree(config.checkpoint, config.checkpoint.with_name("unsaid"))
    about = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(about | {"model_max_length": 10**30}))
    with pytest.raises(UserError, match=r"--max-length is 514: .* allows at most 513"):  # of 514, and the padding's id is 0
        load_tokenizer(config_of("roberta_trainer", model=str(folder), max_length=514))


def test_weights_that_cannot_be_read_are_reported(config_of, tmp_path):
    """Half of a file, a pointer in its place, and a list of files that are not there."""
    whole = config_of().checkpoint
    for number, (name, content) in enumerate((
        ("model.safetensors", (whole / "model.safetensors").read_bytes()[:1000]),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1"),
        ("model.safetensors.index.json", b'{"metadata": {}, "weight_map": {"pooler.dense.bias": "model-00001.safetensors"}}'),
    )):  # fmt: skip
        folder = shutil.copytree(whole, tmp_path / str(number))
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)
        for further in (False, True):
            config = config_of(model=str(folder), further_pretrain=further, output_dir=tmp_path)
            with pytest.raises(UserError, match=r"the weights in .* cannot be read .*fetch or attach the whole model again"):
                task = loaded(bert_trainer.build, config)
                task.pretrain(float("inf")) if further else task.new_model()


def model_s_loss(self, model, inputs, return_outputs):
    """The part of `Trainer.compute_loss` that needs no Trainer."""
    outputs = model(**inputs)
    return outputs.loss, outputs


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "modernbert"])
def test_the_head_of_masked_subwords_learns_as_that_of_all(family, checkpoints, monkeypatch):
    """The same loss and the same gradients as the library's own forward pass has, from fewer logits."""
    model = AutoModelForMaskedLM.from_pretrained(checkpoints[family]).eval()
    torch.manual_seed(0)
    tokens, mask = torch.randint(5, 2_000, (3, 9)), mask_of(torch.tensor([9, 4, 7]), 9)
    labels = tokens.masked_fill((torch.rand(3, 9) < 0.6) | ~mask, IGNORE_INDEX)
    inputs = {"input_ids": tokens.masked_fill(~mask, 0), "attention_mask": mask.long(), "labels": labels}
    trainer = MaskedTrainer.__new__(MaskedTrainer)
    trainer.accelerator = SimpleNamespace(unwrap_model=lambda model: model)
    monkeypatch.setattr(Trainer, "compute_loss", model_s_loss)
    loss, outputs = trainer.mean_loss(model, inputs)
    theirs = model(**inputs)
    assert outputs.logits.shape[:2] == (1, (labels != IGNORE_INDEX).sum())
    assert theirs.logits.shape[:2] == (3, 9)  # nothing is left in the model
    torch.testing.assert_close(loss, theirs.loss)
    weights = list(model.parameters())
    gradients = (torch.autograd.grad(each, weights, allow_unused=True) for each in (loss, theirs.loss))
    for narrow, whole in zip(*gradients, strict=True):
        assert narrow is whole is None or torch.allclose(narrow, whole, atol=1e-6)


def test_a_piece_in_which_nothing_is_masked_teaches_nothing(config_of, tmp_path):
    """A piece of one review, and that of two words: its mean loss would be no number, and so the batch's."""
    config = config_of(
        further_pretrain=True, pretrain_epochs=1, micro_batch_size=1, max_length=4, max_train_samples=32, output_dir=tmp_path
    )
    task = loaded(bert_trainer.build, config)
    task.pretrain(float("inf"))
    assert all(weights.isfinite().all() for weights in task.new_model().parameters())


@pytest.mark.parametrize("script", SCRIPTS)
def test_attention_dropout_is_the_option_s(script, config_of, tmp_path):
    """Whatever the checkpoint's was, in fine-tuning and in the training of the language model before it."""
    names = {"distilbert": ("dropout", "attention_dropout"), "modernbert": ("mlp_dropout", "attention_dropout")}
    family = SCRIPTS[script][1].MODEL_TYPE
    others, attention = names.get(family, ("hidden_dropout_prob", "attention_probs_dropout_prob"))
    checkpoint = pretrained.write(tmp_path / "checkpoint", family, **{others: 0.0, attention: 0.9})
    changes, further = [], []
    for share in (0.0, 0.5):
        config = config_of(script, model=str(checkpoint), attention_dropout=share, pretrain_epochs=1)
        config.further_pretrain = family in MODEL_CLASSES
        config.max_train_samples, config.max_length, config.output_dir = 32, 8, tmp_path  # two steps: the first one's rate is 0
        task = loaded(SCRIPTS[script][0], config)
        task.pretrain(float("inf"))
        further += set((tmp_path / "runs" / "further-pretrained").glob("*/model.safetensors")) - set(further)
        model = task.new_model().train()
        tokens = torch.arange(1_000, 1_008).repeat(2, 1)
        given = {"lengths": torch.tensor([8, 8])} if script.endswith("native") else {"attention_mask": torch.ones_like(tokens)}
        first, second = (getattr(answer, "logits", answer) for answer in (model(tokens, **given), model(tokens, **given)))
        changes.append(not torch.equal(first, second))
    assert changes == [False, True]
    assert len({path.read_bytes() for path in further}) == 2 * (family in MODEL_CLASSES)


@pytest.mark.parametrize("script", SCRIPTS)
def test_padding_and_company_change_nothing(script, config_of):
    build, config = SCRIPTS[script][0], config_of(script)
    torch.manual_seed(1)
    model = build(config, config.checkpoint).eval()
    lengths = torch.tensor([9, 3, 6])
    tokens = torch.randint(5, 2_000, (3, 9)).masked_fill(~mask_of(lengths, 9), 0)

    def answer(tokens, lengths):
        if script.endswith("native"):
            return model(tokens, lengths)
        return model(input_ids=tokens, attention_mask=mask_of(lengths, tokens.shape[1]).long()).logits[:, 1]

    with torch.no_grad():
        together = answer(tokens, lengths)
        padded = answer(nn.functional.pad(tokens, (0, 7)), lengths)
        alone = torch.cat([answer(tokens[row : row + 1, :length], lengths[row : row + 1]) for row, length in enumerate(lengths)])
    assert torch.allclose(together, padded, atol=1e-6) and torch.allclose(together, alone, atol=1e-6)
    assert together.std() > 1e-4


def test_the_classifier_of_our_own_is_what_it_says(config_of):
    """Review by review, without a mask, from the library's hidden states."""
    config = config_of("bert_scratch", last_layers=2)
    torch.manual_seed(1)
    model = bert_scratch.build(config, config.checkpoint).eval()
    lengths, labels = [7, 4], torch.tensor([1, 0])
    tokens = torch.randint(5, 2_000, (2, 7))
    mask = mask_of(torch.tensor(lengths), 7).long()
    with torch.no_grad():
        outputs = model(tokens, mask, labels)
        logits = []
        for row, length in enumerate(lengths):
            layers = model.bert(tokens[row : row + 1, :length], output_hidden_states=True).hidden_states
            states = ((layers[-1] + layers[-2]) / 2)[0]
            review = torch.cat([states[0], sum(states) / length])
            logits.append(model.classifier(torch.tanh(model.dense(review))))
        logits = torch.stack(logits)
        loss = -torch.log(logits.softmax(1)[[0, 1], labels]).mean()
    assert torch.allclose(outputs.logits, logits, atol=1e-6) and torch.allclose(outputs.loss, loss, atol=1e-6)
    model.config.last_layers = 4  # where there are two
    with torch.no_grad():
        assert torch.allclose(model(tokens, mask).logits, logits, atol=1e-6)


# how it is trained


@pytest.mark.parametrize("script", SCRIPTS)
def test_lower_layers_learn_more_slowly_and_biases_do_not_decay(script, config_of):
    build, config = SCRIPTS[script][0], config_of(script, layer_decay=0.5, learning_rate=1.0, weight_decay=0.1)
    model = build(config, config.checkpoint)
    groups = layer_decay_groups(model, 2, config)
    group_of = {id(weights): group for group in groups for weights in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(group_of) == len(list(model.parameters()))
    for name, weights in model.named_parameters():
        group = group_of[id(weights)]
        # DeBERTa's layer norm of relative positions, and its convolution parallel to the first layer
        is_bottom = "embeddings" in name or name.startswith(("deberta.encoder.LayerNorm", "deberta.encoder.conv"))
        layer = re.search(r"\blayers?\.(\d)\.", name)
        power = 3 if is_bottom else 2 - int(layer[1]) if layer else 0
        assert group["lr"] == 0.5**power, name
        assert group["weight_decay"] == (0.0 if "bias" in name or "norm" in name.lower() else 0.1), name


def test_layer_decay_refuses_layers_that_it_does_not_find(config_of):
    """They would all train at the head's learning rate."""
    config = config_of(layer_decay=0.5)
    model = bert_trainer.build(config, config.checkpoint)
    model.bert.encoder.layer, model.bert.encoder.blocks = nn.ModuleList(), model.bert.encoder.layer
    with pytest.raises(UserError, match=r"--layer-decay is 0.5, and .* of 2 of the model's 2 layers .*give --layer-decay 1,"):
        layer_decay_groups(model, 2, config)
    assert {group["lr"] for group in layer_decay_groups(model, 2, replace(config, layer_decay=1.0))} == {config.learning_rate}
    model.bert.encoder.layer = model.bert.encoder.blocks[:1]
    with pytest.raises(UserError, match="the parameters of 1 of the model's 2 layers"):
        layer_decay_groups(model, 2, config)


def test_the_script_s_training_arguments_are_what_trains(config_of, tmp_path):
    """Each of them reaches the optimizer, the schedule, the loss or the batches, although the options differ."""
    made = []

    class Watched(FineTuner):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            made.append(self)

    def arguments(config):
        return TrainingArguments(
            num_train_epochs=4, per_device_train_batch_size=32, learning_rate=1e-4, lr_scheduler_type="constant_with_warmup",
            warmup_steps=3, weight_decay=0.5, max_grad_norm=0.1, label_smoothing_factor=0.5,
        )  # fmt: skip

    trainer = HFTrainer(arguments)
    trainer.trainer_class = Watched
    result = fit(trainer, bert_trainer.build, config_of(), tmp_path, replace(SPLIT, epochs=3))
    (watched,) = made
    assert watched.state.global_step == 9 and len(result.history) == 3  # three batches of 32
    rates = {group["lr"] for group in watched.optimizer.param_groups}
    assert max(rates) == 1e-4 and len(rates) > 2
    assert {group["weight_decay"] for group in watched.optimizer.param_groups} == {0.0, 0.5}
    assert watched.args.max_grad_norm == 0.1
    plain = HFTrainer(lambda config: replace(arguments(config), label_smoothing_factor=0.0))
    other = fit(plain, bert_trainer.build, config_of(), tmp_path / "plain", replace(SPLIT, epochs=3))
    assert abs(other.history[0]["loss"] - result.history[0]["loss"]) > 0.01


def test_arguments_that_micro_batches_would_change_are_refused(config_of, tmp_path):
    for given, said in (
        ({"gradient_accumulation_steps": 4}, "give the whole batch"),
        ({"num_train_epochs": 2.5}, "whole number"),
    ):
        with pytest.raises(UserError, match=said):
            fit(HFTrainer(lambda config, given=given: TrainingArguments(**given)), bert_trainer.build, config_of(), tmp_path)


def test_all_epochs_of_the_arguments_are_trained_without_validation(config_of, tmp_path):
    """Where the script itself asks for an evaluation, too."""
    arguments = TrainingArguments(num_train_epochs=3, per_device_train_batch_size=16, eval_strategy="epoch")
    config = config_of(no_validation=True)
    (split,) = validation_splits(config, [f"{number}_9" for number in range(400)], np.arange(400) % 2)
    result = fit(HFTrainer(lambda config: arguments), bert_trainer.build, config, tmp_path, replace(split, train=np.arange(32)))
    assert len(result.history) == 3


@pytest.mark.parametrize("scl", [0.0, 0.5])
def test_micro_batches_may_change_on_resume_unless_the_loss_depends_on_them(scl, config_of):
    whole, halves = (settings_of(config_of(scl=scl, micro_batch_size=size)) for size in (16, 8))
    assert (whole == halves) is (scl == 0)


def test_a_changed_argument_is_seen_on_resume(config_of):
    trainers = HFTrainer(bert_trainer.training_arguments), HFTrainer(lambda config: TrainingArguments(label_smoothing_factor=0.1))
    first, other = (trainer.start(config_of()) for trainer in trainers)
    assert first == trainers[0].start(config_of()) != other and "label_smoothing_factor 0.1" in other["training_arguments"]


def test_both_trainers_train_alike(config_of, tmp_path):
    """The same seed, data and recipe: the same batches, losses and predictions."""
    config = config_of()
    of_loop = fit(PyTorchTrainer(bert_native.train), TwoLogits, config, tmp_path / "native")
    of_trainer = fit(trainer_of("bert_trainer"), bert_trainer.build, config, tmp_path / "trainer")
    assert of_loop.epoch == of_trainer.epoch
    for ours, theirs in zip(of_loop.history, of_trainer.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)  # version 4 logs four decimals
        assert ours["validation_accuracy"] == theirs["validation_accuracy"]
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], abs=1e-5)
    assert np.allclose(of_loop.test, of_trainer.test, atol=1e-5) and of_loop.test.std() > 0.01


class NoMemory(nn.Module):
    """Stands in a model's way: raises what torch raises without memory, for more than `room` reviews."""

    def __init__(self, inner: nn.Module, room: int):
        super().__init__()
        self.inner, self.room = inner, room

    def forward(self, tokens, *arguments, **options):
        if self.training and len(tokens) > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return self.inner(tokens, *arguments, **options)


def without_memory(model: BertForSequenceClassification) -> BertForSequenceClassification:
    model.bert.embeddings.word_embeddings = NoMemory(model.bert.embeddings.word_embeddings, 5)
    return model


def test_without_memory_the_same_gradient_comes_from_smaller_pieces(config_of, tmp_path, capsys):
    """Batches of fifteen and sixteen: fails where the pieces' means are added up, or averaged as if they were of one size."""
    config, split = config_of(epochs=1), replace(SPLIT, train=np.arange(95))
    second, small = replace(split, name="second"), replace(config, micro_batch_size=4)
    plenty = fit(trainer_of("bert_trainer"), bert_trainer.build, config, tmp_path / "plenty", split)
    scarce = fit(
        trainer_of("bert_trainer"),
        bert_trainer.build,
        config,
        tmp_path / "scarce",
        split,
        second,
        change=without_memory,
    )
    said = capsys.readouterr().out
    assert said.count("micro-batches of 8") == said.count("micro-batches of 4") == 1  # and in the second fit at once
    assert said.count("activations are recomputed") == 2
    given = fit(trainer_of("bert_trainer"), bert_trainer.build, small, tmp_path / "given", split, change=without_memory)
    in_loop = fit(
        PyTorchTrainer(bert_native.train), TwoLogits, small, tmp_path / "loop", split,
        change=lambda model: without_memory(model.inner) and model,
    )  # fmt: skip
    assert "Out of memory" not in capsys.readouterr().out
    for found in (scarce, given, in_loop):
        assert np.allclose(plenty.test, found.test, atol=1e-5) and plenty.test.std() > 0.01
    assert given.history[0]["loss"] == pytest.approx(plenty.history[0]["loss"], abs=1e-5)


def test_micro_batches_are_the_batches_of_the_native_loop(config_of, competition):
    config = config_of()
    reviews = read_subwords(competition_data.Competition(competition, ""), competition_data.TRAIN, load_tokenizer(config), config)
    rows = np.arange(7, 107)  # seven batches, of fourteen or fifteen
    whole, pieces = (LengthGroupedBatchSampler(ReviewDataset(reviews, rows), 16, size, 1) for size in (16, 4))
    assert len(whole) == 7 and pieces.accumulation == 4 and len(pieces) == 28
    together = list(pieces)
    for number, batch in enumerate(whole):
        assert [*chain(*together[4 * number : 4 * number + 4])] == batch
    assert sorted(chain(*whole)) == list(range(100))
    first = list(whole)
    whole.epoch = 1
    assert list(whole) != first


@pytest.mark.parametrize("script", ["bert_native", "bert_trainer"])
def test_time_runs_out_and_the_fit_goes_on_later(script, config_of, tmp_path):
    """Stopped in the middle of the second epoch, with dropout, so that the random states count."""
    build, config = SCRIPTS[script][0], config_of(script, dropout=0.5)
    whole = fit(trainer_of(script), build, config, tmp_path / "whole")

    class Late:
        """A deadline that passes at the ninth comparison with it."""

        comparisons = 0

        def __le__(self, _):
            Late.comparisons += 1
            return Late.comparisons == 9

    first = fit(trainer_of(script), build, config, tmp_path / "parts", deadline=Late())
    assert not first.complete and len(first.history) == 1 and len(first.test) == 100
    again = fit(trainer_of(script), build, config, tmp_path / "parts")
    assert again.complete and np.array_equal(again.test, whole.test) and np.array_equal(again.validation, whole.validation)
    assert [each["loss"] for each in again.history] == pytest.approx([each["loss"] for each in whole.history], abs=1e-4)


def test_the_best_epoch_predicts_and_is_kept_as_the_library_loads_it(config_of, tmp_path):
    config = config_of(epochs=4, patience=4, learning_rate=5e-3)
    result = fit(trainer_of("bert_trainer"), bert_trainer.build, config, tmp_path, BEST_BEFORE_THE_LAST)
    labels = competition_data.Competition(config.data_dir, "").read(competition_data.TRAIN).labels[SPLIT.validation]
    areas = [epoch["validation_auc"] for epoch in result.history]
    assert result.epoch == int(np.argmax(areas)) + 1 < 4
    assert roc_auc_score(labels, result.validation) == pytest.approx(max(areas))
    assert log_loss(labels, result.validation) == pytest.approx(result.history[result.epoch - 1]["validation_loss"], abs=1e-5)
    kept = tmp_path / "validated" / "model"
    model, tokenizer = BertForSequenceClassification.from_pretrained(kept).eval(), AutoTokenizer.from_pretrained(kept)
    text = competition_data.Competition(config.data_dir, "").read(competition_data.TEST).texts[0]
    with torch.no_grad():
        logits = model(**tokenizer(text.replace("<br />", " "), return_tensors="pt")).logits[0]
    assert logits.softmax(0)[1].item() == pytest.approx(result.test[0], abs=1e-5)
    assert not {path.suffix for path in kept.iterdir()} - {".json", ".safetensors", ".txt"}  # nothing that could run code
    # killed as it predicted, and gone on with in another place: the folder's paths are of the old one
    shutil.rmtree(kept)
    (tmp_path / "moved").mkdir()
    (tmp_path / "validated").rename(tmp_path / "moved" / "validated")
    again = fit(trainer_of("bert_trainer"), bert_trainer.build, config, tmp_path / "moved", BEST_BEFORE_THE_LAST)
    assert again.epoch == result.epoch and np.array_equal(again.test, result.test)


def test_patience_ends_it_early_and_for_good(config_of, tmp_path):
    config = config_of(epochs=9, patience=1, learning_rate=1e-9)
    for _ in range(2):  # killed before its result was saved, it is not trained further
        assert len(fit(trainer_of("bert_trainer"), bert_trainer.build, config, tmp_path).history) == 2


def test_few_reviews_make_a_schedule_too(config_of, tmp_path):
    """Three steps an epoch and three epochs: the rise takes less than a step."""
    split = Split("refit", np.arange(48), np.arange(0))
    assert fit(PyTorchTrainer(bert_native.train), TwoLogits, config_of(epochs=3), tmp_path, split).epoch == 3


def test_a_refit_follows_the_schedule_of_all_epochs(config_of, tmp_path):
    config = config_of(epochs=3)
    split = Split("refit", np.arange(100), np.arange(0), epochs=2)
    result = fit(trainer_of("bert_trainer"), bert_trainer.build, config, tmp_path / "part", split)
    whole = fit(trainer_of("bert_trainer"), bert_trainer.build, config, tmp_path / "whole", replace(split, epochs=None))
    assert result.epoch == 2 and len(result.validation) == 0
    assert [each["loss"] for each in result.history] == [each["loss"] for each in whole.history[:2]]


# R-Drop


def test_divergence_is_the_papers():
    log_odds = torch.randn(10, dtype=torch.float64) * 3
    first, second = (Bernoulli(logits=half) for half in log_odds.chunk(2))
    both = (kl_divergence(first, second) + kl_divergence(second, first)) / 2
    assert torch.allclose(symmetric_kl(log_odds), both) and (both > 0.01).any()
    assert not symmetric_kl(log_odds[:5].repeat(2)).any()


def test_twice_goes_together():
    tokens, lengths = duplicate_batch(torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]))
    assert tokens.tolist() == [[1, 2], [3, 0], [1, 2], [3, 0]] and lengths.tolist() == [2, 1, 2, 1]


def test_rdrop_is_half_of_the_papers_loss(monkeypatch):
    """Equation 4, from two passes whose logits are given."""
    first, second, labels = torch.randn(3, 2), torch.randn(3, 2), torch.tensor([0, 1, 1])

    def model(input_ids, labels):
        logits = torch.cat([first, second])
        return SequenceClassifierOutput(loss=nn.functional.cross_entropy(logits, labels), logits=logits)

    model.training = True
    monkeypatch.setattr(Trainer, "compute_loss", model_s_loss)
    trainer = FineTuner.__new__(FineTuner)
    trainer.rdrop_alpha, trainer.scl = 3.0, 0.0
    found, _ = trainer.mean_loss(model, {"input_ids": torch.zeros(3, 5), "labels": labels})
    p, q = first.softmax(1), second.softmax(1)
    both = ((p * (p / q).log()).sum(1) + (q * (q / p).log()).sum(1)) / 2
    papers = -p[[0, 1, 2], labels].log() - q[[0, 1, 2], labels].log() + 3 * both
    assert torch.allclose(found, papers.mean() / 2)


@pytest.mark.parametrize("script", ["bert_native", "distilbert_native", "bert_trainer"])
def test_rdrop_without_dropout_is_plain_training_and_with_it_is_not(script, config_of, tmp_path):
    losses = {}
    for dropout in (0.0, 0.5):
        for alpha in (0.0, 20.0):
            config = config_of(script, dropout=dropout, rdrop_alpha=alpha, epochs=3, patience=3)
            result = fit(trainer_of(script), SCRIPTS[script][0], config, tmp_path / f"{dropout}-{alpha}")
            losses[dropout, alpha] = result.history[-1]["validation_loss"]
    assert losses[0.0, 0.0] == pytest.approx(losses[0.0, 20.0], abs=1e-4)
    assert abs(losses[0.5, 0.0] - losses[0.5, 20.0]) > 1e-3


# supervised contrastive learning


def contrast_pair_by_pair(features: torch.Tensor, labels: list[int]) -> torch.Tensor:
    """Gunel et al. 2021, equation 3, as two loops; the mean over the reviews."""
    unit = [row / row.norm() for row in features]
    losses = []
    for i, label in enumerate(labels):
        others = [j for j in range(len(labels)) if j != i]
        positives = [j for j in others if labels[j] == label]
        total = sum((unit[i] @ unit[j] / 0.3).exp() for j in others)
        losses += [-sum(((unit[i] @ unit[j] / 0.3).exp() / total).log() for j in positives) / len(positives)] if positives else []
    return sum(losses) / len(labels)


@pytest.mark.parametrize("labels", [[0, 1, 1, 0, 1], [1, 1, 1], [0, 1, 1]])  # the last one's first review has no company
def test_the_contrastive_loss_and_its_gradient_are_the_papers(labels):
    torch.manual_seed(0)
    features = torch.randn(len(labels), 8, requires_grad=True)
    ours = supervised_contrastive(features, torch.tensor(labels)).mean()
    papers = contrast_pair_by_pair(features, labels)
    torch.testing.assert_close(ours, papers)
    torch.testing.assert_close(*(torch.autograd.grad(loss, features)[0] for loss in (ours, papers)))
    assert torch.equal(supervised_contrastive(features, torch.tensor(labels) * 0.4 + 0.3).mean(), ours)  # probabilities
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(supervised_contrastive(features, torch.tensor(labels)).mean(), ours)


@pytest.mark.parametrize("labels", [[1], [0, 1]])
def test_a_review_without_company_has_no_contrastive_loss(labels):
    features = torch.randn(len(labels), 8, requires_grad=True)
    loss = supervised_contrastive(features, torch.tensor(labels))
    (gradient,) = torch.autograd.grad(loss.sum(), features)
    assert not loss.any() and not gradient.any()


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_pooled_features_are_what_the_logits_are_made_of(script, config_of):
    """A linear layer away from the logits, in every family."""
    config = config_of(script)
    model = SCRIPTS[script][0](config, config.checkpoint).train()
    tokens = torch.arange(1_000, 1_016).view(2, 8)
    given = {"lengths": torch.tensor([8, 8])} if script.endswith("native") else {"attention_mask": torch.ones_like(tokens)}
    with pooled_features(model) as features:
        outputs = model(tokens, **given)
    logits = getattr(outputs, "logits", outputs).view(2, -1)
    (found,), last = features, [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert found.shape == (2, last.in_features) and torch.equal(last(found), logits)
    model(tokens, **given)
    assert len(features) == 1  # nothing is left in the model


@pytest.mark.parametrize(("scl", "rdrop_alpha"), [(0.25, 0.0), (0.25, 3.0)])
def test_the_contrastive_loss_has_its_weight(scl, rdrop_alpha, config_of):
    """In training alone; with R-Drop both passes are compared."""
    config = config_of()
    model = bert_trainer.build(config, config.checkpoint).train()
    tokens, labels = torch.randint(5, 2_000, (4, 9)), torch.tensor([0, 1, 1, 0])
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}
    trainer = object.__new__(FineTuner)
    trainer.label_smoother = trainer.compute_loss_func = None
    trainer.model_accepts_loss_kwargs, trainer.args = False, SimpleNamespace(past_index=-1, average_tokens_across_devices=False)
    trainer.accelerator = SimpleNamespace(num_processes=1)
    trainer.scl, trainer.rdrop_alpha = scl, rdrop_alpha
    loss, outputs = trainer.mean_loss(model, dict(inputs))
    copies = 2 if rdrop_alpha else 1
    hidden = model.bert(tokens).pooler_output.repeat(copies, 1)
    contrast = contrast_pair_by_pair(hidden, labels.repeat(copies).tolist())
    plain = model(**inputs).loss
    assert len(outputs.logits) == 4 * copies
    torch.testing.assert_close(loss, 0.75 * plain + 0.25 * contrast)  # without dropout both passes are the same
    torch.testing.assert_close(trainer.mean_loss(model.eval(), dict(inputs))[0], plain)


def test_both_trainers_contrast_alike_and_say_what_they_compare(config_of, tmp_path, capsys):
    config = config_of(scl=0.5)
    for trainer, build, name in (
        (PyTorchTrainer(bert_native.train), TwoLogits, "native"),
        (trainer_of("bert_trainer"), bert_trainer.build, "trainer"),
    ):
        whole = fit(trainer, build, config, tmp_path / name)
        assert "--scl" not in capsys.readouterr().out
        pieces = fit(trainer, build, replace(config, micro_batch_size=4), tmp_path / f"{name}-pieces")
        assert "--scl compares only the 4 reviews of a micro-batch, not all 16 of a batch" in capsys.readouterr().out
        plain = fit(trainer, build, replace(config, scl=0.0), tmp_path / f"{name}-plain")
        if name == "native":
            of_loop = whole, pieces, plain
    for ours, theirs in zip(of_loop, (whole, pieces, plain), strict=True):
        assert [each["loss"] for each in ours.history] == pytest.approx([each["loss"] for each in theirs.history], abs=1e-4)
        assert np.allclose(ours.test, theirs.test, atol=1e-5)
    losses = [found.history[0]["loss"] for found in of_loop]
    assert min(abs(losses[0] - losses[1]), abs(losses[0] - losses[2])) > 1e-3


def test_memory_that_runs_out_is_told_of_the_contrastive_loss(config_of, tmp_path, capsys):
    split = replace(SPLIT, train=np.arange(32))
    config = config_of(epochs=1, scl=0.5)
    fit(trainer_of("bert_trainer"), bert_trainer.build, config, tmp_path / "trainer", split, change=without_memory)
    said = capsys.readouterr().out
    assert "compares only the 8 reviews" in said and "compares only the 4 reviews" in said
    fit(
        PyTorchTrainer(bert_native.train), TwoLogits, config, tmp_path / "loop", split,
        change=lambda model: without_memory(model.inner) and model,
    )  # fmt: skip
    assert "compares only the 4 reviews" in capsys.readouterr().out


# what half precision does to DeBERTa


def test_deberta_does_not_overflow_in_half_precision(config_of):
    """Products of contents and positions that are too large for fp16 before they are scaled, and masked padding."""
    config = config_of("deberta_trainer")
    torch.manual_seed(0)
    model = deberta_trainer.build(config, config.checkpoint)
    with torch.no_grad():
        for layer in model.deberta.encoder.layer:
            for project in (layer.attention.self.query_proj, layer.attention.self.key_proj):
                project.weight.copy_(100 * torch.eye(16))
    library = DebertaV2ForSequenceClassification(model.config)
    library.load_state_dict(model.state_dict())
    tokens, lengths = torch.randint(5, 2_000, (2, 12)), torch.tensor([12, 5])
    inputs = {"input_ids": tokens, "attention_mask": mask_of(lengths, 12).long(), "labels": torch.tensor([0, 1])}
    with torch.autocast("cpu", torch.float16):
        ours, theirs = model.train()(**inputs), library.train()(**inputs)
    assert ours.logits.dtype == torch.float16 and ours.loss.isfinite() and not theirs.loss.isfinite()
    ours.loss.backward()
    assert all(weights.dtype == torch.float32 and weights.grad.isfinite().all() for weights in model.parameters())


# the layouts that stand in for checkpoints that cannot be had


@pytest.mark.parametrize("family", ["distilbert", "roberta", "deberta-v2"])
def test_a_layout_computes_what_the_original_does(family, tmp_path):
    tokens = torch.randint(1_000, 20_000, (2, 12))
    mask = mask_of(torch.tensor([12, 7]), 12).long()
    tokens = tokens.masked_fill(mask == 0, 0)
    with torch.no_grad():
        original, copy = (
            AutoModel.from_pretrained(folder, dtype="float32").eval()(tokens, attention_mask=mask).last_hidden_state
            for folder in (pretrained.MINILM, layouts.lay_out(family, tmp_path))
        )
    assert torch.allclose(original[mask == 1], copy[mask == 1], atol=1e-4) and original.std() > 0.1
