"""Pretrained checkpoints from Kaggle's models: attached to the notebook, or downloaded."""

from pathlib import Path

from popcorn.errors import UserError, first_line, log
from popcorn.utils import kaggle
from popcorn.utils.packages import needs

UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404


def fetch_from_kaggle(handle: str) -> Path:
    """The folder of the model `owner/model/framework/variation[/version]`.

    On Kaggle it is attached, elsewhere it is downloaded once. Raises `UserError` where that fails.
    """
    folder = attached_model(handle)
    if folder:
        return folder
    with needs("kagglehub", "fetching a model from Kaggle"):
        import kagglehub

    log(f"Model: {handle} (Kaggle)")
    try:
        return Path(kagglehub.model_download(handle))
    except Exception as problem:  # from the network, its client or the disk
        raise not_fetched(handle, problem) from problem


def not_fetched(handle: str, problem: Exception) -> UserError:
    """The `UserError` for a failed download, with advice for each type of error."""
    status = getattr(getattr(problem, "response", None), "status_code", None)
    if status == NOT_FOUND:
        return UserError(f"--model {handle} is neither a folder here nor a model on Kaggle: correct the name")
    if status in (UNAUTHORIZED, FORBIDDEN):
        return UserError(
            f"Kaggle does not give {handle} to this account: accept its terms on https://www.kaggle.com/models/{handle}, and set "
            "KAGGLE_API_TOKEN"
        )
    if isinstance(problem, OSError) and problem.errno is not None:
        return UserError(
            f"{handle} cannot be kept ({problem.strerror}): free some space, or set KAGGLEHUB_CACHE to another folder"
        )
    reason = "is out of reach" if isinstance(problem, OSError) and status is None else f"fails ({first_line(problem)})"
    return UserError(
        f"Kaggle {reason}, and {handle} is not attached: switch the internet on; or on Kaggle add the model to the notebook (Add "
        "Input, Models)"
    )


def attached_model(handle: str) -> Path | None:
    """The folder of a model that is attached to the notebook; None where it is not.

    A handle without a version gets the newest one. The case of letters in Kaggle's folders may differ from that in its handles.
    """
    owner, *parts = handle.split("/")
    for start, names in ((kaggle.INPUT / "models", [owner, *parts]), (kaggle.INPUT, parts)):
        folder = start
        for name in names:
            folder = next((each for each in _folders(folder) if each.name.lower() == name.lower()), folder / name)
        if len(parts) == 3:
            versions = [each for each in _folders(folder) if each.name.isdigit()]
            folder = max(versions, key=lambda each: int(each.name), default=folder / "no version")
        if folder.is_dir():
            return folder
    return None


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
