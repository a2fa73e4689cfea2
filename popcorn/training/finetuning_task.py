"""A pretrained model, and the reviews as token ids of its tokenizer."""

from collections.abc import Callable
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from popcorn.config import FineTuneConfig, PretrainedConfig, is_kaggle_handle
from popcorn.data.batching import EncodedReviews
from popcorn.data.competition import TEST, TRAIN, UNLABELED, find_competition
from popcorn.data.subword_tokenizer import read_subwords
from popcorn.models.hub import find_checkpoint
from popcorn.models.pretrained import architecture, weights_checksum
from popcorn.models.saved import ENCODER, save_metadata
from popcorn.models.tokenizer import load_tokenizer
from popcorn.training.masked_lm import FurtherPretraining, require_masked_lm
from popcorn.training.model_task import ModelTask
from popcorn.training.optim import layer_decay_groups
from popcorn.training.pseudo_labels import PseudoLabels
from popcorn.utils.files import fingerprint
from popcorn.utils.packages import quiet_transformers

BuildModel = Callable[[PretrainedConfig, Path], nn.Module]
"""config and a checkpoint's folder to a float32 model with the checkpoint's weights"""


class PretrainedTask(ModelTask):
    """The reviews as subwords, and a pretrained model with one learning rate."""

    config: PretrainedConfig

    def __init__(self, build: BuildModel, config: PretrainedConfig):
        super().__init__(config)
        self.build = build

    def load(self) -> None:
        """Loads the tokenizer, and encodes the reviews."""
        quiet_transformers()
        config = self.config
        find_checkpoint(config)
        self.competition = find_competition(config.data_dir)
        self.tokenizer = self.load_tokenizer()
        train, test = self.competition.read(TRAIN), self.competition.read(TEST)
        self.train_ids, self.test_ids, self.labels = train.ids, test.ids, train.labels
        self.train, self.test = (self.encode(name) for name in (TRAIN, TEST))
        if getattr(config, "pseudo_labels", None):  # zero-shot trains on nothing
            self.pseudo_labels = PseudoLabels(config, self.competition)
            more = self.encode(UNLABELED).reviews
            self.train = EncodedReviews(self.train.reviews + more, config.max_length, self.tokenizer.pad_token_id)
        name = config.model if is_kaggle_handle(config.model) else Path(config.model).name
        self.provenance = {"weights": name, "weights_sha256": weights_checksum(config.checkpoint)}

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, checked against the options."""
        return load_tokenizer(self.config)

    def encode(self, name: str) -> EncodedReviews:
        """The reviews of one file as token ids."""
        return read_subwords(self.competition, name, self.tokenizer, self.config)

    def build_model(self) -> nn.Module:
        return self.build(self.config, self.config.checkpoint)

    def parameter_groups(self, model: nn.Module, config: PretrainedConfig) -> list[dict]:
        return [{"params": list(model.parameters()), "lr": config.learning_rate}]

    def save_artifacts(self, run_dir: Path) -> None:
        """Saves everything that rebuilds the model without its original checkpoint."""
        save_metadata(run_dir, self.build, self.config, "subwords")
        self.tokenizer.save_pretrained(run_dir / ENCODER)
        architecture(self.config.checkpoint).save_pretrained(run_dir / ENCODER)


class FinetuningTask(PretrainedTask):
    """Fine-tunes all layers, with further pretraining if `--further-pretrain` is set."""

    config: FineTuneConfig

    def load(self) -> None:
        """Loads the tokenizer, and encodes the reviews.

        Raises `UserError` where `--further-pretrain` does not suit the model type.
        """
        if self.config.further_pretrain:
            require_masked_lm(self.config.MODEL_TYPE)
        super().load()
        self.further = self._further_pretraining() if self.config.further_pretrain else None

    def pretrain(self, deadline: float) -> None:
        if self.further:
            self.further.train(deadline)

    def build_model(self) -> nn.Module:
        return self.build(self.config, self.further.folder if self.further else self.config.checkpoint)

    def parameter_groups(self, model: nn.Module, config: FineTuneConfig) -> list[dict]:
        """Learning rates decrease from the top layer down; see `layer_decay_groups`."""
        return layer_decay_groups(model, architecture(self.config.checkpoint).num_hidden_layers, config)

    def _further_pretraining(self) -> FurtherPretraining:
        config, competition = self.config, self.competition
        has_more = competition.path(UNLABELED) is not None and not config.pseudo_labels  # which has added them
        more = read_subwords(competition, UNLABELED, self.tokenizer, config).reviews if has_more else []
        reviews = EncodedReviews(self.train.reviews + more, config.max_length, self.tokenizer.pad_token_id)
        content = fingerprint(weights_checksum(config.checkpoint), competition.checksum)
        return FurtherPretraining(config, reviews, self.tokenizer, content)
