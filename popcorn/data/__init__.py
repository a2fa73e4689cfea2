"""Data: the competition's files, splits, tokenizers, word vectors, batches and submissions."""
