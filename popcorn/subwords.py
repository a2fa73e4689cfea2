"""Reviews in a pretrained model's own subwords, and fine-tuning on them as a task for either engine."""

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from itertools import groupby
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from popcorn import data
from popcorn.batches import Reviews, cut
from popcorn.config import FineTuneConfig, PretrainedConfig
from popcorn.data import TEST, TRAIN, UNLABELLED, Competition
from popcorn.engine import Task
from popcorn.errors import UserError, say
from popcorn.files import cached, fingerprint
from popcorn.hub import TOKENISERS, readable
from popcorn.packages import needs, quiet_transformers
from popcorn.pretrained import parameter_groups
from popcorn.saved import ENCODER, keep_about
from popcorn.text import plain

SENTENCEPIECE = "spm.model", "sentencepiece.bpe.model"
Build = Callable[[PretrainedConfig, Path], nn.Module]
"""config and a checkpoint's folder to the model that starts from it, in float32"""


def fine_tuning(build: Build, config: FineTuneConfig) -> Task:
    """Fine-tuning of a whole model, after training its language model further where that is asked for."""
    task = reading(build, config)
    layers = AutoConfig.from_pretrained(config.checkpoint).num_hidden_layers
    task.groups = lambda model: parameter_groups(model, layers, config)
    if config.further_pretrain:
        further = _further_pretraining(config, task.competition, task.train, load_tokeniser(config))
        task.build, task.pretrain = lambda: _built(build, config, further.folder), further.train
    return task


def reading(build: Build, config: PretrainedConfig) -> Task:
    """The reviews as subwords, and the model over the checkpoint as it is, all of it at one learning rate."""
    quiet_transformers()
    competition = data.find(config.data_dir)
    tokeniser = load_tokeniser(config)
    train, test = competition.read(TRAIN), competition.read(TEST)
    return Task(
        competition, train.ids, test.ids, train.labels,
        train=read_subwords(competition, TRAIN, tokeniser, config), test=read_subwords(competition, TEST, tokeniser, config),
        build=lambda: _built(build, config, config.checkpoint),
        groups=lambda model: [{"params": list(model.parameters()), "lr": config.learning_rate}],
        keep=partial(_keep, build=build, config=config, tokeniser=tokeniser),
        origin={"weights": Path(config.model).name, "weights_sha256": weights_checksum(config.checkpoint)},
    )  # fmt: skip


def _keep(folder: Path, build: Build, config: PretrainedConfig, tokeniser: PreTrainedTokenizerBase) -> None:
    """Beside the weights: what a module of ours is made of again without the checkpoint that it began with."""
    keep_about(folder, build, config, "subwords")
    tokeniser.save_pretrained(folder / ENCODER)
    AutoConfig.from_pretrained(config.checkpoint).save_pretrained(folder / ENCODER)


def _further_pretraining(config: FineTuneConfig, competition: Competition, train: Reviews, tokeniser: PreTrainedTokenizerBase):
    from popcorn.language_model import FurtherPretraining

    has_more = competition.path(UNLABELLED) is not None
    more = read_subwords(competition, UNLABELLED, tokeniser, config).reviews if has_more else []
    reviews = Reviews(train.reviews + more, config.max_tokens, tokeniser.pad_token_id)
    return FurtherPretraining(config, reviews, tokeniser, fingerprint(weights_checksum(config.checkpoint), competition.checksum))


def _built(build: Build, config: PretrainedConfig, checkpoint: Path) -> nn.Module:
    try:
        with readable(checkpoint):
            return build(config, checkpoint)
    except RuntimeError as problem:
        raise UserError(
            f"the weights in {checkpoint} do not fit this script's model ({str(problem).splitlines()[0]}): "
            "take a model with two classes, or one without a classifier"
        ) from problem


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint's folder. Raises `MissingPackage` where it is SentencePiece's and cannot be read here.

    The library would take a file of SentencePiece for one of another kind then.
    """
    if not (folder / "tokenizer.json").is_file() and any((folder / name).is_file() for name in SENTENCEPIECE):
        purpose = f"the tokenizer in {folder}"
        with needs("sentencepiece", purpose):
            import_module("sentencepiece")
        with needs("protobuf", purpose):
            import_module("google.protobuf")
    return AutoTokenizer.from_pretrained(folder)


def load_tokeniser(config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The checkpoint's own tokeniser. Raises `UserError` where `--max-tokens` is more than the model can read."""
    try:
        tokeniser = read_tokenizer(config.checkpoint)
        positions = AutoConfig.from_pretrained(config.checkpoint).max_position_embeddings
    except (OSError, ValueError, KeyError, AttributeError) as problem:
        raise UserError(f"the model in {config.checkpoint} cannot be read ({problem}): fetch or attach it again") from problem
    if config.FAMILY == "roberta":  # which counts places from behind the padding's id
        positions -= tokeniser.pad_token_id + 1
    most = min(tokeniser.model_max_length, positions)
    if config.max_tokens > most:
        raise UserError(f"--max-tokens is {config.max_tokens}: {config.model} reads at most {most}")
    if config.max_tokens < 3:
        raise UserError(f"--max-tokens is {config.max_tokens}: two of them are special, give at least 3")
    return tokeniser


def read_subwords(competition: Competition, name: str, tokeniser: PreTrainedTokenizerBase, config: PretrainedConfig) -> Reviews:
    """The reviews of one file: [CLS], the review's subwords, cut to the head and the tail where there are too many, [SEP]."""

    def make() -> dict[str, np.ndarray]:
        texts = competition.read(name).texts
        say(f"Splitting {len(texts):,} reviews of {name} into subwords")
        ids = split_texts(texts, tokeniser)
        offsets = np.cumsum([0, *map(len, ids)])
        return {"tokens": np.fromiter((token for review in ids for token in review), np.int32, offsets[-1]), "offsets": offsets}

    rules = [config.checkpoint / each for each in (*TOKENISERS, "merges.txt", "tokenizer_config.json")]
    files = [path for path in rules if path.is_file()]
    key = fingerprint(competition.path(name), name, *files)[:24]
    arrays = cached(user_cache_path("popcorn") / f"subwords-{key}.npz", make)
    contents = np.split(arrays["tokens"], arrays["offsets"][1:-1]) if len(arrays["offsets"]) > 1 else []
    return Reviews(framed(contents, tokeniser, config.max_tokens), config.max_tokens, tokeniser.pad_token_id)


def split_texts(texts: list[str], tokeniser: PreTrainedTokenizerBase) -> list[list[int]]:
    """Each text's subwords as ids, all of them and nothing beside them."""
    if not texts:
        return []
    plain_texts = [plain(text) for text in texts]
    return tokeniser(plain_texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def words_of(text: str, tokeniser: PreTrainedTokenizerBase, max_tokens: int) -> list[tuple[str, int]]:
    """The words that a model reads of the text, as they stand there, each with the number of its subwords that are read."""
    text = plain(text)
    encoding = tokeniser(text, add_special_tokens=False, verbose=False)
    places, words = cut(np.arange(len(encoding["input_ids"])), max_tokens - 2), encoding.word_ids()
    pieces = [list(group) for _, group in groupby(places.tolist(), key=lambda place: words[place])]
    spans = [(encoding.token_to_chars(its[0]).start, encoding.token_to_chars(its[-1]).end) for its in pieces]
    return [(text[start:end].strip(), len(its)) for (start, end), its in zip(spans, pieces, strict=True)]


def framed(contents: list[np.ndarray], tokeniser: PreTrainedTokenizerBase, max_tokens: int) -> list[np.ndarray]:
    """Each review's subwords, int32 (tokens,), cut where there are too many, between [CLS] and [SEP]."""
    first, last = np.array([tokeniser.cls_token_id], np.int32), np.array([tokeniser.sep_token_id], np.int32)
    return [np.concatenate([first, cut(ids, max_tokens - 2), last]) for ids in contents]


@cache
def weights_checksum(checkpoint: Path) -> str:
    """SHA-256 over a checkpoint's weights, which tells one fine-tuned copy from another of the same name."""
    return fingerprint(*sorted(path for ending in ("*.safetensors", "pytorch_model*.bin") for path in checkpoint.glob(ending)))
