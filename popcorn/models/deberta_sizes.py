"""Published configurations of Microsoft's DeBERTa models, so that `plan` needs no network."""

SHARED = {
    "model_type": "deberta-v2", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02, "layer_norm_eps": 1e-7, "max_position_embeddings": 512, "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm", "pooler_dropout": 0, "pooler_hidden_act": "gelu", "pos_att_type": "p2c|c2p",
    "position_biased_input": False, "position_buckets": 256, "relative_attention": True, "share_att_key": True,
    "type_vocab_size": 0, "vocab_size": 128_100,
}  # fmt: skip
CONVOLUTION = {"conv_act": "gelu", "conv_kernel_size": 3}
"""the convolution parallel to the first layer of version 2's models"""


def _sizes(layers: int, hidden: int, heads: int, **more) -> dict:
    return SHARED | more | {
        "num_hidden_layers": layers, "hidden_size": hidden, "pooler_hidden_size": hidden, "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }  # fmt: skip


PUBLISHED = {
    "microsoft/deberta-v2-xxlarge": _sizes(48, 1536, 24, **CONVOLUTION),
    "microsoft/deberta-v2-xlarge": _sizes(24, 1536, 24, **CONVOLUTION),
    "microsoft/deberta-v3-large": _sizes(24, 1024, 16),
    "microsoft/deberta-v3-base": _sizes(12, 768, 12),
    "microsoft/deberta-v3-small": _sizes(6, 768, 12),
    "microsoft/deberta-v3-xsmall": _sizes(12, 384, 6),
}
"""by the model's name on the hub, as in its config.json"""
