"""Pretrained checkpoints: a local folder as it is, or a model of the Hugging Face hub, fetched once into its cache."""

import json
from pathlib import Path

from popcorn.errors import UserError, say

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENISERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model")
TRIES = 3
ATTACH = "on Kaggle add the model to the notebook (Add Input, Models) and pass its folder with --model"


def fetch(model: str, family: str) -> Path:
    """The folder of `model`, complete and of the `family` (`model_type`), or a `UserError` that says what is wrong."""
    folder = Path(model) if Path(model).is_dir() else _download(model)
    require_parts(folder, "fetch or attach the whole model again")
    config = folder / CONFIG
    try:
        found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as problem:
        raise UserError(f"{config} is not a model's configuration ({problem}): fetch or attach the model again") from problem
    if found != family:
        raise UserError(f"--model {model} is of the family {found!r} ({config}), and this script fine-tunes {family!r} models")
    return folder


def require_parts(folder: Path, mend: str, with_weights: bool = True) -> None:
    """Raises `UserError` where one is missing: the library makes up a tokeniser of five words where it finds none."""
    for kind, names in (("", (CONFIG,)), ("weights: ", WEIGHTS if with_weights else ()), ("tokeniser: ", TOKENISERS)):
        if names and not any((folder / name).is_file() for name in names):
            raise UserError(f"the model in {folder} lacks its {kind}{' or '.join(names)}: {mend}")


def _download(model: str) -> Path:
    """The hub's copy, or that of an earlier fetch where the hub is out of reach; tried again where waiting may help."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from tenacity import Retrying, retry_if_not_exception_type, stop_after_attempt, wait_exponential

    final = (HFValidationError, RepositoryNotFoundError)
    attempts = Retrying(
        stop=stop_after_attempt(TRIES), wait=wait_exponential(), retry=retry_if_not_exception_type(final), reraise=True,
        before_sleep=lambda state: say(f"The hub did not answer ({type(state.outcome.exception()).__name__}): trying again"),
    )  # fmt: skip
    say(f"Model: {model}")
    try:
        patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
        folder = Path(attempts(snapshot_download, model, allow_patterns=patterns))
        if not any((folder / name).is_file() for name in WEIGHTS):  # older models have nothing else
            folder = Path(attempts(snapshot_download, model, allow_patterns=[*patterns, "pytorch_model*.bin"]))
        return folder
    except final as problem:
        raise UserError(
            f"--model {model} is neither a folder here nor a model of the hub that may be read: correct the name; or {ATTACH}"
        ) from problem
    except Exception as problem:  # of the network, of its client or of the disk: what helps is the same
        raise UserError(
            f"the hub is out of reach and {model} is not in the cache: switch the internet on; or {ATTACH}"
        ) from problem
