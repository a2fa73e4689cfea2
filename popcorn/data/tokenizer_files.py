"""Names of a pretrained tokenizer's files, without loading torch or transformers."""

TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model")
BESIDE_TOKENIZERS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""optional files that change how a tokenizer splits text"""
