"""Loads the model of a finished run (`popcorn.models.saved`) as a predictor."""

import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError

from popcorn.config import RunConfig
from popcorn.data.word_tokenizer import UNKNOWN, tokenize
from popcorn.errors import UserError, first_line
from popcorn.inference.predictors import (
    Linear,
    Mean,
    Neural,
    Predictor,
    Stacked,
    load_hf_predictor,
    load_prompt_predictor,
    tokenized,
)
from popcorn.models.hub import find_checkpoint
from popcorn.models.saved import (
    ARRAYS,
    ENCODER,
    ENSEMBLE,
    EXAMPLES,
    VOCABULARY,
    WEIGHTS,
    finished_splits,
    load_recipe,
    load_state,
    num_steps,
    require_file,
    set_state,
)
from popcorn.models.stacker import load_ensemble
from popcorn.utils import hardware

DAMAGED = OSError, ValueError, LookupError, AttributeError, RuntimeError, EOFError, zlib.error, BadZipFile, SafetensorError
"""exceptions from reading a truncated or wrong file"""

AGAIN = "copy the run's whole folder, or run its script again"


def load(folder: Path, splits: list[str] | None = None, device: torch.device | None = None) -> Predictor:
    """The model of a run's folder: the refit, or the mean of the folds' models; or an ensemble.

    `splits`: names of the splits whose models are averaged instead. `device`: for a run's PyTorch model; otherwise it stays on
    the CPU, unless it is quantized. Raises `UserError` where the folder lacks a file, or has another tokenizer version, or
    PyTorch has no kernels for the GPU.
    """
    if (folder / ENSEMBLE).is_file():
        ensemble = load_ensemble(folder)
        return Stacked([load(folder.parent / run) for run in ensemble.runs], ensemble.coef, ensemble.intercept)
    recipe = load_recipe(folder)
    if device is not None or recipe.kind in ("adapter", "label_words", "zero_shot"):
        hardware.require_gpu_kernels()  # other models predict on the CPU
    again = f"run {recipe.script}.py again"
    finished = finished_splits(folder)
    names = splits or [name for name in finished if name == "refit"] or finished
    if not names:
        raise UserError(f"{folder} has no trained model: continue with {recipe.script}.py --resume, or run it again")
    fit_dirs = [folder / name for name in names]
    try:
        if recipe.kind == "linear":
            return _linear(recipe.build, recipe.config, fit_dirs)
        make = {
            "words": _words, "subwords": _subwords, "adapter": _adapter, "label_words": _label_words, "zero_shot": _zero_shot,
        }[recipe.kind]  # fmt: skip
        models = [make(recipe.build, recipe.config, fit_dir) for fit_dir in fit_dirs]
        if device is not None:
            for model in models:
                model.move_to(device)
        return Mean(models)
    except DAMAGED as problem:
        raise UserError(
            f"the model in {folder} cannot be read ({first_line(problem)}): copy the run's whole folder, or {again}"
        ) from problem


def _linear(build: Callable, config: RunConfig, fit_dirs: list[Path]) -> Linear:
    """One pipeline per split; steps that all splits share are in the run's own folder."""
    states = [load_state(fit_dir / ARRAYS) for fit_dir in fit_dirs]
    shared = {} if "terms" in states[0] else load_state(fit_dirs[0].parent / ARRAYS)
    num_shared = num_steps(shared)
    pipelines = [build(config) for _ in fit_dirs]
    for pipeline, arrays in zip(pipelines, states, strict=True):
        set_state(pipeline, arrays)
    set_state(pipelines[0], shared)
    return Linear(pipelines[0][:num_shared], [pipeline[num_shared:] for pipeline in pipelines])


def _words(build: Callable, config: RunConfig, fit_dir: Path) -> Neural:
    from safetensors.torch import load_file

    from popcorn.data.batching import EncodedReviews, truncate_head_tail

    words = require_file(fit_dir.parent / VOCABULARY).read_text(encoding="utf-8").split("\n")[:-1]
    index = {word: number for number, word in enumerate(words, start=UNKNOWN + 1)}
    weights = load_file(require_file(fit_dir / WEIGHTS))
    (vectors,) = (value for name, value in weights.items() if name.endswith("embedding.weight"))
    if UNKNOWN + 1 + len(words) != len(vectors):
        raise ValueError(f"{VOCABULARY} has {len(words)} words, and {WEIGHTS} {len(vectors) - UNKNOWN - 1}")
    model = build(config, torch.zeros(vectors.shape)).eval()
    model.load_state_dict(weights)

    def encode(texts: list[str]) -> EncodedReviews:
        return EncodedReviews(
            [np.array([index.get(word, UNKNOWN) for word in words], np.int32) for words in tokenized(texts)], config.max_length
        )

    def words_of(text: str) -> list[tuple[str, int]]:
        return [(word, 1) for word in truncate_head_tail(np.array(tokenize(text) or [""], dtype=object), config.max_length)]

    return Neural(model, model, model.embedding, encode, words_of, num_special_tokens=0)


def _subwords(build: Callable, config: RunConfig, fit_dir: Path) -> Neural:
    """A pretrained model of the library, or a module of this repository.

    `build` is a function for the former and a class for the latter, whose weights include the encoder's.
    """
    from popcorn.data.subword_tokenizer import TOKENIZER_FIX
    from popcorn.models.hub import WHOLE

    try:
        return _fine_tuned(build, config, fit_dir)
    except UserError as problem:
        raise UserError(str(problem).replace(WHOLE, AGAIN).replace(TOKENIZER_FIX, AGAIN)) from problem


def _fine_tuned(build: Callable, config: RunConfig, fit_dir: Path) -> Neural:
    """Rebuilds the model, with its tokenizer.

    With a function, the saved model is complete. With a class, only its weights are saved.
    """
    from safetensors.torch import load_file
    from transformers import AutoModel

    from popcorn.models.hub import require_parts
    from popcorn.models.pretrained import architecture, require_saved

    if not isinstance(build, type):
        require_parts(fit_dir / "model", AGAIN)
        model = build(config, fit_dir / "model")
        require_saved(model, fit_dir / "model")
        # the library only warns of a missing weight, and initializes it at random
        model.load_state_dict(_with_own_names(load_file(require_file(fit_dir / "model" / "model.safetensors"))))
        return load_hf_predictor(model, config, fit_dir / "model")
    encoder = fit_dir.parent / ENCODER
    require_parts(encoder, AGAIN, with_weights=False)
    weights = load_file(require_file(fit_dir / WEIGHTS))
    with tempfile.TemporaryDirectory() as folder:  # the class starts from a checkpoint, whose weights are then replaced
        AutoModel.from_config(architecture(encoder)).save_pretrained(folder)
        model = build(config, Path(folder))
    model.load_state_dict(weights)
    return load_hf_predictor(model, config, encoder)


def _with_own_names(weights: dict) -> dict:
    """Renames a layer norm's weights to the module's names.

    Runs of earlier versions have the names of BERT's first checkpoints.
    """
    first = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    return {
        next((name.removesuffix(old) + new for old, new in first.items() if name.endswith(old)), name): value
        for name, value in weights.items()
    }


def _adapter(build: Callable, config: RunConfig, fit_dir: Path) -> Neural:
    """The adapter on its base model, which is downloaded or in a local folder."""
    from popcorn.training import adapters

    config.adapter = require_file(fit_dir / "model")
    _find_base(config)
    return load_hf_predictor(adapters.build_adapter(build, config, config.checkpoint), config, config.checkpoint)


def _label_words(build: Callable, config: RunConfig, fit_dir: Path) -> Neural:
    """The adapter on a decoder, with the prompt that it was trained with."""
    from popcorn.data.prompt import NO_EXAMPLES
    from popcorn.training.label_word_task import build_label_words, load_prompt

    config.adapter = require_file(fit_dir / "model")
    _find_base(config)
    prompt = load_prompt(config)
    return load_prompt_predictor(build_label_words(build, config, prompt.label_ids), prompt, NO_EXAMPLES)


def _zero_shot(build: Callable, config: RunConfig, fit_dir: Path) -> Neural:
    """A decoder that was not trained, with the split's examples and its calibration."""
    from popcorn.training.label_word_task import load_decoder, load_prompt

    found = load_state(fit_dir / EXAMPLES)
    _find_base(config)
    prompt = load_prompt(config)
    return load_prompt_predictor(load_decoder(config, prompt.label_ids), prompt, found["examples"], float(found["prior"]))


def _find_base(config: RunConfig) -> None:
    """Finds the frozen model, and sets bits and precision for this machine."""
    from popcorn.training import adapters

    config.precision = "fp32"
    for bits in (config.bits, None, 16):  # it may have been trained on other hardware, or with other packages
        with suppress(UserError):
            config.bits = adapters.resolve_bits(bits)
            break
    find_checkpoint(config)
