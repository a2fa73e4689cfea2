"""A model over word vectors as a task for the native engine. The scripts' one call is `run`."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from popcorn.config import WordVectorConfig
from popcorn.data import competition as competition_data
from popcorn.data.batching import Reviews
from popcorn.data.word_tokenizer import encode, read_corpus
from popcorn.data.word_vectors import build_vocabulary
from popcorn.models.saved import save_metadata, save_vocabulary
from popcorn.runs import engine
from popcorn.training.native import native
from popcorn.utils.files import fingerprint

Build = Callable[[WordVectorConfig, Tensor], nn.Module]
"""a model's class: config and vectors, float32 (vocabulary, width), to a module (tokens, lengths) -> logit (batch,)"""


def run(build: Build, config: WordVectorConfig) -> None:
    """Reads the reviews as word ids, trains the model, and writes its submissions."""
    engine.run(native, lambda: task_of(build, config)[0], config)


def task_of(build: Build, config: WordVectorConfig) -> tuple[engine.Task, Tensor]:
    """The reviews as word ids and the model over the vectors of those words; the vectors, float32 (vocabulary, width)."""
    competition = competition_data.find(config.data_dir)
    corpus = read_corpus(competition)
    vocabulary = build_vocabulary(
        competition, corpus, config.vectors, config.vector_size, config.output_dir / "runs", config.deterministic
    )
    train, test, unlabeled = (encode(file, vocabulary.index) for file in (corpus.train, corpus.test, corpus.unlabeled))
    vectors = torch.from_numpy(vocabulary.vectors)

    def keep(folder: Path) -> None:
        save_metadata(folder, build, config, "words")
        save_vocabulary(folder, vocabulary.index)

    task = engine.Task(
        competition, corpus.train.ids, corpus.test.ids, corpus.train.labels,
        train=Reviews(train + unlabeled, config.max_length),
        test=Reviews(test, config.max_length),
        build=lambda: build(config, vectors),
        groups=lambda model: parameter_groups(model, config),
        provenance={"vectors": vocabulary.source, "vectors_sha256": fingerprint(vocabulary.vectors.tobytes())},
        keep=keep,
        with_pseudo_labels=_pseudo_label_teacher(competition, config) if config.unlabeled else None,
    )  # fmt: skip
    return task, vectors


def _pseudo_label_teacher(competition: competition_data.Competition, config: WordVectorConfig) -> Callable:
    from popcorn.training.pseudo_labels import Teacher  # another model, which nobody needs without --pseudo-labels

    return Teacher(competition, config.max_train_samples).with_pseudo_labels


def parameter_groups(model: nn.Module, config: WordVectorConfig) -> list[dict]:
    """The embedding and the rest: a rare word's vector meets few reviews, and would learn them by heart at the full rate."""
    embedding = list(model.embedding.parameters())
    rest = [weights for weights in model.parameters() if not any(weights is vectors for vectors in embedding)]
    return [
        {"params": embedding, "lr": config.learning_rate * config.embedding_lr_scale},
        {"params": rest, "lr": config.learning_rate},
    ]
