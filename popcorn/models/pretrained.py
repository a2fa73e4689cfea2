"""Loads a pretrained model from a checkpoint's folder: its architecture and all weights, nothing else.

The library follows any setting in config.json, fills missing weights with random values, and loads an adapter that it finds in
the folder. Here, config.json gives only the architecture, the script gives the recipe, and all weights must be there.
"""

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CONFIG_MAPPING, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from popcorn.config import DECODERS
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
    # ModernBERT's; the older settings of its attention layers and rotary positions too
    "hidden_activation", "norm_eps", "norm_bias", "attention_bias", "mlp_bias", "decoder_bias", "classifier_bias",
    "classifier_activation", "embedding_dropout", "mlp_dropout", "initializer_cutoff_factor", "local_attention", "layer_types",
    "rope_parameters", "global_attn_every_n_layers", "global_rope_theta", "local_rope_theta",
    # for the tokenizer, where its files do not have it
    "tokenizer_class",
)  # fmt: skip
"""settings of config.json that define the architecture; the others belong to the task that the checkpoint was saved for"""
DECODER_ARCHITECTURE = (
    "num_key_value_heads", "head_dim", "hidden_activation", "rms_norm_eps", "attention_bias", "mlp_bias", "qk_layernorm",
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "sliding_window", "use_sliding_window", "max_window_layers",
    "layer_types", "sliding_window_pattern", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
    "use_bidirectional_attention", "partial_rotary_factor", "original_max_position_embeddings", "rope_parameters",
    # how versions before transformers 5 saved `rope_parameters`
    "rope_theta", "rope_scaling", "rope_local_base_freq",
)  # fmt: skip
"""more such settings, of decoders"""
WRAPPER = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""prefixes that torch's wrapper classes add to the names of weights"""
ANCHOR = re.compile(r"(|.*\.)embeddings\.(?:word|tok)_embeddings\.weight$")
"""the first weight in every model type; the text before it is the model's name within the checkpoint"""
INSIDE = re.compile(r"(^|\.)(embeddings|encoder|transformer)\.|^(model\.)?(layers|final_norm)\.")
"""weights of the model itself; others belong to heads for other tasks"""
MATRICES = re.compile(r"(^|\.)layers?\.\d+\..*weight$|((word|tok)_embeddings|embed_tokens)\.weight$")
"""weights that are never all zero in a pretrained model"""


def architecture(checkpoint: Path, **recipe) -> PretrainedConfig:
    """The library's config: the checkpoint's architecture, the recipe's settings, defaults otherwise.

    Raises `UserError` where config.json cannot be read, has an unknown `model_type` or an invalid value.
    """
    path = checkpoint / CONFIG
    found = read_config(path)
    try:
        names = ARCHITECTURE + (DECODER_ARCHITECTURE if found["model_type"] in DECODERS else ())
        return CONFIG_MAPPING[found["model_type"]](**({name: found[name] for name in names if name in found} | recipe))
    except Exception as problem:  # versions of the library raise different exceptions for a value of a wrong type
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
    """Like `model_class.from_pretrained`, but every weight must be in the checkpoint.

    `new`: modules that may start at random where the checkpoint lacks them, such as a head. `recipe`: settings of the config.
    Only the architecture comes from the checkpoint. The model's `random_weights` are the names of its new weights. With torch's
    meta device as the default, no weights are read. Raises `UserError` where the checkpoint cannot be read, is damaged, or does
    not fit the model.
    """
    config = architecture(checkpoint, **recipe)
    if not isinstance(config, model_class.config_class):
        raise UserError(f"{checkpoint / CONFIG} is of the family {config.model_type!r}, which {model_class.__name__} is not")
    if torch.get_default_device().type == "meta":  # for shapes alone, no weights are needed
        return model_class(config)
    weights = unwrapped(read_weights(checkpoint), model_class.base_model_prefix, checkpoint)
    require_sound(weights, checkpoint)
    try:
        # without a folder, the library cannot load anything else: no adapter, no other file, no code
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
    """All tensors of the checkpoint by name, on the CPU; only tensors are unpickled.

    Raises `UserError` where a file is missing, damaged or not a file of weights.
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
    """The weights with the library's names, without prefixes of wrapper classes.

    `prefix`: the library's name of the model within a classifier. Names of another model type stay unchanged. Raises `UserError`
    where two weights would get the same name.
    """
    plain = [WRAPPER.sub("", name) for name in weights]
    anchors = {match[1] for match in map(ANCHOR.match, plain) if match}
    if len(anchors) > 1:
        raise UserError(
            f"the weights in {checkpoint} are of {len(anchors)} models ({', '.join(sorted(anchors))}): take one of them alone"
        )
    (before,) = anchors or {""}
    model_prefix = f"{prefix}."
    last = before.removesuffix(".").rpartition(".")[2]
    is_another_family = last != prefix and last.replace("_", "-") in CONFIG_MAPPING
    if before.endswith(model_prefix):
        before, model_prefix = before.removesuffix(model_prefix), ""
    if before and not is_another_family:
        plain = [model_prefix + name.removeprefix(before) if name.startswith(before) else name for name in plain]
    found = dict(zip(plain, weights.values(), strict=True))
    if len(found) < len(weights):
        twice = next(name for name in plain if plain.count(name) > 1)
        raise UserError(f"the weights in {checkpoint} have {twice} twice, once in a wrapper: save the model without it")
    return found


def require_sound(weights: dict[str, Tensor], checkpoint: Path) -> None:
    """Raises `UserError` for weights that are not finite, all zero, or quantized."""
    for name, value in weights.items():
        if MATRICES.search(name) and (not value.is_floating_point() or value.itemsize == 1):
            raise UserError(
                f"the weights in {checkpoint} are quantized ({name} is {value.dtype}): take the model as it was before"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"the weights in {checkpoint} are damaged ({name} has values that are not numbers): {WHOLE}")
        if MATRICES.search(name) and value.ndim > 1 and not value.any():
            raise UserError(f"the weights in {checkpoint} are damaged ({name} is all zeros): {WHOLE}")


def require_complete(model: PreTrainedModel, info: dict, new: Collection[str], checkpoint: Path) -> None:
    """Raises `UserError` for a missing, misshaped or unexpected weight of the model.

    `info`: the library's loading info.
    """
    prefix = f"{model.base_model_prefix}."
    total = len(model.state_dict())
    other_shape = {name: (tuple(found), tuple(expected)) for name, found, expected in info["mismatched_keys"]}
    missing = [name for name in info["missing_keys"] if name not in other_shape and not _is_in(name.removeprefix(prefix), new)]
    if missing and set(missing) <= {"lm_head.weight", "lm_head.bias"}:
        raise UserError(
            f"the model in {checkpoint} has no language-model head (its weights lack lm_head.weight): take the whole causal "
            "language model, not its base"
        )
    if missing:
        hint = " (bert_scratch.py needs no pooler)" if all("pooler" in name for name in missing) else ""
        raise UserError(
            f"the weights in {checkpoint} do not fit this script's model: {len(missing)} of {total} are missing, such as "
            f"{min(missing)}{_note_on(info['unexpected_keys'])}: take a model whose weights have the library's names{hint}"
        )
    if other_shape:
        name, (found, expected) = min(other_shape.items())
        fix = (
            "take a model with two classes, or one without a classifier"
            if all(_is_in(name.removeprefix(prefix), new) for name in other_shape)
            else f"{CONFIG} is of another model, so {WHOLE}"
        )
        raise UserError(
            f"the weights in {checkpoint} do not fit this script's model: {len(other_shape)} of {total} have another shape, such "
            f"as {name}, {found} in place of {expected}: {fix}"
        )
    left = [name for name in info["unexpected_keys"] if INSIDE.search(name) and not name.endswith(("_ids", ".inv_freq"))]
    if left:
        raise UserError(
            f"the weights in {checkpoint} do not fit this script's model: {len(left)} of them are not part of it, such as "
            f"{min(left)}: {CONFIG} is of another model, so {WHOLE}"
        )


def require_saved(model: PreTrainedModel, folder: Path) -> None:
    """Raises `UserError` unless all weights, including the head, come from the run's folder."""
    if model.random_weights:
        raise UserError(
            f"the model in {folder} lacks {len(model.random_weights)} of its weights, such as {model.random_weights[0]}: "
            "copy the run's whole folder, or run its script again"
        )


def _is_in(name: str, parts: Collection[str]) -> bool:
    return name.partition(".")[0] in parts


def _note_on(unexpected: Collection[str]) -> str:
    return f" (they have {min(unexpected)}, which the model has not)" if unexpected else ""


@cache
def weights_checksum(checkpoint: Path) -> str:
    """SHA-256 of the files of a checkpoint's weights.

    It tells copies with the same name apart.
    """
    return fingerprint(*(path for path in weight_files(checkpoint) if path.is_file()))
