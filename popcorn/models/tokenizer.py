"""The tokenizer of a pretrained checkpoint."""

from importlib import import_module
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from popcorn.config import PretrainedConfig, ZeroShotConfig
from popcorn.data.subword_tokenizer import SENTENCEPIECE, TOKENIZER_FIX
from popcorn.errors import UserError, first_line
from popcorn.models.pretrained import architecture
from popcorn.utils.packages import needs


def read_tokenizer(checkpoint: Path, special: tuple[str, ...] = ("cls", "sep", "pad")) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint's folder, only from classes of the library.

    Raises `UserError` where it cannot be read, lacks a `special` token, or has more tokens than the model has vectors.
    """
    config = architecture(checkpoint)
    require_sentencepiece(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, config=config, trust_remote_code=False, local_files_only=True)
        vocabulary = tokenizer.get_vocab()
    except Exception as problem:  # the library and its Rust parts raise many types of exceptions
        raise UserError(f"the tokenizer in {checkpoint} cannot be read ({first_line(problem)}): {TOKENIZER_FIX}") from problem
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in special}
    lacking = [name for name, token_id in ids.items() if token_id is None or token_id == tokenizer.unk_token_id]
    if lacking:
        raise UserError(f"the tokenizer in {checkpoint} has no {' and no '.join(lacking)} token: {TOKENIZER_FIX}")
    token, largest = max(vocabulary.items(), key=lambda entry: entry[1])
    if largest >= config.vocab_size:
        raise UserError(
            f"the tokenizer in {checkpoint} is of another model: its token {token!r} has the id {largest}, and the model has "
            f"vectors for {config.vocab_size}: {TOKENIZER_FIX}"
        )
    return tokenizer


def require_sentencepiece(checkpoint: Path) -> None:
    """Raises `MissingPackage` where the tokenizer needs SentencePiece and it is not installed.

    The library would otherwise mistake a SentencePiece file for another format.
    """
    if not (checkpoint / "tokenizer.json").is_file() and any((checkpoint / name).is_file() for name in SENTENCEPIECE):
        purpose = f"the tokenizer in {checkpoint}"
        with needs("sentencepiece", purpose):
            import_module("sentencepiece")
        with needs("protobuf", purpose):
            import_module("google.protobuf")


def load_tokenizer(config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, checked against `--max-length`.

    Raises `UserError` as `read_tokenizer` does, and where `--max-length` is larger than the model's maximum.
    """
    tokenizer = read_tokenizer(config.checkpoint)
    require_positions(config, tokenizer)
    if config.max_length < 3:
        raise UserError(f"--max-length is {config.max_length}: two of the tokens are special, give at least 3")
    return tokenizer


def read_decoder_tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a decoder, which needs no special tokens.

    Without a padding token of its own, it takes another token for it: the attention mask excludes padding, so any will do.
    """
    tokenizer = read_tokenizer(checkpoint, special=())
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def require_positions(
    config: PretrainedConfig | ZeroShotConfig, tokenizer: PreTrainedTokenizerBase, num_examples: int = 0
) -> None:  # fmt: skip
    """Raises `UserError` where `--max-length` and the tokens of examples are more than the model's maximum."""
    positions = architecture(config.checkpoint).max_position_embeddings
    if config.MODEL_TYPE == "roberta":  # its positions start after the id of the padding token
        positions -= tokenizer.pad_token_id + 1
    maximum = min(tokenizer.model_max_length, positions)
    if num_examples and config.max_length + num_examples > maximum:
        raise UserError(
            f"--max-length is {config.max_length}, and the examples have {num_examples} tokens: {config.model} allows at most "
            f"{maximum} together, so give a smaller --shots or --shot-length"
        )
    if config.max_length > maximum:
        raise UserError(f"--max-length is {config.max_length}: {config.model} allows at most {maximum}")
