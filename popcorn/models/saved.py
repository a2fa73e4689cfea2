"""What a run's folder holds of a model: weights, options, vocabulary and tokenizer.

`runs/<name>/seed-<n>` has `model.json` (script, options, tokenizer version), and the vocabulary of a model over words or the
tokenizer of a pretrained one. It has a folder for each split with the weights, as safetensors or plain arrays. Only the frozen
base of an adapter is elsewhere. Nothing in it can run code. `popcorn.inference.load` rebuilds a model from it.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from popcorn.config import RunConfig
from popcorn.data.word_tokenizer import TOKENIZER, pack, unpack
from popcorn.errors import UserError
from popcorn.utils.files import atomic_write, fingerprint, write_json
from popcorn.utils.packages import hide_unusable_quantizers, quiet_transformers
from popcorn.utils.scripts import load_script

METADATA, VOCABULARY, ARRAYS, WEIGHTS = "model.json", "vocabulary.txt", "model.npz", "best.safetensors"
PREDICTIONS = "predictions.npz"
"""a split's folder has this file once its training is finished"""
ENSEMBLE = "ensemble.npz"
"""file in runs/<name> of an ensemble"""
EXAMPLES = "examples.npz"
"""file in a split's folder with the tokens of the examples in a prompt, and the log-odds without a review"""
ENCODER = "encoder"
"""folder with configuration and tokenizer of a pretrained encoder, whose weights are among those of each split"""
FITTED = ("idf_", "ratio_", "vectors_", "counts_", "coef_", "intercept_", "classes_")
"""fitted attributes of scikit-learn's steps and ours, except for the vocabulary"""
NOT_STATE = {"vocabulary_", "fixed_vocabulary_", "stop_words_", "n_features_in_", "feature_names_in_", "n_iter_"}
"""fitted attributes that predictions do not depend on, and the vocabulary, which is saved as terms"""


@dataclass(frozen=True)
class Recipe:
    """What rebuilds a run's model, without its weights."""

    script: str
    kind: str
    """words, linear, subwords, adapter, label_words or zero_shot"""
    build: Callable
    config: RunConfig


def run_of(model: str, output_dir: Path) -> Path:
    """The folder of a run or an ensemble by name; of several seeds, the first.

    `model` may be a folder too. Raises `UserError` where there is none of that name.
    """
    if (Path(model) / METADATA).is_file() or "/" in model:
        return Path(model)
    folder = output_dir / "runs" / model
    runs = [run for run in sorted(folder.glob("seed-*")) if (run / METADATA).is_file() and run.suffix != ".earlier"]
    if not runs and (folder / ENSEMBLE).is_file():
        return folder
    if not runs:
        raise UserError(f"there is no run of {model} in {output_dir / 'runs'}: run its script first")
    return runs[0]


def finished_splits(folder: Path) -> list[str]:
    """Names of the splits of a run whose training is finished."""
    return [path.name for path in sorted(folder.iterdir()) if (path / PREDICTIONS).is_file() or (path / ARRAYS).is_file()]


def predictions_checksum(folder: Path) -> str:
    """SHA-256 of the files of predictions in a run's folder: another one after the run was trained again."""
    return fingerprint(*sorted(folder.glob(f"*/{PREDICTIONS}")))


def load_recipe(folder: Path) -> Recipe:
    """Reads what `save_metadata` wrote, and imports the script.

    Raises `UserError` where the folder is not that of a run, or has another tokenizer version, or does not fit the script.
    """
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        script, build, kind, options = (metadata[name] for name in ("script", "build", "kind", "config"))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(
            f"{folder} lacks its {METADATA}, or that cannot be read ({problem}): give the folder of a finished run, such as "
            "runs/lstm/seed-1, or run the script again"
        ) from problem
    if metadata.get("tokenizer") != TOKENIZER:
        raise UserError(f"{folder} was made with another tokenizer ({metadata.get('tokenizer')}): run {script}.py again")
    if kind not in ("words", "linear"):
        hide_unusable_quantizers()
        quiet_transformers()
    try:
        module = load_script(script)
    except FileNotFoundError as problem:
        raise UserError(f"{folder / METADATA} names the script {script!r}, which this repository does not have") from problem
    known = {field.name for field in fields(module.Config) if field.init}
    try:
        # JSON has no tuples, and no option is a list
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items() if name in known}
        return Recipe(script, kind, getattr(module, build), module.Config(**values))
    except (AttributeError, TypeError) as problem:
        raise UserError(f"{folder / METADATA} does not fit {script}.py ({problem}): run {script}.py again") from problem


def script_of(build: Callable) -> str:
    """Name of the script that defines a model's class or function.

    In a notebook the module has no file, so the name comes from the command line.
    """
    return Path(sys.argv[0]).stem if build.__module__ == "__main__" else build.__module__


def save_metadata(folder: Path, build: Callable, config: RunConfig, kind: str) -> None:
    """Writes what `load` needs to rebuild the model."""
    options = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    metadata = {"script": script_of(build), "build": build.__name__, "kind": kind, "tokenizer": TOKENIZER, "config": options}
    write_json(folder / METADATA, metadata)


def save_vocabulary(folder: Path, index: dict[str, int]) -> None:
    """Writes the words in the order of their ids, one per line."""
    with atomic_write(folder / VOCABULARY, "w") as file:
        file.writelines(word + "\n" for word in sorted(index, key=index.get))


def get_state(pipeline, first: int = 0) -> dict[str, np.ndarray]:
    """Fitted arrays of a scikit-learn pipeline by name, and its terms.

    `first`: index of the pipeline's first step. Raises `TypeError` where a step has a fitted attribute that is not saved: a
    model without it would predict something else.
    """
    for step in pipeline.named_steps.values():
        fitted = {name for name in vars(step) if name.endswith("_") and not name.startswith("_")}
        if unsaved := sorted(fitted - NOT_STATE - set(FITTED)):
            raise TypeError(f"{type(step).__name__} has the fitted attribute {unsaved[0]}: add it to FITTED in {__name__}")
    arrays = {
        f"{number}.{name}": getattr(step, name)
        for number, step in enumerate(pipeline.named_steps.values(), start=first)
        for name in FITTED
        if hasattr(step, name)
    }
    return arrays if first else arrays | {"terms": pack(pipeline[0].get_feature_names_out().tolist())}


def set_state(pipeline, arrays: dict[str, np.ndarray]) -> None:
    """Sets the state from `get_state` on the steps of an unfitted pipeline."""
    if "terms" in arrays:
        pipeline[0].vocabulary_ = {term: number for number, term in enumerate(unpack(arrays["terms"]))}
    for key, array in arrays.items():
        number, _, name = key.partition(".")
        if name:
            setattr(pipeline[int(number)], name, array)


def save_state(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the state from `get_state`."""
    with atomic_write(folder / ARRAYS) as file:
        np.savez_compressed(file, **arrays)


def load_state(path: Path) -> dict[str, np.ndarray]:
    """Reads what `save_state` wrote."""
    with np.load(require_file(path), allow_pickle=False) as stored:
        return dict(stored)


def num_steps(state: dict[str, np.ndarray]) -> int:
    """The number of a pipeline's first steps whose state this is."""
    return 1 + max((int(key.partition(".")[0]) for key in state if key != "terms"), default=-1)


def require_file(path: Path) -> Path:
    """The path; raises `UserError` where it does not exist."""
    if not path.exists():
        raise UserError(
            f"the model in {path.parent} lacks {path.name}: copy the whole folder of the run, or run its script again"
        )
    return path
