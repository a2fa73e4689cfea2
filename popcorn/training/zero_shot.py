"""Classifies with a pretrained decoder, without training.

The log-odds of each chunk of prompts are on disk as soon as they are computed. So a killed run loses at most one chunk in each
process.
"""

import shutil
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from scipy.special import expit, logit
from tqdm import tqdm
from transformers import PreTrainedModel

from popcorn.config import ZeroShotConfig
from popcorn.data.batching import EncodedReviews, sorted_batches
from popcorn.data.competition import TEST, TRAIN
from popcorn.data.splits import Split
from popcorn.data.subword_tokenizer import tokenize_texts
from popcorn.errors import UserError, log
from popcorn.metrics import compute_metrics
from popcorn.models.layers import mask_of
from popcorn.models.saved import EXAMPLES, save_metadata
from popcorn.models.tokenizer import require_positions
from popcorn.training.adapters import resolve_bits
from popcorn.training.fit_result import FitResult
from popcorn.training.hf_trainer import log_odds
from popcorn.training.label_word_task import PromptTask, load_decoder
from popcorn.training.memory import Pieces
from popcorn.training.processes import start_processes, summary_of
from popcorn.utils import hardware, usage
from popcorn.utils.cache import cached
from popcorn.utils.files import atomic_write, fingerprint

CHUNK = 256
"""prompts of similar length whose log-odds are in one file"""
CHUNKS = "chunks"
CONTENT_FREE = "N/A", "[MASK]", ""
"""texts without sentiment (Zhao et al. 2021, section 5)"""


class ZeroShotTask(PromptTask):
    """The reviews within a prompt, and a frozen decoder that all splits share."""

    config: ZeroShotConfig

    def __init__(self, config: ZeroShotConfig):
        super().__init__(self.build_decoder, config)

    def load(self) -> None:
        """Loads the tokenizer, and encodes the reviews; raises `UserError` where the hardware does not support the bits."""
        self.config.bits = resolve_bits(self.config.bits)
        super().load()

    def build_decoder(self, config: ZeroShotConfig, checkpoint: Path) -> PreTrainedModel:
        """The same model every time, since it is not trained."""
        return self.decoder

    @cached_property
    def decoder(self) -> PreTrainedModel:
        """The model, on its device."""
        model = load_decoder(self.config, self.prompt.label_ids).eval()
        return model if self.config.bits in (4, 8) else model.to(PartialState().device)

    def content(self) -> dict[str, str]:
        """Adds the model's modules; counts the parameters, those of packed 4-bit weights too."""
        found = super().content()
        self.parameters = self.decoder.num_parameters()
        return found

    def examples(self, split: Split) -> np.ndarray:
        """The tokens of `--shots` labeled reviews from the split's training reviews, the same before every review.

        Raises `UserError` where there are too few reviews, or the examples are too long for the model.
        """
        config = self.config
        rows = choose_examples(split.train, self.labels, config.shots, config.seed)
        contents = self.contents(TRAIN) if len(rows) else []
        parts = [self.prompt.example(contents[row], self.labels[row], config.shot_length) for row in rows]
        examples = np.concatenate([np.zeros(0, np.int32), *parts])
        require_positions(config, self.tokenizer, len(examples))
        return examples

    def save_artifacts(self, run_dir: Path) -> None:
        """Saves the options; each split's folder has its examples."""
        save_metadata(run_dir, type(self.config), self.config, "zero_shot")


def choose_examples(rows: np.ndarray, labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """`shots` of the rows in random order, half of each class.

    Raises `UserError` where a class has too few."""
    generator = np.random.default_rng(seed)
    classes = [rows[labels[rows] == label] for label in (0, 1)]
    if min(map(len, classes)) < shots // 2:
        raise UserError(f"--shots is {shots}, and there are {min(map(len, classes))} training reviews of one class: give fewer")
    return generator.permutation(np.concatenate([generator.choice(each, shots // 2, replace=False) for each in classes]))


def predict_log_odds(
    model: PreTrainedModel, prompts: EncodedReviews, rows: np.ndarray, config: ZeroShotConfig, pieces: Pieces
) -> np.ndarray:
    """The log-odds of the positive label word for the rows, float64 (len(rows),).

    Raises `UserError` where they are not finite.
    """
    found = np.zeros(len(prompts))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(hardware.mixed_precision(config.precision))

    def predict(piece: np.ndarray) -> np.ndarray:
        tokens, lengths = (part.to(model.device) for part in prompts.batch(piece))
        return log_odds(model(tokens, mask_of(lengths, tokens.shape[1]).long()).logits).double().cpu().numpy()

    with torch.no_grad(), torch.autocast(model.device.type, dtype, enabled=dtype is not None):
        for batch in sorted_batches(rows, prompts.lengths, config.batch_size):
            for piece, values in pieces.predict(predict, batch):
                found[piece] = values
    if not np.isfinite(found[rows]).all():
        raise UserError(f"{config.model} overflows in this precision: give --precision fp32 --bits 4")
    return found[rows]


def content_free_log_odds(task: ZeroShotTask, examples: np.ndarray) -> float:
    """Log-odds of the label words for a review without content: the mean of three such texts.

    Subtracted from a review's log-odds, they leave what the review adds (contextual calibration, Zhao et al. 2021, section 5).
    """
    contents = [np.array(ids, np.int32) for ids in tokenize_texts(list(CONTENT_FREE), task.tokenizer)]
    prompts = task.prompt.encode(contents, examples)
    found = predict_log_odds(task.decoder, prompts, np.arange(len(contents)), task.config, Pieces())
    return float(logit(expit(found).mean()))


class ZeroShotTrainer:
    """Predicts each split's validation reviews and the test reviews; trains nothing.

    Several processes share the chunks.
    """

    start = staticmethod(start_processes)

    def set_up(self, task: ZeroShotTask, run_dir: Path, deadline: float) -> None:
        """Receives the task and the run's folder; `deadline` is a `time.monotonic()`."""
        self.task, self.run_dir, self.deadline = task, run_dir, deadline
        self.slowest, self.is_complete, self.pieces = 0.0, True, Pieces()

    def fit(self, split: Split) -> FitResult:
        """Predicts with examples from the split's training reviews.

        Reviews that the time budget leaves out have a probability of 0.5.
        """
        task = self.task
        examples = task.examples(split)
        prior = content_free_log_odds(task, examples) if task.config.calibrate else 0.0
        if task.config.calibrate:
            log(f"{split.name}: probability of {task.config.label_words[1]!r} without a review {expit(prior):.4f}")
        validation = expit(self.log_odds(TRAIN, split.validation, examples) - prior)
        metrics = {}
        if len(validation) and not np.isnan(validation).any():
            metrics = compute_metrics(task.labels[split.validation], validation)
            measured = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())
            log(f"{split.name}: {measured}")
        test = expit(self.log_odds(TEST, np.arange(len(task.test)), examples) - prior)
        left = int(np.isnan(validation).sum() + np.isnan(test).sum())
        if left:
            self.is_complete = False
            log(f"{left:,} reviews are left for --resume: until then the probability of those in the test set is 0.5")
        if PartialState().is_main_process:
            usage.update(self.run_dir)
            with atomic_write(self.run_dir / split.name / EXAMPLES) as file:
                np.savez(file, examples=examples, prior=prior)
        return FitResult(validation, np.nan_to_num(test, nan=0.5), 1, [{"epoch": 1} | metrics], complete=not left)

    def log_odds(self, name: str, rows: np.ndarray, examples: np.ndarray) -> np.ndarray:
        """The log-odds of rows of a file, float64 (len(rows),); NaN where the time budget ended before."""
        task, processes = self.task, PartialState()
        prompts = task.prompt.encode(task.contents(name), examples)
        order = rows[np.argsort(prompts.lengths[rows], kind="stable")]
        chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
        own = chunks[processes.process_index :: processes.num_processes]
        for chunk in tqdm(own, desc=name, unit="chunk", disable=not processes.is_main_process):
            begin = time.monotonic()
            if begin + self.slowest >= self.deadline:
                break
            self.chunk_log_odds(prompts, chunk)
            self.slowest = max(self.slowest, time.monotonic() - begin)
        processes.wait_for_everyone()
        found = np.full(len(prompts), np.nan)
        for chunk in chunks:
            if self.path_of(prompts, chunk).is_file():
                found[chunk] = self.chunk_log_odds(prompts, chunk)
        return found[rows]

    def chunk_log_odds(self, prompts: EncodedReviews, chunk: np.ndarray) -> np.ndarray:
        """The log-odds of a chunk, from its file or computed."""

        def make() -> dict[str, np.ndarray]:
            return {"log_odds": predict_log_odds(self.task.decoder, prompts, chunk, self.task.config, self.pieces)}

        return cached(self.path_of(prompts, chunk), make)["log_odds"]

    def path_of(self, prompts: EncodedReviews, chunk: np.ndarray) -> Path:
        """A file named by the prompts' content: folds without examples share the test set's."""
        return self.run_dir / CHUNKS / f"{fingerprint(*(prompts.reviews[row].tobytes() for row in chunk))[:24]}.npz"

    def summary(self) -> dict:
        """For the saved results: parameters, precision, time and memory."""
        return summary_of(self.task, self.run_dir)

    def finish(self) -> None:
        """Removes the chunks, after the submissions are written."""
        if self.is_complete and PartialState().is_main_process:
            shutil.rmtree(self.run_dir / CHUNKS, ignore_errors=True)
