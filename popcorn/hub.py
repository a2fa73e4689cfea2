"""Pretrained checkpoints: a local folder as it is, or a model of the Hugging Face hub, fetched once into its cache."""

import errno
import json
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError

from popcorn.errors import UserError, say
from popcorn.packages import needs

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENISERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model")
TRIES = 3
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
UNAUTHORISED = 401
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


@contextmanager
def readable(checkpoint: Path):
    """Turns the failure to read a checkpoint's weights, cut short or a shard missing, into a `UserError`."""
    try:
        yield
    except (OSError, UnpicklingError, SafetensorError) as problem:
        raise UserError(
            f"the weights in {checkpoint} cannot be read ({str(problem).splitlines()[0]}): fetch or attach the whole model again"
        ) from problem


def _download(model: str) -> Path:
    """The hub's copy, or that of an earlier fetch where the hub is out of reach; tried again where waiting may help."""
    with needs("huggingface_hub", "fetching a model"):
        from huggingface_hub import HfApi, constants, snapshot_download
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    with needs("tenacity", "fetching a model"):
        from tenacity import Retrying, retry_if_not_exception_type, stop_after_attempt, wait_exponential

    final = (HFValidationError, RepositoryNotFoundError)
    attempts = Retrying(
        stop=stop_after_attempt(TRIES), wait=wait_exponential(), retry=retry_if_not_exception_type(final), reraise=True,
        before_sleep=lambda state: say(f"The hub did not answer ({type(state.outcome.exception()).__name__}): trying again"),
    )  # fmt: skip
    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]

    def snapshot(**options) -> Path:
        folder = Path(snapshot_download(model, allow_patterns=patterns, **options))
        if not any((folder / name).is_file() for name in WEIGHTS):  # older models have nothing else
            folder = Path(snapshot_download(model, allow_patterns=[*patterns, "pytorch_model*.bin"], **options))
        return folder

    def download() -> Path:
        # the download itself would wait for its first answer for ever
        HfApi().model_info(model, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        return snapshot()

    say(f"Model: {model}")
    try:
        return attempts(download)
    except final as problem:
        raise UserError(
            f"--model {model} is neither a folder here nor a model of the hub that may be read: correct the name; or {ATTACH}"
        ) from problem
    except Exception as problem:  # of the network, of its client or of the disk
        if getattr(problem, "errno", None) in UNWRITABLE:
            raise UserError(
                f"{model} cannot be kept in {constants.HF_HUB_CACHE} ({problem.strerror}): free some space, or set HF_HOME to "
                "another folder"
            ) from problem
        with suppress(Exception):
            return snapshot(local_files_only=True)
        if getattr(getattr(problem, "response", None), "status_code", None) == UNAUTHORISED:
            raise UserError(
                "the hub does not take the token that it was given: renew or unset HF_TOKEN, or hf auth logout"
            ) from problem
        raise UserError(
            f"the hub is out of reach and {model} is not in the cache: switch the internet on; or {ATTACH}"
        ) from problem
