"""A model over word vectors, and the reviews as word ids."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from popcorn.config import WordVectorConfig
from popcorn.data.batching import EncodedReviews
from popcorn.data.competition import find_competition
from popcorn.data.word_tokenizer import encode, read_corpus
from popcorn.data.word_vectors import build_vocabulary
from popcorn.models.saved import save_metadata, save_vocabulary
from popcorn.training.model_task import ModelTask
from popcorn.training.pseudo_labels import find_pseudo_labels
from popcorn.utils.files import fingerprint

ModelClass = Callable[[WordVectorConfig, Tensor], nn.Module]
"""config and vectors, float32 (vocabulary, width), to a module (tokens, lengths) -> logit (batch,)"""


class WordModelTask(ModelTask):
    """The reviews as word ids, and a model whose embedding starts from word vectors."""

    config: WordVectorConfig
    vectors: Tensor
    """float32 (vocabulary, width)"""

    def __init__(self, model_class: ModelClass, config: WordVectorConfig):
        super().__init__(config)
        self.model_class = model_class

    def load(self) -> None:
        """Tokenizes the reviews and reads or trains the word vectors."""
        config = self.config
        self.competition = find_competition(config.data_dir)
        corpus = read_corpus(self.competition)
        self.vocabulary = build_vocabulary(
            self.competition, corpus, config.word_vectors, config.vector_size, config.output_dir / "runs", config.deterministic
        )
        train, test, unlabeled = (encode(file, self.vocabulary.index) for file in (corpus.train, corpus.test, corpus.unlabeled))
        self.train_ids, self.test_ids, self.labels = corpus.train.ids, corpus.test.ids, corpus.train.labels
        self.train = EncodedReviews(train + unlabeled, config.max_length)
        self.test = EncodedReviews(test, config.max_length)
        self.vectors = torch.from_numpy(self.vocabulary.vectors)
        vectors_sha256 = fingerprint(self.vocabulary.vectors.tobytes())
        self.provenance = {"vectors": self.vocabulary.source, "vectors_sha256": vectors_sha256}
        self.pseudo_labels = find_pseudo_labels(config, self.competition)

    def build_model(self) -> nn.Module:
        return self.model_class(self.config, self.vectors)

    def parameter_groups(self, model: nn.Module, config: WordVectorConfig) -> list[dict]:
        """The embedding, and the rest.

        A rare word's vector occurs in few reviews, and would overfit at the full learning rate.
        """
        embedding = list(model.embedding.parameters())
        rest = [weights for weights in model.parameters() if not any(weights is vectors for vectors in embedding)]
        return [
            {"params": embedding, "lr": config.learning_rate * config.embedding_lr_scale},
            {"params": rest, "lr": config.learning_rate},
        ]

    def save_artifacts(self, run_dir: Path) -> None:
        """Saves options and vocabulary."""
        save_metadata(run_dir, self.model_class, self.config, "words")
        save_vocabulary(run_dir, self.vocabulary.index)
