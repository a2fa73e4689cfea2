"""Finds the config.json of a model, which is all that `plan` needs of it."""

from contextlib import suppress
from pathlib import Path

from popcorn.errors import UserError
from popcorn.models.hub import CONFIG, not_fetched, require_family
from popcorn.models.published_sizes import PUBLISHED
from popcorn.utils.files import write_json
from popcorn.utils.packages import needs

TIMEOUT = 5  # seconds to wait for the hub


def config_folder(model: str, model_type: str | tuple[str, ...], work: Path) -> Path:
    """A folder with the model's config.json: `model` itself, a published one written to `work`, or the hub's.

    Raises `UserError` where there is none, or it has another `model_type`.
    """
    if Path(model).is_dir() and (Path(model) / CONFIG).is_file():
        folder = Path(model)
    elif Path(model).exists():
        raise UserError(f"--model {model} is not a folder with a {CONFIG}: give one, or a model of the hub")
    elif model in PUBLISHED:
        folder = work / model.replace("/", "--")
        write_json(folder / CONFIG, PUBLISHED[model])
    else:
        folder = _from_hub(model)
    require_family(model, folder, model_type)
    return folder


def _from_hub(model: str) -> Path:
    """The folder of the hub's or its cache's config.json; raises `UserError` where neither has it."""
    with needs("huggingface_hub", f"--model {model}, which is not a folder here,"):
        from huggingface_hub import HfApi, hf_hub_download
    with suppress(Exception):
        return Path(hf_hub_download(model, CONFIG, local_files_only=True)).parent
    try:
        HfApi().model_info(model, timeout=TIMEOUT)  # the download itself would retry for a long time
        return Path(hf_hub_download(model, CONFIG)).parent
    except Exception as problem:  # from the network, its client, or a wrong name
        raise UserError(f"the plan needs the model's {CONFIG}, and {not_fetched(model, problem)}") from problem
