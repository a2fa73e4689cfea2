"""Models that a run has left, `popcorn.saved`, as something to ask again."""

import json
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError

from popcorn.config import RunConfig
from popcorn.data.word_tokenizer import TOKENIZER, UNKNOWN, tokenize
from popcorn.errors import UserError
from popcorn.inference.predictors import Linear, Mean, Neural, Predictor, load_hf_predictor, tokenized
from popcorn.models.hub import find_checkpoint
from popcorn.models.saved import ARRAYS, ENCODER, METADATA, VOCABULARY, WEIGHTS, require_file, set_state
from popcorn.runs.run_dir import PREDICTIONS
from popcorn.utils.packages import hide_unusable_quantizers, quiet_transformers
from popcorn.utils.scripts import load_script

DAMAGED = OSError, ValueError, LookupError, AttributeError, RuntimeError, EOFError, zlib.error, BadZipFile, SafetensorError
"""what reading raises where a file is cut, or is something else"""

AGAIN = "copy the run's whole folder, or run its script again"


def load(folder: Path) -> Predictor:
    """The model of a run's folder; of several fits the one on all reviews, else the mean of the folds.

    Raises `UserError` where the folder lacks a part or was made by other rules.
    """
    try:
        about = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        script, build, kind, options = (about[name] for name in ("script", "build", "kind", "config"))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(
            f"{folder} lacks its {METADATA}, or that cannot be read ({problem}): give the folder of a finished run, such as "
            "runs/lstm/seed-1, or run the script again"
        ) from problem
    if about.get("tokenizer") != TOKENIZER:
        raise UserError(f"{folder} was made with another way to read texts ({about.get('tokenizer')}): run {script}.py again")
    if kind in ("subwords", "adapter"):
        hide_unusable_quantizers()
        quiet_transformers()
    module = _module(script, folder)
    known = {field.name for field in fields(module.Config) if field.init}
    config = module.Config(**{name: value for name, value in options.items() if name in known})
    done = [path for path in sorted(folder.iterdir()) if (path / PREDICTIONS).is_file() or (path / ARRAYS).is_file()]
    parts = [path for path in done if path.name == "refit"] or done
    if not parts:
        raise UserError(f"{folder} has no finished fit in it: go on with {script}.py --resume, or run it again")
    try:
        if kind == "linear":
            return _linear(getattr(module, build), config, parts)
        make = {"words": _words, "subwords": _subwords, "adapter": _adapter}[kind]
        return Mean([make(getattr(module, build), config, part) for part in parts])
    except DAMAGED as problem:
        said = (str(problem) or repr(problem)).splitlines()[0]
        raise UserError(
            f"the model in {folder} cannot be read ({said}): copy the run's whole folder, or run {script}.py again"
        ) from problem


def _module(script: str, folder: Path) -> ModuleType:
    try:
        return load_script(script)
    except FileNotFoundError as problem:
        raise UserError(f"{folder / METADATA} names the script {script!r}, which this repository does not have") from problem


def _linear(build: Callable, config: RunConfig, parts: list[Path]) -> Linear:
    """One pipeline for each fit; the first steps, where all fits have them in common, are those of the run's own folder."""
    own = [_arrays(part / ARRAYS) for part in parts]
    shared = {} if "terms" in own[0] else _arrays(parts[0].parent / ARRAYS)
    common = 1 + max((int(key.partition(".")[0]) for key in shared if key != "terms"), default=-1)
    pipelines = [build(config) for _ in parts]
    for pipeline, arrays in zip(pipelines, own, strict=True):
        set_state(pipeline, arrays)
    set_state(pipelines[0], shared)
    return Linear(pipelines[0][:common], [pipeline[common:] for pipeline in pipelines])


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(require_file(path), allow_pickle=False) as stored:
        return dict(stored)


def _words(build: Callable, config: RunConfig, part: Path) -> Neural:
    import torch
    from safetensors.torch import load_file

    from popcorn.data.batching import EncodedReviews, truncate_head_tail

    words = require_file(part.parent / VOCABULARY).read_text(encoding="utf-8").split("\n")[:-1]
    index = {word: number for number, word in enumerate(words, start=UNKNOWN + 1)}
    weights = load_file(require_file(part / WEIGHTS))
    (vectors,) = (value for name, value in weights.items() if name.endswith("embedding.weight"))
    if UNKNOWN + 1 + len(words) != len(vectors):
        raise ValueError(f"{VOCABULARY} has {len(words)} words, and {WEIGHTS} {len(vectors) - UNKNOWN - 1}")
    model = build(config, torch.zeros(vectors.shape)).eval()
    model.load_state_dict(weights)

    def read(texts: list[str]) -> EncodedReviews:
        return EncodedReviews(
            [np.array([index.get(word, UNKNOWN) for word in words], np.int32) for words in tokenized(texts)], config.max_length
        )

    def words_of(text: str) -> list[tuple[str, int]]:
        return [(word, 1) for word in truncate_head_tail(np.array(tokenize(text) or [""], dtype=object), config.max_length)]

    return Neural(model, model.embedding, read, words_of, frame=0)


def _subwords(build: Callable, config: RunConfig, part: Path) -> Neural:
    """A fine-tuned model. Raises `UserError` with what helps for a run, where a checkpoint would be fetched again."""
    from popcorn.data.subword_tokenizer import TOKENIZER_MEND
    from popcorn.models.hub import WHOLE

    try:
        return _fine_tuned(build, config, part)
    except UserError as problem:
        raise UserError(str(problem).replace(WHOLE, AGAIN).replace(TOKENIZER_MEND, AGAIN)) from problem


def _fine_tuned(build: Callable, config: RunConfig, part: Path) -> Neural:
    """The library's kind of module, which a function loads, or a class of ours, whose weights have the encoder's in them."""
    from safetensors.torch import load_file
    from transformers import AutoModel

    from popcorn.models.hub import require_parts
    from popcorn.models.pretrained import architecture, require_saved

    if not isinstance(build, type):
        require_parts(part / "model", AGAIN)
        model = build(config, part / "model")
        require_saved(model, part / "model")
        # the library warns of a weight that is missing, and makes one up
        model.load_state_dict(_with_own_names(load_file(require_file(part / "model" / "model.safetensors"))))
        return load_hf_predictor(model, config, part / "model")
    encoder = part.parent / ENCODER
    require_parts(encoder, AGAIN, with_weights=False)
    weights = load_file(require_file(part / WEIGHTS))
    with tempfile.TemporaryDirectory() as folder:  # the class begins with a whole checkpoint, of weights that give way at once
        AutoModel.from_config(architecture(encoder)).save_pretrained(folder)
        model = build(config, Path(folder))
    model.load_state_dict(weights)
    return load_hf_predictor(model, config, encoder)


def _with_own_names(weights: dict) -> dict:
    """A layer norm's weights by the module's names; runs of earlier versions have those of BERT's first checkpoints."""
    first = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    return {
        next((name.removesuffix(old) + new for old, new in first.items() if name.endswith(old)), name): value
        for name, value in weights.items()
    }


def _adapter(build: Callable, config: RunConfig, part: Path) -> Neural:
    """The adapter on its base, which is fetched, or found where `model` says."""
    from popcorn.training import adapters

    config.adapter, config.precision = require_file(part / "model"), "fp32"
    for bits in (config.bits, None, 16):  # trained on other hardware than this is, or beside other packages
        with suppress(UserError):
            config.bits = adapters.resolve_bits(bits)
            break
    find_checkpoint(config)
    return load_hf_predictor(adapters.build_adapter(build, config, config.checkpoint), config, config.checkpoint)
