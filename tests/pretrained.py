"""Checkpoints that the tests of fine-tuning start from: a real small BERT of the package index, and tiny ones of each family."""

from functools import cache
from pathlib import Path

from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaModel,
)  # fmt: skip

from benchmarks import layouts

MINILM = layouts.minilm()
"""six layers, 384 wide, with the tokenizer that all checkpoints here share; the package's code is never run"""
WORDS = 30_522
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": WORDS}
FAMILIES = {
    "bert": (BertModel, BertConfig(**SMALL)),
    "distilbert": (DistilBertModel, DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=WORDS)),
    "roberta": (RobertaModel, RobertaConfig(**SMALL, max_position_embeddings=514, pad_token_id=0)),
    # as the larger ones are: relative attention with the contents' own projections, and a convolution beside the first layer
    "deberta-v2": (
        DebertaV2Model,
        DebertaV2Config(
            **SMALL,
            relative_attention=True,
            position_buckets=8,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
            conv_kernel_size=3,
            type_vocab_size=0,
        ),
    ),
    # one layer with attention to all words, one with attention to neighbors
    "modernbert": (
        ModernBertModel, ModernBertConfig(**SMALL, pad_token_id=0, local_attention=8, global_attn_every_n_layers=2)
    ),
}  # fmt: skip


@cache
def tokenizer(length: int) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MINILM, model_max_length=length)


def write(folder: Path, family: str, **changes) -> Path:
    """A tiny checkpoint of the family, with random weights, in the folder."""
    build, config = FAMILIES[family]
    build(type(config)(**(config.to_dict() | changes))).save_pretrained(folder)
    tokenizer(8192 if family == "modernbert" else 512).save_pretrained(folder)
    return folder
