"""Four adapters of one frozen encoder, against common settings and a classifier of its features.

The common settings, as public notebooks have them: a rate of 1e-4, the pooler frozen as it was made, and virtual tokens that
stand where the pooler reads; of prefix tuning, which raises an exception there, the first two over our attention. Both learn
from the same reviews and are measured on the same others, of other movies; the test is not touched. The encoders: MiniLM laid out
as a DeBERTa-v2 without relative attention, and a small DeBERTa-v2 as the large ones are (relative attention, a convolution),
whose language model is trained here first, from MiniLM's word vectors in fewer dimensions. Writes
results/benchmarks/peft-<encoder>.json after every row; the same command goes on where it was stopped (remove the file where a
recipe has changed since).
"""

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import accuracy_score, roc_auc_score
from transformers import AutoModel, AutoTokenizer, DebertaV2Config, DebertaV2ForMaskedLM, DebertaV2Model

from benchmarks.layouts import lay_out, minilm
from benchmarks.recipes import load_without_test, recorded, split_of
from popcorn.config import AdapterConfig, FineTuneConfig, parse
from popcorn.data.batching import sorted_batches
from popcorn.data.competition import TRAIN, find_competition
from popcorn.data.splits import SPLIT
from popcorn.models.layers import mask_of
from popcorn.training.adapters import AdapterTask, AdapterTrainer, build_adapter
from popcorn.training.finetuning_task import FinetuningTask, PretrainedTask
from popcorn.training.masked_lm import MODEL_CLASSES, ModelClasses
from popcorn.utils import hardware
from popcorn.utils.console import make_console
from popcorn.utils.files import write_json
from popcorn.utils.scripts import load_script

METHODS = "deberta_lora", "deberta_prompt", "deberta_ptuning", "deberta_prefix"
COMMON_RATE = 1e-4


@dataclass
class Conditions:
    """What an encoder's rows have in common."""

    max_length: int
    """tokens of a review"""
    epochs: int
    """passes over the training reviews"""
    rates: float
    """our learning rates, as a multiple of the scripts'"""


CONDITIONS = {"minilm": Conditions(128, 2, 1.0), "small": Conditions(64, 8, 10.0)}
"""The small encoder takes higher rates, as small models do, and half of the tokens, which buys it more passes."""


@dataclass
class Config:
    """What to measure, and on how much."""

    data_dir: Path | None = None
    """folder with the competition's files"""
    encoders: tuple[str, ...] = ("minilm", "small")
    """minilm, small"""
    reviews: int = 5_000
    """training reviews, and as many for validation"""
    pretrain_reviews: int = 75_000
    """training reviews that the small encoder's language model reads, once"""
    words: int = 4_096
    """of the small encoder's own vocabulary: with MiniLM's 30,522 to choose from, most of the time would go there"""
    output: Path = Path("results/benchmarks")
    """folder that receives the figures"""
    work: Path = Path("runs/peft")
    """folder for checkpoints"""


@dataclass
class SmallConfig(FineTuneConfig):
    """For the small encoder's language model."""

    MODEL_TYPE = "deberta-v2"


def features(config: Config, its: Conditions, checkpoint: Path, is_mean: bool) -> dict:
    """Logistic regression on the frozen encoder's states at [CLS], or their mean; its strength chosen by cross-validation."""
    script = load_script(METHODS[0])
    options = script.Config(model=str(checkpoint), data_dir=config.data_dir, max_length=its.max_length)
    task = PretrainedTask(lambda *_: None, options)
    load_without_test(task)
    split, encoder = split_of(task, config.reviews), AutoModel.from_pretrained(checkpoint, dtype="float32").eval()
    found = np.zeros((len(task.train), encoder.config.hidden_size))
    with torch.no_grad():
        for rows in sorted_batches(np.concatenate([split.train, split.validation]), task.train.lengths, 64):
            tokens, lengths = task.train.batch(rows)
            mask = mask_of(lengths, tokens.shape[1]).long()
            states = encoder(tokens, attention_mask=mask).last_hidden_state
            found[rows] = (states.mul(mask[..., None]).sum(1) / mask.sum(1, keepdim=True) if is_mean else states[:, 0]).numpy()
    classifier = LogisticRegressionCV(Cs=8, max_iter=2_000).fit(found[split.train], task.labels[split.train])
    probability, labels = classifier.predict_proba(found[split.validation])[:, 1], task.labels[split.validation]
    return {"accuracy": accuracy_score(labels, probability > 0.5), "auc": roc_auc_score(labels, probability)}


class CommonTask(AdapterTask):
    """An adapter by the common settings: a frozen pooler, and virtual tokens where the pooler reads."""

    def build_adapter(self, config: AdapterConfig, checkpoint: Path) -> torch.nn.Module:
        model = build_adapter(self.common_peft_config, config, checkpoint)
        model.get_base_model().virtual_tokens = 0
        return model

    def common_peft_config(self, config: AdapterConfig):
        settings = self.peft_config(config)
        settings.modules_to_save = ["classifier"]
        return settings


def adapted(config: Config, its: Conditions, checkpoint: Path, method: str, is_common: bool) -> dict:
    """One adapter, by its script's recipe or by the common settings."""
    hardware.tune_allocator()
    script = load_script(method)
    options = script.Config(
        model=str(checkpoint), data_dir=config.data_dir, max_length=its.max_length, epochs=its.epochs, bits=32,
        patience=its.epochs, name=method,
    )  # fmt: skip
    rates = (
        (COMMON_RATE, COMMON_RATE) if is_common else (its.rates * options.learning_rate, its.rates * options.head_learning_rate)
    )
    options = replace(options, learning_rate=rates[0], head_learning_rate=rates[1])

    task = (CommonTask if is_common else AdapterTask)(script.peft_config, options)
    trainer = AdapterTrainer(script.training_arguments)
    load_without_test(task)
    task.content()  # which counts the parameters
    folder = config.work / f"{checkpoint.name}-{method}-{'common' if is_common else 'ours'}-{time.time_ns()}"
    folder.mkdir(parents=True)
    trainer.set_up(task, folder, float("inf"))
    result = trainer.fit(split_of(task, config.reviews))
    last = result.history[-1]  # and not the best one: that was chosen on these very reviews
    return {
        "accuracy": last["validation_accuracy"], "auc": last["validation_auc"], "trainable_parameters": task.trainable_parameters,
        "reviews_per_second": result.reviews_per_second, "peak_memory": hardware.peak_memory(), "history": result.history,
        "learning_rate": options.learning_rate, "head_learning_rate": options.head_learning_rate,
    }  # fmt: skip


def small_encoder(config: Config) -> Path:
    """A DeBERTa-v2 as the large ones are, its language model trained on the competition's reviews.

    Its word vectors begin as principal components of MiniLM's: so few steps would learn poorer ones (benchmarks/log.md).
    """
    texts = find_competition(config.data_dir).read(TRAIN).texts
    tokenizer = AutoTokenizer.from_pretrained(minilm()).train_new_from_iterator(texts, config.words)
    sizes = DebertaV2Config(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
        hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
        pooler_hidden_size=128, relative_attention=True, position_buckets=64, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, conv_kernel_size=3, conv_act="gelu", type_vocab_size=0,
    )  # fmt: skip
    torch.manual_seed(1)
    model, theirs = DebertaV2Model(sizes), AutoTokenizer.from_pretrained(minilm()).get_vocab()
    known = sorted(word for word in tokenizer.get_vocab() if word in theirs)  # in the same order in every process
    vectors = AutoModel.from_pretrained(minilm()).get_input_embeddings().weight[[theirs[word] for word in known]]
    projected = PCA(sizes.hidden_size, random_state=1).fit_transform(vectors.detach().numpy())
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(known)] = torch.from_numpy(projected)
    beginning = config.work / "small"
    model.save_pretrained(beginning)
    tokenizer.save_pretrained(beginning)
    options = SmallConfig(
        model=str(beginning), data_dir=config.data_dir, output_dir=config.work, max_length=CONDITIONS["small"].max_length,
        batch_size=32, further_pretrain=True, max_train_samples=config.pretrain_reviews, pretrain_epochs=1,
        pretrain_learning_rate=1e-3,
    )  # fmt: skip
    # no script trains this family further
    MODEL_CLASSES["deberta-v2"] = ModelClasses(DebertaV2ForMaskedLM, DebertaV2Model, ("cls",))
    task = FinetuningTask(lambda *_: None, options)
    task.load()
    task.pretrain(float("inf"))
    return task.further.folder


def alone(function, *arguments):
    """Its result, from a process of its own, whose peak memory is then its own too."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def compare(encoder: str, config: Config) -> None:
    """All rows of one encoder, printed, and written as they come."""
    hardware.tune_allocator()
    its = CONDITIONS[encoder]
    checkpoint = lay_out("deberta-v2", config.work / "minilm") if encoder == "minilm" else alone(small_encoder, config)
    wanted = {
        "logistic regression on [CLS]": (features, config, its, checkpoint, False),
        "logistic regression on the mean": (features, config, its, checkpoint, True),  # which MiniLM was trained to give
    }
    for method in METHODS:
        wanted[f"{method}, ours"] = adapted, config, its, checkpoint, method, False
        wanted[f"{method}, common settings"] = adapted, config, its, checkpoint, method, True
    path = config.output / f"peft-{encoder}.json"
    head = {
        "encoder": "MiniLM laid out as a DeBERTa-v2: no score of that family" if encoder == "minilm" else
        "four layers of 128 with relative attention and a convolution, pretrained here; word vectors begun as MiniLM's",
        "machine": hardware.processor(), "torch": torch.__version__, "reviews": config.reviews, "epochs": its.epochs,
        "max_length": its.max_length, "precision": hardware.mixed_precision("auto"), "split": SPLIT,
    }  # fmt: skip
    rows = recorded(path, head)
    for name, measurement in wanted.items():
        if name not in rows:
            rows[name] = alone(*measurement)
            write_json(path, head | {"rows": rows})
    table = Table(encoder, "accuracy", "ROC AUC", "learns", "training reviews/s", "peak memory, GiB")
    for name in wanted:
        row = rows[name]
        beside = (
            f"{row['trainable_parameters']:,}", f"{row['reviews_per_second']:.1f}", f"{row['peak_memory'] / 2**30:.2f}"
        ) if "trainable_parameters" in row else ()  # fmt: skip
        table.add_row(name, f"{row['accuracy']:.4f}", f"{row['auc']:.4f}", *beside)
    make_console().print(table)


if __name__ == "__main__":
    config = parse(Config)
    for encoder in config.encoders:
        compare(encoder, config)
