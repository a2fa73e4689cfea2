"""Pretrained checkpoints: a local folder, or a model from Kaggle or the Hugging Face hub."""

import errno
import json
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError

from safetensors import SafetensorError

from popcorn.config import PretrainedConfig, ZeroShotConfig, is_kaggle_handle
from popcorn.data.tokenizer_files import TOKENIZERS
from popcorn.errors import UserError, first_line, log
from popcorn.models.kaggle_hub import fetch_from_kaggle
from popcorn.utils.packages import needs

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TRIES = 3
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
UNAUTHORIZED, FORBIDDEN, TIMEOUT, TOO_MANY = 401, 403, 408, 429
ATTACH = "on Kaggle add the model to the notebook (Add Input, Models) and pass its handle or folder with --model"
WHOLE = "fetch or attach the whole model again"


def find_checkpoint(config: PretrainedConfig | ZeroShotConfig) -> None:
    """Sets `config.checkpoint`, the folder of `--model`; downloads a model once.

    Raises `UserError` where the model cannot be downloaded, is incomplete, or has another type than the script's.
    """
    if config.checkpoint is None:
        config.checkpoint = fetch(config.model, config.MODEL_TYPE)


def fetch(model: str, family: str | tuple[str, ...]) -> Path:
    """The folder of `model`, complete and of the right `model_type`; otherwise a `UserError`."""
    if Path(model).is_file():
        raise UserError(f"--model {model} is a file: give the folder that it is in")
    fetch_model = fetch_from_kaggle if is_kaggle_handle(model) else _download
    folder = Path(model) if Path(model).is_dir() else fetch_model(model)
    require_parts(folder, WHOLE)
    weight_files(folder)
    require_family(model, folder, family)
    return folder


def require_family(model: str, folder: Path, family: str | tuple[str, ...]) -> None:
    """Raises `UserError` where the folder's config.json has another `model_type`; `family` may be several."""
    families, found = (family,) if isinstance(family, str) else family, read_config(folder / CONFIG).get("model_type")
    if found not in families:
        accepted = " or ".join(map(repr, families))
        raise UserError(
            f"--model {model} is of the family {found!r} ({folder / CONFIG}), and this script is for {accepted} models"
        )


def read_config(path: Path) -> dict:
    """A checkpoint's config.json; raises `UserError` where it is not valid."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} is not a model's configuration and cannot be read ({problem}): {WHOLE}") from problem
    return found


def require_parts(folder: Path, fix: str, with_weights: bool = True) -> None:
    """Raises `UserError` where a part of the model is missing.

    Without tokenizer files the library would make a tokenizer of five words.
    """
    for part, names in (("", (CONFIG,)), ("weights: ", WEIGHTS if with_weights else ()), ("tokenizer: ", TOKENIZERS)):
        if names and not any((folder / name).is_file() for name in names):
            raise UserError(f"the model in {folder} lacks its {part}{' or '.join(names)}: {fix}")


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint's weights; safetensors before torch's files.

    Raises `UserError` where the folder has no weights, or both a single file and an index of several files. The same for an index
    that cannot be read or names a file outside the folder.
    """
    names = [name for name in WEIGHTS if (folder / name).is_file()]
    if not names:
        raise UserError(f"the model in {folder} lacks its weights: {' or '.join(WEIGHTS)}: {WHOLE}")
    if f"{names[0]}.index.json" in names:
        raise UserError(
            f"{folder} has both {names[0]} and {names[0]}.index.json, which may be two models: remove the one that is not meant"
        )
    if not names[0].endswith(".json"):
        return [folder / names[0]]
    with readable(folder):
        shards = sorted(set(json.loads((folder / names[0]).read_text(encoding="utf-8"))["weight_map"].values()))
        ending = ".safetensors" if names[0] == WEIGHTS[1] else ".bin"
        if not shards or any(Path(shard).name != shard or not shard.endswith(ending) for shard in shards):
            raise ValueError(f"{names[0]} names files that are none of this folder")
    return [folder / shard for shard in shards]


@contextmanager
def readable(checkpoint: Path):
    """Turns errors from reading weights (a truncated file, a missing shard) into a `UserError`.

    torch raises a `RuntimeError` or an `EOFError` for a damaged file. An index in another format leads to a `KeyError`.
    """
    try:
        yield
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, UnpicklingError,
            SafetensorError) as problem:  # fmt: skip
        raise UserError(f"the weights in {checkpoint} cannot be read ({first_line(problem)}): {WHOLE}") from problem


def _download(model: str) -> Path:
    """Downloads the model from the hub, or takes it from the cache; retries temporary failures."""
    with needs("huggingface_hub", "fetching a model"):
        from huggingface_hub import HfApi, constants, snapshot_download
        from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    with needs("tenacity", "fetching a model"):
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

    attempts = Retrying(
        stop=stop_after_attempt(TRIES), wait=wait_exponential(), retry=retry_if_exception(may_pass), reraise=True,
        before_sleep=lambda state: log(f"The hub did not answer ({type(state.outcome.exception()).__name__}): trying again"),
    )  # fmt: skip
    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]

    def snapshot(**options) -> Path:
        folder = Path(snapshot_download(model, allow_patterns=patterns, **options))
        if not any((folder / name).is_file() for name in WEIGHTS):  # older models have nothing else
            folder = Path(snapshot_download(model, allow_patterns=[*patterns, "pytorch_model*.bin"], **options))
        return folder

    def download() -> Path:
        # snapshot_download has no timeout for its first request
        HfApi().model_info(model, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        return snapshot()

    log(f"Model: {model}")
    try:
        folder = attempts(download)
    except Exception as problem:  # from the network, its client or the disk
        is_of_the_name = isinstance(problem, (HFValidationError, RepositoryNotFoundError))
        is_of_the_name &= not isinstance(problem, GatedRepoError)  # which may have been open to this user before
        if not is_of_the_name and getattr(problem, "errno", None) not in UNWRITABLE:
            with suppress(Exception):
                return snapshot(local_files_only=True)
        raise not_fetched(model, problem) from problem
    # the model is incomplete on the hub too, so another download does not help
    require_parts(folder, f"{model} has none on the hub, so take another model")
    return folder


def may_pass(problem: BaseException) -> bool:
    """Whether the failure may be temporary, so that another try can help."""
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    problem = _cause(problem)
    if isinstance(problem, LocalEntryNotFoundError):  # the client raises this for a lost connection
        return True
    if isinstance(problem, (HFValidationError, OfflineModeIsEnabled, EntryNotFoundError)):
        return False
    status = _status(problem)
    is_refused = status is not None and status // 100 == 4 and status not in (TIMEOUT, TOO_MANY)
    return not is_refused and getattr(problem, "errno", None) not in UNWRITABLE


def _cause(problem: BaseException) -> BaseException:
    """The hub's error behind the client's report that a file is not cached."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return problem.__cause__ or problem if isinstance(problem, LocalEntryNotFoundError) else problem


def _status(problem: BaseException) -> int | None:
    return getattr(getattr(problem, "response", None), "status_code", None)


def not_fetched(model: str, problem: BaseException) -> UserError:
    """The `UserError` for a failed download, with advice for each type of error."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        DisabledRepoError,
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    problem = _cause(problem)
    status = _status(problem)
    if getattr(problem, "errno", None) in UNWRITABLE:
        return UserError(
            f"{model} cannot be kept in {constants.HF_HUB_CACHE} ({problem.strerror}): free some space, or set HF_HOME to "
            "another folder"
        )
    if isinstance(problem, OfflineModeIsEnabled):
        return UserError(f"{model} is not in the cache and HF_HUB_OFFLINE forbids access to the hub: unset it; or {ATTACH}")
    if isinstance(problem, GatedRepoError):
        return UserError(
            f"{model} is gated: accept its terms on {constants.ENDPOINT}/{model}, and set HF_TOKEN to a token of that account; "
            f"or {ATTACH}"
        )
    if isinstance(problem, (HFValidationError, RepositoryNotFoundError)):
        private = "" if isinstance(problem, HFValidationError) else ", or set HF_TOKEN where the model is private"
        return UserError(
            f"--model {model} is neither a folder here nor an accessible model of the hub: correct the name{private}; or {ATTACH}"
        )
    if isinstance(problem, DisabledRepoError):
        return UserError(f"the hub has disabled {model}, for everyone: take another model")
    if isinstance(problem, RevisionNotFoundError):
        return UserError(f"{model} has no such revision on the hub, so it may be empty: take another model")
    if isinstance(problem, EntryNotFoundError) and not isinstance(problem, LocalEntryNotFoundError):
        return UserError(f"{model} lacks a file on the hub ({first_line(problem)}): take another model")
    if status == UNAUTHORIZED:
        return UserError("the hub rejects the token: renew or unset HF_TOKEN, or run hf auth logout")
    if status == FORBIDDEN:
        return UserError(f"the hub's token has no access to {model}: set HF_TOKEN to one that has, or unset it; or {ATTACH}")
    if status == TOO_MANY:
        return UserError(
            f"too many requests to the hub from here, and {model} is not in the cache: wait some minutes, or set HF_TOKEN, "
            f"which allows more requests; or {ATTACH}"
        )
    if status is not None and status // 100 == 4 and status != TIMEOUT:
        return UserError(f"the hub refuses to give {model} ({first_line(problem)}): take another model; or {ATTACH}")
    if status is not None:
        return UserError(f"the hub is out of reach (status {status}) and {model} is not in the cache: try later; or {ATTACH}")
    return UserError(f"the hub is out of reach and {model} is not in the cache: switch the internet on; or {ATTACH}")
