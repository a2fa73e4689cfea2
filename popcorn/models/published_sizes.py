"""Published configurations of the scripts' models, so that `plan` needs no network."""

ENCODER = {
    "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
}  # fmt: skip
BERT = ENCODER | {
    "model_type": "bert", "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "pad_token_id": 0, "type_vocab_size": 2,
    "vocab_size": 30_522,
}  # fmt: skip
DISTILBERT = {
    "model_type": "distilbert", "activation": "gelu", "attention_dropout": 0.1, "dim": 768, "dropout": 0.1, "hidden_dim": 3072,
    "initializer_range": 0.02, "max_position_embeddings": 512, "n_heads": 12, "n_layers": 6, "pad_token_id": 0,
    "sinusoidal_pos_embds": False, "vocab_size": 30_522,
}  # fmt: skip
ROBERTA = ENCODER | {
    "model_type": "roberta", "layer_norm_eps": 1e-5, "max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1,
    "vocab_size": 50_265,
}  # fmt: skip
MODERNBERT = {
    "model_type": "modernbert", "global_attn_every_n_layers": 3, "hidden_size": 768, "intermediate_size": 1152,
    "local_attention": 128, "max_position_embeddings": 8192, "num_attention_heads": 12, "num_hidden_layers": 22,
    "pad_token_id": 50_283, "vocab_size": 50_368,
}  # fmt: skip
DEBERTA = ENCODER | {
    "model_type": "deberta-v2", "layer_norm_eps": 1e-7, "max_position_embeddings": 512, "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm", "pad_token_id": 0, "pooler_dropout": 0, "pooler_hidden_act": "gelu", "pos_att_type": "p2c|c2p",
    "position_biased_input": False, "position_buckets": 256, "relative_attention": True, "share_att_key": True,
    "type_vocab_size": 0, "vocab_size": 128_100,
}  # fmt: skip
CONVOLUTION = {"conv_act": "gelu", "conv_kernel_size": 3}
"""the convolution parallel to the first layer of DeBERTa-v2's models"""
QWEN = {
    "model_type": "qwen3", "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144,
    "max_position_embeddings": 40_960, "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "vocab_size": 151_936,
}  # fmt: skip


def _deberta(layers: int, hidden: int, heads: int, **more) -> dict:
    return DEBERTA | more | {
        "num_hidden_layers": layers, "hidden_size": hidden, "pooler_hidden_size": hidden, "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }  # fmt: skip


PUBLISHED = {
    "bert-base-uncased": BERT,
    "distilbert-base-uncased": DISTILBERT,
    "roberta-base": ROBERTA,
    "answerdotai/ModernBERT-base": MODERNBERT,
    "Qwen/Qwen3-1.7B": QWEN,
    "microsoft/deberta-v2-xxlarge": _deberta(48, 1536, 24, **CONVOLUTION),
    "microsoft/deberta-v2-xlarge": _deberta(24, 1536, 24, **CONVOLUTION),
    "microsoft/deberta-v3-large": _deberta(24, 1024, 16),
    "microsoft/deberta-v3-base": _deberta(12, 768, 12),
    "microsoft/deberta-v3-small": _deberta(6, 768, 12),
    "microsoft/deberta-v3-xsmall": _deberta(12, 384, 6),
}
"""by the model's name on the hub, as in its config.json"""
