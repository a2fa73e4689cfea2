"""Our way of fine-tuning against the common one, from one small checkpoint, side by side.

The common practice, as in public notebooks: every review padded to 512 tokens or cut to its first, a constant rate of
5e-5, no warm-up, the last epoch, fp32. Ours is the script's own recipe, at a rate for so small a model and without attention
dropout, for which a CPU has no fast kernel. Each option is tried on top of it for one family: R-Drop, the supervised contrastive
loss with its paper's weight and further pretraining (one pass over the first training reviews, without their labels) on the BERT,
that dropout on the RoBERTa. Training and
validation reviews are of different movies, and the test is not touched. A DistilBERT and a RoBERTa are laid out from the same
weights. Writes results/benchmarks/recipes-<family>.json after every row; the same command goes on where it was stopped (remove
the file where a recipe has changed since).
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch.utils.data import Subset
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from benchmarks.layouts import lay_out
from popcorn.config import FineTuneConfig, parse
from popcorn.data.batching import EncodedReviews
from popcorn.data.competition import TRAIN
from popcorn.data.splits import SPLIT, Split, assign_folds, movie_blocks
from popcorn.data.subword_tokenizer import read_subwords
from popcorn.training.finetuning_task import FinetuningTask, PretrainedTask
from popcorn.training.hf_trainer import HFTrainer, metrics_of, sort_by_length
from popcorn.training.micro_batches import ReviewDataset
from popcorn.utils import hardware
from popcorn.utils.console import make_console
from popcorn.utils.files import write_json
from popcorn.utils.scripts import load_script

SCRIPTS = {"bert": "bert_trainer", "distilbert": "distilbert_trainer", "roberta": "roberta_trainer"}
LENGTH, COMMON_RATE = 512, 5e-5


@dataclass
class Config:
    """What to measure, and on how much."""

    data_dir: Path | None = None
    """folder with the competition's files"""
    families: tuple[str, ...] = ("bert", "distilbert", "roberta")
    """bert, distilbert, roberta"""
    reviews: int = 5_000
    """training reviews, and as many for validation"""
    epochs: int = 1
    """passes over them, for both recipes"""
    learning_rate: float = 1e-4
    """our peak rate: so small a model takes a higher one than the base sizes that the scripts are made for"""
    output: Path = Path("results/benchmarks")
    """folder that receives the figures"""
    work: Path = Path("runs/recipes")
    """folder for checkpoints"""


def load_without_test(task: PretrainedTask) -> None:
    """Loads the task, and of the test one review alone: nothing here is measured on it."""
    task.load()
    task.test = EncodedReviews(task.test.reviews[:1], task.config.max_length, task.test.padding)


def split_of(task: PretrainedTask, reviews: int) -> Split:
    """N reviews to train on and N to validate on, of different movies, half of each positive."""
    fold = assign_folds(movie_blocks(task.train_ids), task.labels, 2)
    validation, train = (np.flatnonzero(fold == number) for number in (0, 1))
    generator = np.random.default_rng(0)
    return Split("validated", *(np.sort(generator.choice(rows, reviews, replace=False)) for rows in (train, validation)))


def ours(script: str, options: FineTuneConfig, reviews: int, folder: Path) -> dict:
    """The script's own trainer and recipe."""
    module = load_script(script)
    task, trainer = FinetuningTask(module.build, options), HFTrainer(module.training_arguments)
    load_without_test(task)
    start = time.monotonic()
    task.pretrain(float("inf"))
    pretraining = time.monotonic() - start
    folder.mkdir(parents=True, exist_ok=True)
    trainer.set_up(task, folder, float("inf"))
    result = trainer.fit(split_of(task, reviews))
    last = result.history[-1]  # and not the best one: that was chosen on these very reviews
    return {
        "accuracy": last["validation_accuracy"], "auc": last["validation_auc"], "loss": last["validation_loss"],
        "reviews_per_second": result.reviews_per_second, "pretraining_seconds": pretraining,
        "pretraining_reviews": options.max_train_samples if options.further_pretrain else 0,
    }  # fmt: skip


def common_practice(script: str, options: FineTuneConfig, reviews: int, folder: Path) -> dict:
    """The library's Trainer as notebooks use it."""
    task = FinetuningTask(load_script(script).build, options)
    load_without_test(task)
    tokenizer, split = task.tokenizer, split_of(task, reviews)
    uncut = replace(options, max_length=sys.maxsize)
    uncut.checkpoint = options.checkpoint
    whole = read_subwords(task.competition, TRAIN, tokenizer, uncut).reviews
    cut = [ids if len(ids) <= LENGTH else np.append(ids[: LENGTH - 1], ids[-1]) for ids in whole]
    subwords = EncodedReviews(cut, LENGTH, tokenizer.pad_token_id)
    train, validation = (
        ReviewDataset(subwords, rows, task.labels) for rows in (split.train, sort_by_length(subwords, split.validation))
    )
    model = task.new_model()
    model.accepts_loss_kwargs = False
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(folder), seed=options.seed, learning_rate=COMMON_RATE, lr_scheduler_type="constant",
            per_device_train_batch_size=options.batch_size, per_device_eval_batch_size=options.batch_size,
            num_train_epochs=options.epochs, save_strategy="no", report_to=[], remove_unused_columns=False,
            use_cpu=not torch.accelerator.is_available(), dataloader_pin_memory=torch.accelerator.is_available(),
        ),
        data_collator=DataCollatorWithPadding(tokenizer, padding="max_length", max_length=LENGTH),
        train_dataset=Subset(train, range(len(train))), compute_metrics=metrics_of,
    )  # fmt: skip
    trained = trainer.train()
    trainer.data_collator = DataCollatorWithPadding(tokenizer)  # what is not timed need not wait for padding
    measured = trainer.evaluate(validation)
    return {
        "accuracy": measured["eval_validation_accuracy"], "auc": measured["eval_validation_auc"],
        "loss": measured["eval_validation_loss"], "reviews_per_second": trained.metrics["train_samples_per_second"],
        "pretraining_seconds": 0.0, "pretraining_reviews": 0,
    }  # fmt: skip


def conditions(measure: Callable[..., dict], options: FineTuneConfig) -> dict:
    """The conditions of a row, saved with its results."""
    if measure is common_practice:
        return {"max_length": LENGTH, "learning_rate": COMMON_RATE, "precision": "no"}
    return {
        "max_length": LENGTH, "learning_rate": options.learning_rate, "attention_dropout": options.attention_dropout,
        "precision": hardware.mixed_precision("auto"),
    }  # fmt: skip


def recorded(path: Path, head: dict, under: dict[str, dict] | None = None) -> dict[str, dict]:
    """The rows of an earlier run with the same `head`, if measured under the same conditions."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if {name: before.get(name) for name in head} != head:
        return {}
    rows = before["rows"].items()
    return {name: row for name, row in rows if under is None or (name in under and under[name].items() <= row.items())}


def compare(family: str, config: Config) -> None:
    """All rows of one family, printed and written as they come."""
    script, work = SCRIPTS[family], config.work / family
    shutil.rmtree(work, ignore_errors=True)  # of a row that was stopped nothing is taken up
    checkpoint = lay_out(family, work / "minilm")
    options = load_script(script).Config(
        model=str(checkpoint), data_dir=config.data_dir, output_dir=work, max_length=LENGTH, epochs=config.epochs, name=family
    )
    own = replace(options, learning_rate=config.learning_rate, attention_dropout=0.0)
    further = replace(own, further_pretrain=True, pretrain_epochs=1, max_train_samples=config.reviews)
    tried = {
        "bert": {
            "ours, --rdrop-alpha 1": (ours, replace(own, rdrop_alpha=1.0)),
            "ours, --scl 0.9": (ours, replace(own, scl=0.9)),
            "ours, --further-pretrain": (ours, further),
        },
        "roberta": {"ours, --attention-dropout 0.1": (ours, replace(own, attention_dropout=0.1))},
    }
    variants = {"common practice": (common_practice, options), "ours": (ours, own)} | tried.get(family, {})
    path = config.output / f"recipes-{family}.json"
    head = {
        "checkpoint": f"MiniLM, six layers of 384, laid out as {family}: no score of that family",
        "machine": hardware.processor(), "torch": torch.__version__, "reviews": config.reviews, "epochs": config.epochs,
        "precision": hardware.mixed_precision("auto"), "split": SPLIT,
    }  # fmt: skip
    under = {name: conditions(measure, its) for name, (measure, its) in variants.items()}
    found = recorded(path, head, under)
    for number, (name, (measure, its)) in enumerate(variants.items()):
        if name not in found:
            found[name] = measure(script, its, config.reviews, work / f"variant-{number}") | under[name]
            write_json(path, head | {"rows": found})
    table = Table(f"MiniLM as {family}", "accuracy", "ROC AUC", "log loss", "training reviews/s", "times the common practice")
    for name, row in found.items():
        times = row["reviews_per_second"] / found["common practice"]["reviews_per_second"]
        table.add_row(
            name, f"{row['accuracy']:.4f}", f"{row['auc']:.4f}", f"{row['loss']:.3f}", f"{row['reviews_per_second']:.1f}",
            f"{times:.1f}",
        )  # fmt: skip
    make_console().print(table)


if __name__ == "__main__":
    config = parse(Config)
    hardware.tune_allocator()
    for family in config.families:
        compare(family, config)
