"""Reviews in a pretrained model's own subwords, and fine-tuning on them as a task for either engine."""

from functools import cache
from importlib import import_module
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from popcorn.config import PretrainedConfig
from popcorn.data import competition as competition_data
from popcorn.data.batching import Reviews, truncate_head_tail
from popcorn.data.competition import TRAIN, Competition
from popcorn.data.word_tokenizer import plain
from popcorn.errors import UserError, first_line, log
from popcorn.models.hub import BESIDE_TOKENIZERS, TOKENIZERS, weight_files
from popcorn.models.pretrained import architecture
from popcorn.utils.cache import cached
from popcorn.utils.files import fingerprint
from popcorn.utils.packages import needs

SENTENCEPIECE = "spm.model", "sentencepiece.bpe.model"
MOST_UNKNOWN = 0.02
"""share of unknown tokens in the training reviews; BERT's tokenizer has none there, and without lower case a tenth"""
FEWEST_A_WORD, MOST_A_WORD = 0.9, 4.0
"""tokens for each word between blanks: BERT's tokenizer has 1.3, and one of letters or bytes has five"""
TOKENIZER_MEND = "fetch or attach all of the model's tokenizer, such as tokenizer.json and tokenizer_config.json"


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


def load_tokenizer(config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The checkpoint's own tokenizer. Raises `UserError` as above and where `--max-length` is more than the model can read."""
    tokenizer = read_tokenizer(config.checkpoint)
    positions = architecture(config.checkpoint).max_position_embeddings
    if config.MODEL_TYPE == "roberta":  # which counts places from behind the padding's id
        positions -= tokenizer.pad_token_id + 1
    most = min(tokenizer.model_max_length, positions)
    if config.max_length > most:
        raise UserError(f"--max-length is {config.max_length}: {config.model} reads at most {most}")
    if config.max_length < 3:
        raise UserError(f"--max-length is {config.max_length}: two of them are special, give at least 3")
    return tokenizer


def read_subwords(competition: Competition, name: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Reviews:
    """The reviews of one file: [CLS], the review's subwords, cut to the head and the tail where there are too many, [SEP].

    Raises `UserError` where the tokenizer makes of the training reviews what no tokenizer should.
    """

    def make() -> dict[str, np.ndarray]:
        texts = competition.read(name).texts
        log(f"Splitting {len(texts):,} reviews of {name} into subwords")
        ids = tokenize_texts(texts, tokenizer)
        offsets = np.cumsum([0, *map(len, ids)])
        words = np.array(sum(len(plain(text).split()) for text in texts))
        tokens = np.fromiter((token for review in ids for token in review), np.int32, offsets[-1])
        return {"tokens": tokens, "offsets": offsets, "words": words}

    rules = [config.checkpoint / each for each in (*TOKENIZERS, *BESIDE_TOKENIZERS)]
    files = [part for path in rules if path.is_file() for part in (path.name, path)]
    makers = type(tokenizer).__name__, version("transformers"), version("tokenizers")
    key = fingerprint(competition.path(name), name, competition_data.READING, *files, makers)[:24]
    arrays = cached(user_cache_path("popcorn") / f"subwords-{key}.npz", make)
    competition.count(name, len(arrays["offsets"]) - 1)
    if name == TRAIN:
        require_fitting_tokenizer(arrays["tokens"], int(arrays["words"]), tokenizer, config.checkpoint)
    contents = np.split(arrays["tokens"], arrays["offsets"][1:-1]) if len(arrays["offsets"]) > 1 else []
    return Reviews(add_special_tokens(contents, tokenizer, config.max_length), config.max_length, tokenizer.pad_token_id)


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


def tokenize_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Each text's subwords as ids, all of them and nothing beside them."""
    if not texts:
        return []
    plain_texts = [plain(text) for text in texts]
    return tokenizer(plain_texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def words_of(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[tuple[str, int]]:
    """The words that a model reads of the text, as they stand there, each with the number of its subwords that are read."""
    text = plain(text)
    encoding = tokenizer(text, add_special_tokens=False, verbose=False)
    places, words = truncate_head_tail(np.arange(len(encoding["input_ids"])), max_length - 2), encoding.word_ids()
    pieces = [list(group) for _, group in groupby(places.tolist(), key=lambda place: words[place])]
    spans = [(encoding.token_to_chars(its[0]).start, encoding.token_to_chars(its[-1]).end) for its in pieces]
    return [(text[start:end].strip(), len(its)) for (start, end), its in zip(spans, pieces, strict=True)]


def add_special_tokens(contents: list[np.ndarray], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[np.ndarray]:
    """Each review's subwords, int32 (tokens,), cut where there are too many, between [CLS] and [SEP]."""
    first, last = np.array([tokenizer.cls_token_id], np.int32), np.array([tokenizer.sep_token_id], np.int32)
    return [np.concatenate([first, truncate_head_tail(ids, max_length - 2), last]) for ids in contents]


@cache
def weights_checksum(checkpoint: Path) -> str:
    """SHA-256 over the files that a checkpoint's weights are read from: it tells copies of one name apart."""
    return fingerprint(*(path for path in weight_files(checkpoint) if path.is_file()))
