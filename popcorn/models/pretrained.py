"""A pretrained model from a checkpoint's folder: its sizes, all of its weights, and nothing else that lies there.

The library builds a model from whatever config.json says, fills what has no weights with random numbers, and takes up an adapter
that it finds beside them. Here config.json gives the architecture alone, the script its recipe, and weights are complete.
"""

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CONFIG_MAPPING, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from popcorn.errors import UserError, first_line
from popcorn.models.hub import CONFIG, WHOLE, read_config, readable, weight_files
from popcorn.utils.files import fingerprint

ARCHITECTURE = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "initializer_range",
    "hidden_dropout_prob", "attention_probs_dropout_prob",
    # DistilBERT's names for the same
    "dim", "n_layers", "n_heads", "hidden_dim", "activation", "sinusoidal_pos_embds", "dropout", "attention_dropout",
    # DeBERTa's
    "relative_attention", "max_relative_positions", "position_buckets", "norm_rel_ebd", "share_att_key", "pos_att_type",
    "position_biased_input", "conv_kernel_size", "conv_groups", "conv_act", "embedding_size", "attention_head_size",
    # what the tokenizer is made by, where its own files do not say
    "tokenizer_class",
)  # fmt: skip
"""what of config.json says which function the weights are; the rest is of the task that the checkpoint was left by"""
WRAPPER = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""names that torch's own wrappers put into a weight's name, in front or in between"""
ANCHOR = "embeddings.word_embeddings.weight"
"""in every family the first weight; what stands before it is the name of the model within the checkpoint"""
INSIDE = re.compile(r"(^|\.)(embeddings|encoder|transformer)\.")
"""weights of the model itself; a checkpoint's others are heads for other tasks"""
MATRICES = re.compile(r"\.layer\.\d+\..*weight$|word_embeddings\.weight$")
"""weights that a pretrained model has at random or learned, and never all zero"""


def architecture(checkpoint: Path, **recipe) -> PretrainedConfig:
    """The library's config of the checkpoint's architecture, with the recipe's own settings, and its defaults for the rest.

    Raises `UserError` where config.json cannot be read, names no family of the library or has values that are none.
    """
    path = checkpoint / CONFIG
    found = read_config(path)
    try:
        return CONFIG_MAPPING[found["model_type"]](**({name: found[name] for name in ARCHITECTURE if name in found} | recipe))
    except Exception as problem:  # each version of the library has its own for a value of another type
        raise UserError(f"{path} has an invalid value ({first_line(problem)}): {WHOLE}") from problem


def load_pretrained(
    model_class: type[PreTrainedModel],
    checkpoint: Path,
    *,
    new: Collection[str] = (),
    dtype: str | torch.dtype = "float32",
    device_map: dict | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    **recipe,
) -> PreTrainedModel:
    """As `model_class.from_pretrained`, with every weight of the model from the checkpoint.

    `new`: the parts that may begin at random where the checkpoint lacks them, such as a head. `recipe`: settings of the config;
    all that is not the architecture comes from here, never from the checkpoint. The model's `random_weights` names what is new.
    Raises `UserError` where the checkpoint cannot be read, is damaged, or does not fit the model.
    """
    config = architecture(checkpoint, **recipe)
    if not isinstance(config, model_class.config_class):
        raise UserError(f"{checkpoint / CONFIG} is of the family {config.model_type!r}, which {model_class.__name__} is not")
    weights = unwrapped(read_weights(checkpoint), model_class.base_model_prefix, checkpoint)
    require_sound(weights, checkpoint)
    try:
        # without a folder the library has nothing to find beside the weights: no adapter, no second file, no code
        model, info = model_class.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, device_map=device_map, quantization_config=quantization_config,
            ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError) as problem:
        raise UserError(f"no model can be made of {checkpoint} ({first_line(problem)}): {WHOLE}") from problem
    require_complete(model, info, new, checkpoint)
    model.random_weights = sorted(info["missing_keys"])
    model.name_or_path = model.config.name_or_path = str(checkpoint)
    return model


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """All tensors of the checkpoint by their names, on the CPU. Nothing is unpickled but tensors.

    Raises `UserError` where a file is missing, damaged or holds something else.
    """
    weights: dict[str, Tensor] = {}
    for path in weight_files(checkpoint):
        with readable(checkpoint):
            found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
            odd = next((name for name, value in found.items() if not isinstance(value, Tensor)), None)
            if odd is not None:
                raise ValueError(f"{path.name} has no weights under {odd!r}")
            weights |= found
    return weights


def unwrapped(weights: dict[str, Tensor], prefix: str, checkpoint: Path) -> dict[str, Tensor]:
    """The weights under the library's names, without what training has wrapped around the model.

    `prefix`: what the library calls the model within a classifier. Names of another family stay as they are. Raises
    `UserError` where two weights would get one name.
    """
    plain = [WRAPPER.sub("", name) for name in weights]
    anchors = {name.removesuffix(ANCHOR) for name in plain if re.search(rf"(^|\.){re.escape(ANCHOR)}$", name)}
    if len(anchors) > 1:
        raise UserError(
            f"the weights in {checkpoint} are of {len(anchors)} models ({', '.join(sorted(anchors))}): take one of them alone"
        )
    (before,) = anchors or {""}
    own = f"{prefix}."
    last = before.removesuffix(".").rpartition(".")[2]
    is_another_family = last != prefix and last.replace("_", "-") in CONFIG_MAPPING
    if before.endswith(own):
        before, own = before.removesuffix(own), ""
    if before and not is_another_family:
        plain = [own + name.removeprefix(before) if name.startswith(before) else name for name in plain]
    found = dict(zip(plain, weights.values(), strict=True))
    if len(found) < len(weights):
        twice = next(name for name in plain if plain.count(name) > 1)
        raise UserError(f"the weights in {checkpoint} have {twice} twice, once in a wrapper: save the model without it")
    return found


def require_sound(weights: dict[str, Tensor], checkpoint: Path) -> None:
    """Raises `UserError` for weights that are no numbers, that are all zero, or that are quantized."""
    for name, value in weights.items():
        if MATRICES.search(name) and (not value.is_floating_point() or value.itemsize == 1):
            raise UserError(
                f"the weights in {checkpoint} are quantized ({name} is {value.dtype}): take the model as it was before"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"the weights in {checkpoint} are damaged ({name} has values that are no numbers): {WHOLE}")
        if MATRICES.search(name) and value.ndim > 1 and not value.any():
            raise UserError(f"the weights in {checkpoint} are damaged ({name} is all zeros): {WHOLE}")


def require_complete(model: PreTrainedModel, info: dict, new: Collection[str], checkpoint: Path) -> None:
    """Raises `UserError` where a weight of the model is missing, has another shape, or one of the checkpoint has no place.

    `info`: the library's account of what it has loaded.
    """
    prefix = f"{model.base_model_prefix}."
    total = len(model.state_dict())
    other_shape = {name: (tuple(its), tuple(wanted)) for name, its, wanted in info["mismatched_keys"]}
    missing = [name for name in info["missing_keys"] if name not in other_shape and not _is_in(name.removeprefix(prefix), new)]
    if missing:
        hint = " (bert_scratch.py needs no pooler)" if all("pooler" in name for name in missing) else ""
        raise UserError(
            f"the weights in {checkpoint} do not fit this script's model: {len(missing)} of {total} are missing, such as "
            f"{min(missing)}{_beside(info['unexpected_keys'])}: take a model whose weights have the library's names{hint}"
        )
    if other_shape:
        name, (its, wanted) = min(other_shape.items())
        fix = (
            "take a model with two classes, or one without a classifier"
            if all(_is_in(name.removeprefix(prefix), new) for name in other_shape)
            else f"{CONFIG} is of another model, so {WHOLE}"
        )
        raise UserError(
            f"the weights in {checkpoint} do not fit this script's model: {len(other_shape)} of {total} have another shape, such "
            f"as {name}, {its} in place of {wanted}: {fix}"
        )
    left = [name for name in info["unexpected_keys"] if INSIDE.search(name) and not name.endswith(("_ids", ".inv_freq"))]
    if left:
        raise UserError(
            f"the weights in {checkpoint} do not fit this script's model: {len(left)} of them have no place in it, such as "
            f"{min(left)}: {CONFIG} is of another model, so {WHOLE}"
        )


def require_saved(model: PreTrainedModel, folder: Path) -> None:
    """Raises `UserError` unless all weights of the model, its head too, come from the folder that a run has left."""
    if model.random_weights:
        raise UserError(
            f"the model in {folder} lacks {len(model.random_weights)} of its weights, such as {model.random_weights[0]}: "
            "copy the run's whole folder, or run its script again"
        )


def _is_in(name: str, parts: Collection[str]) -> bool:
    return name.partition(".")[0] in parts


def _beside(unexpected: Collection[str]) -> str:
    return f" (they have {min(unexpected)}, which the model has not)" if unexpected else ""


@cache
def weights_checksum(checkpoint: Path) -> str:
    """SHA-256 over the files that a checkpoint's weights are read from: it tells copies of one name apart."""
    return fingerprint(*(path for path in weight_files(checkpoint) if path.is_file()))
