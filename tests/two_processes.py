"""What torchrun starts twice for test_processes.py: two trainers on a few reviews. Writes what the main process predicts.

At the end with little memory in the second process.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from transformers.models.bert.modeling_bert import BertEncoder

import bert_native
import bert_trainer
import lm_lstm
from popcorn.data.batching import EncodedReviews
from popcorn.data.splits import Split
from popcorn.models.tokenizer import read_tokenizer
from popcorn.training.finetuning_task import PretrainedTask
from popcorn.training.hf_trainer import HFTrainer
from popcorn.training.memory import average_gradients
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask

TRAINERS = {
    "trainer": (HFTrainer(bert_trainer.training_arguments), bert_trainer.build, bert_trainer.Config),
    "native": (PyTorchTrainer(bert_native.train), bert_native.BERT, bert_native.Config),
}
SIZES = 1, 2, 3


def with_memory_for_two(forward):
    """BERT's encoder, for which the second process has memory for two reviews in training."""

    def limited(self, states, *arguments, **options):
        if self.training and len(states) > 2 and PartialState().process_index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, states, *arguments, **options)

    return limited


def predicted(name: str, checkpoint: Path, folder: Path, rate: float, sizes: tuple[int, ...]) -> dict[int, list[list[float]]]:
    """By size the probabilities of a validation part (none where it is one review: that has one class) and of as many tests."""
    trainer, build, config_class = TRAINERS[name]
    config = config_class(
        model=str(checkpoint), epochs=2, batch_size=8, precision="fp32", dropout=0.0, attention_dropout=0.0, output_dir=folder,
        learning_rate=rate,
    )  # fmt: skip
    config.checkpoint = checkpoint
    generator = np.random.default_rng(0)
    reviews = EncodedReviews([generator.integers(1_000, 2_000, 3 + row).astype(np.int32) for row in range(11)], 50)
    task = PretrainedTask(build, config)
    task.train, task.labels, task.tokenizer = reviews, np.arange(11) % 2, read_tokenizer(checkpoint)
    run_dir = folder / name
    trainer.start(config)
    trainer.set_up(task, run_dir, float("inf"))
    found = {}
    for size in sizes:
        task.test = EncodedReviews(reviews.reviews[8 : 8 + size], 50)
        split = Split(f"validated-{size}", np.arange(8), np.arange(8, 8 + size if size > 1 else 8))
        (run_dir / split.name).mkdir(parents=True, exist_ok=True)
        result = trainer.fit(split)
        found[size] = [result.validation.tolist(), result.test.tolist()]
    return found


def mixed_training(folder: Path) -> dict[str, list[float]]:
    """Five epochs of lm_lstm.py's mixed objective on 24 reviews: losses, accuracies, predictions.

    Every other review has no label.
    """
    config = lm_lstm.Config(
        hidden=8, batch_size=8, epochs=5, learning_rate=0.05, dropout=0.0, word_dropout=0.0, precision="fp32", output_dir=folder,
        vat=1.0, adversarial=1.0, entropy=1.0,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    task = WordModelTask(lm_lstm.LMLSTM, config)
    task.train = task.test = EncodedReviews([generator.integers(2, 30, 3 + row).astype(np.int32) for row in range(24)], 50)
    task.labels = np.where(np.arange(24) % 2, np.nan, np.arange(24) % 4 / 2)
    task.vectors = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    trainer = PyTorchTrainer(lm_lstm.train)
    trainer.start(config)
    trainer.set_up(task, folder, float("inf"))
    split = Split("refit", np.arange(24), np.arange(0))
    (folder / split.name).mkdir(parents=True, exist_ok=True)
    result = trainer.fit(split)
    curves = {name: [entry[name] for entry in result.history] for name in ("loss", "accuracy")}
    return curves | {"test": result.test.tolist()}


def averaged_gradients() -> list[float | None]:
    """Of three weights: one that both processes use, one of the second process alone, and one of none."""
    model = torch.nn.ParameterList([torch.ones(1) for _ in range(3)])
    loss = model[0] * (1 + PartialState().process_index)
    (loss + model[1] if PartialState().process_index else loss).sum().backward()
    average_gradients(model)
    return [None if weights.grad is None else weights.grad.item() for weights in model]


if __name__ == "__main__":
    checkpoint, folder = map(Path, sys.argv[1:3])
    PartialState(cpu=True)
    found = {}
    for name in TRAINERS:
        found[name] = predicted(name, checkpoint, folder / "fewer", 1e-30, SIZES)
        found[f"{name} trained"] = predicted(name, checkpoint, folder / "trained", 1e-3, (1,))
    found["gradients"] = averaged_gradients()
    found["mixed"] = mixed_training(folder / "mixed")
    BertEncoder.forward = with_memory_for_two(BertEncoder.forward)
    for name in TRAINERS:
        found[f"{name} limited"] = predicted(name, checkpoint, folder / "limited", 1e-3, (1,))
    if PartialState().is_main_process:
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
