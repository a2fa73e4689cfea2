"""DeBERTa-v2 and v3 with support for PEFT's virtual tokens and prefixes.

The library's classifier uses the first position, which is not [CLS] after virtual tokens. It has no `past_key_values`, so it does
not support prefix tuning. The classes here support both. Everything else comes from the library and PEFT.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Cache, DebertaV2Config, DebertaV2ForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

OVERFLOW_GUARD = 16.0
"""a power of two, so dividing and multiplying by it are exact; larger than the scale of scores with heads of up to 85 units"""


class PrefixSelfAttention(DisentangledSelfAttention):
    """Disentangled attention with trainable prefix keys and values (Li & Liang 2021).

    A prefix has no position in the text. So its columns get no relative bias: their scores are content-to-content, with the
    text's scale. The prefix has no queries. So the text's length and relative positions stay the same, and the convolution and
    the pooler work as without a prefix (Liu et al. 2022).
    """

    prefix: tuple[Tensor, Tensor, Tensor] | None = None
    """keys and values, each (batch, heads, prefix, head), and their mask, bool (batch, prefix); None without a prefix"""

    def transpose_for_scores(self, x: Tensor, attention_heads: int) -> Tensor:
        """(batch, time, heads * head) -> (batch * heads, time, head), in autocast's dtype

        A quantized projection returns its input's dtype, which is float32 after a layer norm. Then the library would fill masked
        half-precision scores with the minimum of float32.
        """
        device_type = x.device.type
        if torch.is_autocast_enabled(device_type):
            x = x.to(torch.get_autocast_dtype(device_type))
        return super().transpose_for_scores(x, attention_heads)

    def disentangled_attention_bias(
        self, query_layer: Tensor, key_layer: Tensor, relative_pos: Tensor | None, rel_embeddings: Tensor, scale_factor: int
    ) -> Tensor:
        """Scores between contents and relative positions, (batch * heads, time, time).

        The library divides the products by the scale only after it has made them, so that they can overflow in half precision
        where the scores do not. Both terms are linear in query or key.
        """
        bias = super().disentangled_attention_bias(
            query_layer / OVERFLOW_GUARD, key_layer / OVERFLOW_GUARD, relative_pos, rel_embeddings, scale_factor
        )
        bias *= OVERFLOW_GUARD  # in place: it is as large as the scores
        return bias

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, output_attentions: bool = False,
        query_states: Tensor | None = None, relative_pos: Tensor | None = None, rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """hidden_states (batch, time, hidden), mask (batch, 1, time, time) -> (batch, time, hidden)"""
        if self.prefix is None:
            return super().forward(
                hidden_states, attention_mask, output_attentions, query_states, relative_pos, rel_embeddings
            )  # fmt: skip
        query_states = hidden_states if query_states is None else query_states
        heads = self.num_attention_heads
        query, key, value = (
            self.transpose_for_scores(project(states), heads)  # each (batch * heads, time, head)
            for project, states in (
                (self.query_proj, query_states), (self.key_proj, hidden_states), (self.value_proj, hidden_states)
            )
        )  # fmt: skip
        keys, values, prefix_mask = self.prefix
        scale_factor = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
        scale = (query.shape[-1] * scale_factor) ** 0.5
        scores = query @ (key.transpose(1, 2) / scale)  # (batch * heads, time, time)
        if self.relative_attention:
            rel_embeddings = self.pos_dropout(rel_embeddings)
            scores = scores + self.disentangled_attention_bias(query, key, relative_pos, rel_embeddings, scale_factor)
        prefix_scores = query @ (keys.flatten(0, 1).to(key).transpose(1, 2) / scale)  # (batch * heads, time, prefix)
        # after the text's columns: their sums then equal those without a prefix to the last digit
        scores = torch.cat([scores, prefix_scores], dim=-1).unflatten(0, (-1, heads))
        text_mask = attention_mask.bool().expand(len(prefix_mask), -1, -1, -1)
        mask = torch.cat([text_mask, prefix_mask[:, None, None].expand(-1, -1, text_mask.shape[2], -1)], dim=-1)
        weights = self.dropout(scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)).to(value.dtype)
        text_weights, prefix_weights = weights.split([key.shape[1], keys.shape[2]], dim=-1)
        context = text_weights @ value.unflatten(0, (-1, heads)) + prefix_weights @ values.to(value)  # (batch, heads, time, head)
        context = context.transpose(1, 2).flatten(2)  # (batch, time, heads * head)
        return context, weights if output_attentions else None


class DebertaClassifier(DebertaV2ForSequenceClassification):
    """tokens and attention mask (batch, time) -> logits (batch, 2), and optionally the loss"""

    virtual_tokens = 0
    """number of virtual tokens before the text in `inputs_embeds`"""

    def __init__(self, config: DebertaV2Config):
        super().__init__(config)
        for layer in self.deberta.encoder.layer:
            layer.attention.self = PrefixSelfAttention(config)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, *, attention_mask: Tensor, inputs_embeds: Tensor | None = None,
        past_key_values: Cache | None = None, labels: Tensor | None = None, **options,
    ) -> SequenceClassifierOutput:  # fmt: skip
        """`past_key_values`: a prefix for every layer; the attention mask starts with its columns."""
        length = past_key_values.get_seq_length() if past_key_values is not None else 0
        prefix_mask, attention_mask = attention_mask[:, :length].bool(), attention_mask[:, length:]
        for layer_id, layer in enumerate(self.deberta.encoder.layer):
            prefix = past_key_values.layers[layer_id] if length else None
            # stays there for the backward pass, which may recompute the layer
            layer.attention.self.prefix = (prefix.keys, prefix.values, prefix_mask) if length else None
        # with absolute positions, the text's positions start at 0 as without virtual tokens
        position_ids = None
        if inputs_embeds is not None and self.virtual_tokens:
            text = torch.arange(inputs_embeds.shape[1] - self.virtual_tokens, device=inputs_embeds.device)
            position_ids = torch.cat([torch.arange(self.virtual_tokens, device=text.device), text]).unsqueeze(0)
        states = self.deberta(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, inputs_embeds=inputs_embeds, **options
        )[0]  # (batch, time, hidden)
        text = states[:, self.virtual_tokens if inputs_embeds is not None else 0 :]
        # pooler and head are trained in float32, whatever the dtype of the frozen layers below them
        pooled = self.pooler(text.to(self.classifier_type))
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    @property
    def classifier_type(self) -> torch.dtype:
        """The dtype of the head's parameters."""
        return next(self.classifier.parameters()).dtype
