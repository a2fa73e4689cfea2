"""Runs a model over word vectors: data, vocabulary, training, submissions. The scripts' one call is `run`."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.tracking import GeneralTracker, on_main_process
from accelerate.utils import set_seed
from torch import Tensor, nn

from popcorn import data, device
from popcorn.batches import Reviews
from popcorn.config import STARTED, WordVectorConfig
from popcorn.errors import UserError, one_sentence
from popcorn.experiment import Outcome, Part, begin, conclude, fit_all, kept
from popcorn.files import fingerprint, require_writable
from popcorn.loop import Fit
from popcorn.pseudo_labels import Teacher
from popcorn.submission import require_same_ids
from popcorn.text import encode, read_corpus
from popcorn.vectors import build_vocabulary

Build = Callable[[WordVectorConfig, Tensor], nn.Module]
"""a model's class: config and vectors, float32 (vocabulary, width), to a module (tokens, lengths) -> logit (batch,)"""


class JsonLines(GeneralTracker):
    """Accelerate's tracker that appends every figure to a file, one JSON object a line."""

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    @property
    def tracker(self) -> Path:
        """The file."""
        return self.path

    @on_main_process
    def store_init_configuration(self, values: dict) -> None:
        """The settings are in a file of their own."""

    @on_main_process
    def log(self, values: dict, step: int | None = None, **_) -> None:
        """Appends the figures of a step."""
        line = pd.Series({"step": step} | values).to_json()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def run(build: Build, config: WordVectorConfig) -> None:
    """Everything between the command line and the submissions; leaves with one sentence where the user can mend it."""
    with one_sentence():
        _run(build, config)


def _run(build: Build, config: WordVectorConfig) -> None:
    deadline = STARTED + _seconds(config.time_budget)
    device.keep_freed_memory()
    require_writable(config.output_dir / "submissions")
    folder = config.output_dir / "runs" / config.name / f"seed-{config.seed}"
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without this word Accelerate does not join torchrun's processes on a CPU
        mixed_precision=device.mixed_precision(config.precision),
        # the loop divides every batch between the processes itself, so a step is a step of the schedule
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=[JsonLines(folder / "metrics.jsonl"), "tensorboard"],
        project_dir=folder,
    )
    with accelerator.main_process_first():  # the others find the cache filled
        competition = data.find(config.data_dir)
        corpus = read_corpus(competition)
        require_same_ids(competition.sample_ids(), corpus.test.ids)  # now, not after the training
        vocabulary = build_vocabulary(competition, corpus, config.vectors, config.vector_width)
    train, test, unlabelled = (encode(file, vocabulary.index) for file in (corpus.train, corpus.test, corpus.unlabelled))
    train, test = Reviews(train + unlabelled, config.max_tokens), Reviews(test, config.max_tokens)
    teacher = Teacher(competition, config.limit) if config.unlabelled else None
    vectors, checksum = torch.from_numpy(vocabulary.vectors), fingerprint(vocabulary.vectors.tobytes())
    set_seed(config.seed)
    model = build(config, vectors)
    parameters = sum(weights.numel() for weights in model.parameters())
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            begin(folder, config, data=competition.checksum, vectors=checksum, model=str(model))
    accelerator.init_trackers("tensorboard")

    def fit(part: Part) -> Outcome:
        own = folder / part.name
        own.mkdir(exist_ok=True)
        part, targets = teacher.teach(part) if teacher else (part, corpus.train.labels)
        set_seed(config.seed)
        model = build(config, vectors)
        return Fit(model, train, test, targets, part, config, accelerator, own, deadline).run()

    done = fit_all(
        config, corpus.train.ids, corpus.train.labels, lambda part: kept(folder, part, fit, accelerator.is_main_process)
    )
    accelerator.end_training()
    if accelerator.is_main_process:
        conclude(
            config, competition, corpus.train.ids, corpus.test.ids, done,
            vectors=vocabulary.source, vectors_sha256=checksum, machine=device.processor(), precision=accelerator.mixed_precision,
            processes=accelerator.num_processes, peak_memory=device.peak_memory(), parameters=parameters,
        )  # fmt: skip


def _seconds(budget: str | None) -> float:
    """`--time-budget` in seconds, endless where there is none."""
    if budget is None:
        return float("inf")
    try:
        seconds = pd.Timedelta(budget).total_seconds()
    except ValueError:
        seconds = 0
    if not seconds >= 1:  # a number without a unit would be nanoseconds
        raise UserError(f"--time-budget is {budget!r}: give a length of time such as 8h30m, 45m or 90s")
    return seconds
