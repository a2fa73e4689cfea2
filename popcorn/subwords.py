"""Reviews in a pretrained model's own subwords, and fine-tuning on them as a task for either engine."""

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from popcorn import data
from popcorn.batches import Reviews, cut
from popcorn.config import FineTuneConfig, PretrainedConfig
from popcorn.data import TEST, TRAIN, UNLABELLED, Competition
from popcorn.engine import Task
from popcorn.errors import UserError, first_line, say
from popcorn.files import cached, fingerprint
from popcorn.hub import BESIDE_TOKENIZERS, TOKENISERS, weight_files
from popcorn.packages import needs, quiet_transformers
from popcorn.pretrained import parameter_groups
from popcorn.pretrained_model import architecture
from popcorn.saved import ENCODER, keep_about
from popcorn.text import plain

SENTENCEPIECE = "spm.model", "sentencepiece.bpe.model"
Build = Callable[[PretrainedConfig, Path], nn.Module]
"""config and a checkpoint's folder to the model that starts from it, in float32"""
MOST_UNKNOWN = 0.02
"""share of unknown tokens in the training reviews; BERT's tokenizer has none there, and without lower case a tenth"""
FEWEST_A_WORD, MOST_A_WORD = 0.9, 4.0
"""tokens for each word between blanks: BERT's tokenizer has 1.3, and one of letters or bytes has five"""
TOKENIZER_MEND = "fetch or attach all of the model's tokenizer, such as tokenizer.json and tokenizer_config.json"


def fine_tuning(build: Build, config: FineTuneConfig) -> Task:
    """Fine-tuning of a whole model, after training its language model further where that is asked for."""
    task = reading(build, config)
    layers = architecture(config.checkpoint).num_hidden_layers
    task.groups = lambda model: parameter_groups(model, layers, config)
    if config.further_pretrain:
        further = _further_pretraining(config, task.competition, task.train, load_tokeniser(config))
        task.build, task.pretrain = lambda: build(config, further.folder), further.train
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
        build=lambda: build(config, config.checkpoint),
        groups=lambda model: [{"params": list(model.parameters()), "lr": config.learning_rate}],
        keep=partial(_keep, build=build, config=config, tokeniser=tokeniser),
        origin={"weights": Path(config.model).name, "weights_sha256": weights_checksum(config.checkpoint)},
    )  # fmt: skip


def _keep(folder: Path, build: Build, config: PretrainedConfig, tokeniser: PreTrainedTokenizerBase) -> None:
    """Beside the weights: what a module of ours is made of again without the checkpoint that it began with."""
    keep_about(folder, build, config, "subwords")
    tokeniser.save_pretrained(folder / ENCODER)
    architecture(config.checkpoint).save_pretrained(folder / ENCODER)


def _further_pretraining(config: FineTuneConfig, competition: Competition, train: Reviews, tokeniser: PreTrainedTokenizerBase):
    from popcorn.language_model import FurtherPretraining

    has_more = competition.path(UNLABELLED) is not None
    more = read_subwords(competition, UNLABELLED, tokeniser, config).reviews if has_more else []
    reviews = Reviews(train.reviews + more, config.max_tokens, tokeniser.pad_token_id)
    return FurtherPretraining(config, reviews, tokeniser, fingerprint(weights_checksum(config.checkpoint), competition.checksum))


def read_tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint's folder, of the library's own classes alone.

    Raises `UserError` where it cannot be read, lacks a special token, or has more tokens than the model has vectors.
    """
    config = architecture(checkpoint)
    require_sentencepiece(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, config=config, trust_remote_code=False, local_files_only=True)
        vocabulary = tokenizer.get_vocab()
    except Exception as problem:  # the library and its parts in Rust raise what they like, bare exceptions too
        raise UserError(f"the tokenizer in {checkpoint} cannot be read ({first_line(problem)}): {TOKENIZER_MEND}") from problem
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad")}
    lacking = [name for name, number in ids.items() if number is None or number == tokenizer.unk_token_id]
    if lacking:
        raise UserError(f"the tokenizer in {checkpoint} has no {' and no '.join(lacking)} token: {TOKENIZER_MEND}")
    token, largest = max(vocabulary.items(), key=lambda entry: entry[1])
    if largest >= config.vocab_size:
        raise UserError(
            f"the tokenizer in {checkpoint} is of another model: its token {token!r} has the id {largest}, and the model has "
            f"vectors for {config.vocab_size}: {TOKENIZER_MEND}"
        )
    return tokenizer


def require_sentencepiece(checkpoint: Path) -> None:
    """Raises `MissingPackage` where the tokenizer is SentencePiece's and cannot be read here.

    The library would take a file of SentencePiece for one of another kind then.
    """
    if not (checkpoint / "tokenizer.json").is_file() and any((checkpoint / name).is_file() for name in SENTENCEPIECE):
        purpose = f"the tokenizer in {checkpoint}"
        with needs("sentencepiece", purpose):
            import_module("sentencepiece")
        with needs("protobuf", purpose):
            import_module("google.protobuf")


def load_tokeniser(config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The checkpoint's own tokenizer. Raises `UserError` as above and where `--max-tokens` is more than the model can read."""
    tokeniser = read_tokenizer(config.checkpoint)
    positions = architecture(config.checkpoint).max_position_embeddings
    if config.FAMILY == "roberta":  # which counts places from behind the padding's id
        positions -= tokeniser.pad_token_id + 1
    most = min(tokeniser.model_max_length, positions)
    if config.max_tokens > most:
        raise UserError(f"--max-tokens is {config.max_tokens}: {config.model} reads at most {most}")
    if config.max_tokens < 3:
        raise UserError(f"--max-tokens is {config.max_tokens}: two of them are special, give at least 3")
    return tokeniser


def read_subwords(competition: Competition, name: str, tokeniser: PreTrainedTokenizerBase, config: PretrainedConfig) -> Reviews:
    """The reviews of one file: [CLS], the review's subwords, cut to the head and the tail where there are too many, [SEP].

    Raises `UserError` where the tokenizer makes of the training reviews what no tokenizer should.
    """

    def make() -> dict[str, np.ndarray]:
        texts = competition.read(name).texts
        say(f"Splitting {len(texts):,} reviews of {name} into subwords")
        ids = split_texts(texts, tokeniser)
        offsets = np.cumsum([0, *map(len, ids)])
        words = np.array(sum(len(plain(text).split()) for text in texts))
        tokens = np.fromiter((token for review in ids for token in review), np.int32, offsets[-1])
        return {"tokens": tokens, "offsets": offsets, "words": words}

    rules = [config.checkpoint / each for each in (*TOKENISERS, *BESIDE_TOKENIZERS)]
    files = [part for path in rules if path.is_file() for part in (path.name, path)]
    makers = type(tokeniser).__name__, version("transformers"), version("tokenizers")
    key = fingerprint(competition.path(name), name, data.READING, *files, makers)[:24]
    arrays = cached(user_cache_path("popcorn") / f"subwords-{key}.npz", make)
    competition.count(name, len(arrays["offsets"]) - 1)
    if name == TRAIN:
        require_fitting_tokenizer(arrays["tokens"], int(arrays["words"]), tokeniser, config.checkpoint)
    contents = np.split(arrays["tokens"], arrays["offsets"][1:-1]) if len(arrays["offsets"]) > 1 else []
    return Reviews(framed(contents, tokeniser, config.max_tokens), config.max_tokens, tokeniser.pad_token_id)


def require_fitting_tokenizer(tokens: np.ndarray, words: int, tokenizer: PreTrainedTokenizerBase, checkpoint: Path) -> None:
    """Raises `UserError` where many tokens are unknown, or are so many or few for so many words that they are not subwords."""
    if not words:
        return
    unknown = float(np.mean(tokens == tokenizer.unk_token_id)) if len(tokens) and tokenizer.unk_token_id is not None else 0.0
    if unknown > MOST_UNKNOWN:
        raise UserError(
            f"the tokenizer in {checkpoint} does not know {unknown:.1%} of the training reviews' tokens, where at most "
            f"{MOST_UNKNOWN:.0%} is usual: {TOKENIZER_MEND}"
        )
    a_word = len(tokens) / words
    if not FEWEST_A_WORD <= a_word <= MOST_A_WORD:
        raise UserError(
            f"the tokenizer in {checkpoint} makes {a_word:.1f} tokens of a word of the training reviews, where 1.2 to 1.5 are "
            f"usual: {TOKENIZER_MEND}"
        )


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
    """SHA-256 over the files that a checkpoint's weights are read from: it tells copies of one name apart."""
    return fingerprint(*(path for path in weight_files(checkpoint) if path.is_file()))
