"""What torchrun starts twice for test_processes.py: both engines on very few reviews. Writes what the first process predicts."""

import json
import sys
from pathlib import Path

import numpy as np
from accelerate import PartialState
from accelerate.utils import set_seed

import bert_native
import bert_trainer
from popcorn.data.batching import EncodedReviews
from popcorn.data.competition import Competition
from popcorn.data.splits import Split
from popcorn.runs.engine import Task
from popcorn.training.hf_trainer import hugging_face
from popcorn.training.native import native

ENGINES = {  # the native one comes last: it ends with the processes' group
    "trainer": (hugging_face, bert_trainer.build, bert_trainer.Config),
    "native": (native, bert_native.BERT, bert_native.Config),
}
SIZES = 1, 2, 3


def predicted(engine: str, checkpoint: Path, folder: Path) -> dict[int, list[list[float]]]:
    """By size the probabilities of a validation part (none where it is one review: that has one class) and of as many tests."""
    way, build, config_of = ENGINES[engine]
    config = config_of(
        model=str(checkpoint), epochs=1, batch_size=8, precision="fp32", dropout=0.0, attention_dropout=0.0, output_dir=folder,
        learning_rate=1e-30,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    reviews = EncodedReviews([generator.integers(1_000, 2_000, 3 + row).astype(np.int32) for row in range(11)], 50)
    labels = np.arange(11) % 2
    task = Task(
        Competition(Path("nowhere"), "test"), [], [], labels, train=reviews, test=reviews,
        build=lambda: build(config, checkpoint),
        groups=lambda model: [{"params": list(model.parameters()), "lr": config.learning_rate}], provenance={},
    )  # fmt: skip
    found = {}
    with way(task, config, folder, float("inf")) as fitting:
        for size in SIZES:
            task.test = EncodedReviews(reviews.reviews[8 : 8 + size], 50)
            own = folder / f"{engine}-{size}"
            own.mkdir(parents=True, exist_ok=True)
            part = Split("validated", np.arange(8), np.arange(8, 8 + size if size > 1 else 8))
            set_seed(1)
            outcome = fitting(task.build, labels, part, own)
            found[size] = [outcome.validation.tolist(), outcome.test.tolist()]
    return found


if __name__ == "__main__":
    checkpoint, folder = map(Path, sys.argv[1:])
    PartialState(cpu=True)
    for name in ENGINES:
        found = predicted(name, checkpoint, folder)
        if PartialState().is_main_process:
            (folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
