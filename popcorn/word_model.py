"""A model over word vectors as a task for the native engine. The scripts' one call is `run`."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from popcorn import data, engine
from popcorn.batches import Reviews
from popcorn.config import WordVectorConfig
from popcorn.files import fingerprint
from popcorn.native import native
from popcorn.saved import keep_about, keep_vocabulary
from popcorn.text import encode, read_corpus
from popcorn.vectors import build_vocabulary

Build = Callable[[WordVectorConfig, Tensor], nn.Module]
"""a model's class: config and vectors, float32 (vocabulary, width), to a module (tokens, lengths) -> logit (batch,)"""


def run(build: Build, config: WordVectorConfig) -> None:
    """Reads the reviews as word ids, trains the model, and writes its submissions."""
    engine.run(native, lambda: task_of(build, config)[0], config)


def task_of(build: Build, config: WordVectorConfig) -> tuple[engine.Task, Tensor]:
    """The reviews as word ids and the model over the vectors of those words; the vectors, float32 (vocabulary, width)."""
    competition = data.find(config.data_dir)
    corpus = read_corpus(competition)
    vocabulary = build_vocabulary(
        competition, corpus, config.vectors, config.vector_width, config.output_dir / "runs", config.deterministic
    )
    train, test, unlabelled = (encode(file, vocabulary.index) for file in (corpus.train, corpus.test, corpus.unlabelled))
    vectors = torch.from_numpy(vocabulary.vectors)

    def keep(folder: Path) -> None:
        keep_about(folder, build, config, "words")
        keep_vocabulary(folder, vocabulary.index)

    task = engine.Task(
        competition, corpus.train.ids, corpus.test.ids, corpus.train.labels,
        train=Reviews(train + unlabelled, config.max_tokens),
        test=Reviews(test, config.max_tokens),
        build=lambda: build(config, vectors),
        groups=lambda model: parameter_groups(model, config),
        origin={"vectors": vocabulary.source, "vectors_sha256": fingerprint(vocabulary.vectors.tobytes())},
        keep=keep,
        teach=_teach(competition, config) if config.unlabelled else None,
    )  # fmt: skip
    return task, vectors


def _teach(competition: data.Competition, config: WordVectorConfig) -> Callable:
    from popcorn.pseudo_labels import Teacher  # another model, which nobody needs without --unlabelled

    return Teacher(competition, config.limit).teach


def parameter_groups(model: nn.Module, config: WordVectorConfig) -> list[dict]:
    """The embedding and the rest: a rare word's vector meets few reviews, and would learn them by heart at the full rate."""
    embedding = list(model.embedding.parameters())
    rest = [weights for weights in model.parameters() if not any(weights is vectors for vectors in embedding)]
    return [
        {"params": embedding, "lr": config.learning_rate * config.embedding_rate},
        {"params": rest, "lr": config.learning_rate},
    ]
