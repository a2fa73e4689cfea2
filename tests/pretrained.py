"""Checkpoints that the tests of fine-tuning start from: a real small BERT of the package index, and tiny ones of each family."""

from pathlib import Path

import layouts
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)  # fmt: skip

MINILM = layouts.minilm()
"""six layers, 384 wide, with the tokeniser that all checkpoints here share; the package's code is never run"""
WORDS = 30_522
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": WORDS}
FAMILIES = {
    "bert": (BertModel, BertConfig(**SMALL)),
    "distilbert": (DistilBertModel, DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=WORDS)),
    "roberta": (RobertaModel, RobertaConfig(**SMALL, max_position_embeddings=514, pad_token_id=0)),
}


def write(folder: Path, family: str, **changes) -> Path:
    """A tiny checkpoint of the family, with random weights, in the folder."""
    build, config = FAMILIES[family]
    build(type(config)(**(config.to_dict() | changes))).save_pretrained(folder)
    AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
    return folder
