"""popcorn.training.finetuning_task"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from popcorn.config import FineTuneConfig, PretrainedConfig
from popcorn.data import competition as competition_data
from popcorn.data.batching import Reviews
from popcorn.data.competition import TEST, TRAIN, UNLABELED, Competition
from popcorn.data.subword_tokenizer import load_tokenizer, read_subwords, weights_checksum
from popcorn.models.pretrained import architecture
from popcorn.models.saved import ENCODER, save_metadata
from popcorn.runs.engine import Task
from popcorn.training.optim import parameter_groups
from popcorn.utils.files import fingerprint
from popcorn.utils.packages import quiet_transformers

Build = Callable[[PretrainedConfig, Path], nn.Module]
"""config and a checkpoint's folder to the model that starts from it, in float32"""


def finetuning_task(build: Build, config: FineTuneConfig) -> Task:
    """Fine-tuning of a whole model, after training its language model further where that is asked for."""
    task = pretrained_task(build, config)
    layers = architecture(config.checkpoint).num_hidden_layers
    task.groups = lambda model: parameter_groups(model, layers, config)
    if config.further_pretrain:
        further = _further_pretraining(config, task.competition, task.train, load_tokenizer(config))
        task.build, task.pretrain = lambda: build(config, further.folder), further.train
    return task


def pretrained_task(build: Build, config: PretrainedConfig) -> Task:
    """The reviews as subwords, and the model over the checkpoint as it is, all of it at one learning rate."""
    quiet_transformers()
    competition = competition_data.find(config.data_dir)
    tokenizer = load_tokenizer(config)
    train, test = competition.read(TRAIN), competition.read(TEST)
    return Task(
        competition, train.ids, test.ids, train.labels,
        train=read_subwords(competition, TRAIN, tokenizer, config), test=read_subwords(competition, TEST, tokenizer, config),
        build=lambda: build(config, config.checkpoint),
        groups=lambda model: [{"params": list(model.parameters()), "lr": config.learning_rate}],
        keep=partial(_keep, build=build, config=config, tokenizer=tokenizer),
        provenance={"weights": Path(config.model).name, "weights_sha256": weights_checksum(config.checkpoint)},
    )  # fmt: skip


def _keep(folder: Path, build: Build, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Beside the weights: what a module of ours is made of again without the checkpoint that it began with."""
    save_metadata(folder, build, config, "subwords")
    tokenizer.save_pretrained(folder / ENCODER)
    architecture(config.checkpoint).save_pretrained(folder / ENCODER)


def _further_pretraining(config: FineTuneConfig, competition: Competition, train: Reviews, tokenizer: PreTrainedTokenizerBase):
    from popcorn.training.masked_lm import FurtherPretraining

    has_more = competition.path(UNLABELED) is not None
    more = read_subwords(competition, UNLABELED, tokenizer, config).reviews if has_more else []
    reviews = Reviews(train.reviews + more, config.max_length, tokenizer.pad_token_id)
    return FurtherPretraining(config, reviews, tokenizer, fingerprint(weights_checksum(config.checkpoint), competition.checksum))
