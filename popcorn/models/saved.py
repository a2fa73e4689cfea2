"""What a run leaves of its model: weights as safetensors or plain arrays, and beside them all that turns a text into a verdict.

A run's folder, `runs/<name>/seed-<n>`, has `model.json` (the script, its options, how texts are read), the vocabulary of a model
over words or the tokenizer of a pretrained one, and a folder for each fit with its weights; an adapter's frozen base alone is
elsewhere. Nothing in it can run code. `popcorn.loading` makes a model of it again.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from popcorn.config import RunConfig
from popcorn.data.word_tokenizer import TOKENIZER, pack, unpack
from popcorn.errors import UserError
from popcorn.utils.files import atomic_write, write_json

METADATA, VOCABULARY, ARRAYS, WEIGHTS = "model.json", "vocabulary.txt", "model.npz", "best.safetensors"
ENCODER = "encoder"
"""a folder: the configuration and the tokenizer of a pretrained encoder, whose weights are among the fit's own"""
FITTED = ("idf_", "ratio_", "vectors_", "counts_", "coef_", "intercept_", "classes_")
"""what scikit-learn's steps and ours learn, apart from the vocabulary"""


def script_of(build: Callable) -> str:
    """The name of the script that a model's class or function comes from; in a notebook a module has no file to tell it."""
    return Path(sys.argv[0]).stem if build.__module__ == "__main__" else build.__module__


def save_metadata(folder: Path, build: Callable, config: RunConfig, kind: str) -> None:
    """Writes what `load` needs to know of a run."""
    options = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    about = {"script": script_of(build), "build": build.__name__, "kind": kind, "tokenizer": TOKENIZER, "config": options}
    write_json(folder / METADATA, about)


def save_vocabulary(folder: Path, index: dict[str, int]) -> None:
    """Writes the words in the order of their ids, one a line."""
    with atomic_write(folder / VOCABULARY, "w") as file:
        file.writelines(word + "\n" for word in sorted(index, key=index.get))


def learned(pipeline, first: int = 0) -> dict[str, np.ndarray]:
    """The numbers that a scikit-learn pipeline's steps have learned, by name, and the terms; `first`: the first step's number."""
    arrays = {
        f"{number}.{name}": getattr(step, name)
        for number, step in enumerate(pipeline.named_steps.values(), start=first)
        for name in FITTED
        if hasattr(step, name)
    }
    return arrays if first else arrays | {"terms": pack(pipeline[0].get_feature_names_out().tolist())}


def restore(pipeline, arrays: dict[str, np.ndarray]) -> None:
    """Gives the steps of an unfitted pipeline what `learned` took from them."""
    if "terms" in arrays:
        pipeline[0].vocabulary_ = {term: number for number, term in enumerate(unpack(arrays["terms"]))}
    for key, array in arrays.items():
        number, _, name = key.partition(".")
        if name:
            setattr(pipeline[int(number)], name, array)


def keep_learned(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes what `learned` gives."""
    with atomic_write(folder / ARRAYS) as file:
        np.savez_compressed(file, **arrays)


def need(path: Path) -> Path:
    """The path, or a `UserError` where nothing is there."""
    if not path.exists():
        raise UserError(
            f"the model in {path.parent} lacks {path.name}: copy the whole folder of the run, or run its script again"
        )
    return path
