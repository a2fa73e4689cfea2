"""Reviews as token ids of a pretrained model's tokenizer."""

from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path
from transformers import PreTrainedTokenizerBase

from popcorn.config import PretrainedConfig, ZeroShotConfig
from popcorn.data import competition as competition_data
from popcorn.data.batching import EncodedReviews, truncate_head_tail
from popcorn.data.competition import TRAIN, Competition
from popcorn.data.tokenizer_files import BESIDE_TOKENIZERS, TOKENIZERS
from popcorn.data.word_tokenizer import plain
from popcorn.errors import UserError, log
from popcorn.utils.cache import cached
from popcorn.utils.files import fingerprint

SENTENCEPIECE = "spm.model", "sentencepiece.bpe.model"
MOST_UNKNOWN = 0.02
"""maximum fraction of unknown tokens in the training reviews; BERT's tokenizer has none, and without lowercasing a tenth"""
FEWEST_A_WORD, MOST_A_WORD = 0.9, 4.0
"""minimum and maximum number of tokens per word; BERT's tokenizer has 1.3, one of letters or bytes has five"""
TOKENIZER_FIX = "fetch or attach all of the model's tokenizer, such as tokenizer.json and tokenizer_config.json"


def read_subwords(
    competition: Competition, name: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
) -> EncodedReviews:
    """Token ids of one file's reviews: [CLS], subwords with head and tail truncation, [SEP].

    Raises `UserError` as `read_contents` does.
    """
    contents = read_contents(competition, name, tokenizer, config)
    return EncodedReviews(add_special_tokens(contents, tokenizer, config.max_length), config.max_length, tokenizer.pad_token_id)


def read_contents(
    competition: Competition, name: str, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig | ZeroShotConfig
) -> list[np.ndarray]:
    """The subwords of each of one file's reviews, int32 (tokens,), without special tokens and truncation; cached.

    Raises `UserError` where the tokens of the training reviews show a broken tokenizer.
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
    return np.split(arrays["tokens"], arrays["offsets"][1:-1]) if len(arrays["offsets"]) > 1 else []


def require_fitting_tokenizer(tokens: np.ndarray, words: int, tokenizer: PreTrainedTokenizerBase, checkpoint: Path) -> None:
    """Raises `UserError` where too many tokens are unknown, or are not subwords.

    Too many or too few tokens per word show that.
    """
    if not words:
        return
    unknown = float(np.mean(tokens == tokenizer.unk_token_id)) if len(tokens) and tokenizer.unk_token_id is not None else 0.0
    if unknown > MOST_UNKNOWN:
        raise UserError(
            f"the tokenizer in {checkpoint} does not know {unknown:.1%} of the training reviews' tokens, where at most "
            f"{MOST_UNKNOWN:.0%} is usual: {TOKENIZER_FIX}"
        )
    a_word = len(tokens) / words
    if not FEWEST_A_WORD <= a_word <= MOST_A_WORD:
        raise UserError(
            f"the tokenizer in {checkpoint} makes {a_word:.1f} tokens of a word of the training reviews, where 1.2 to 1.5 are "
            f"usual: {TOKENIZER_FIX}"
        )


def tokenize_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The subword ids of each text, without special tokens and truncation."""
    if not texts:
        return []
    plain_texts = [plain(text) for text in texts]
    return tokenizer(plain_texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]


def words_of(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[tuple[str, int]]:
    """The words of a text after truncation, each with its number of subwords."""
    text = plain(text)
    encoding = tokenizer(text, add_special_tokens=False, verbose=False)
    positions, word_ids = truncate_head_tail(np.arange(len(encoding["input_ids"])), max_length - 2), encoding.word_ids()
    subwords = [list(group) for _, group in groupby(positions.tolist(), key=lambda position: word_ids[position])]
    spans = [(encoding.token_to_chars(group[0]).start, encoding.token_to_chars(group[-1]).end) for group in subwords]
    return [(text[start:end].strip(), len(group)) for (start, end), group in zip(spans, subwords, strict=True)]


def add_special_tokens(contents: list[np.ndarray], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[np.ndarray]:
    """Each review's subwords, int32 (tokens,), truncated, between [CLS] and [SEP]."""
    first, last = np.array([tokenizer.cls_token_id], np.int32), np.array([tokenizer.sep_token_id], np.int32)
    return [np.concatenate([first, truncate_head_tail(ids, max_length - 2), last]) for ids in contents]
