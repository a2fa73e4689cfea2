"""DeBERTa-v2 and v3 with room for what PEFT's methods put beside the text: virtual tokens before it, or keys and values.

The library's classifier reads the first position, which is [CLS] no longer where virtual tokens stand before it, and takes no
`past_key_values`, so that prefix tuning is refused. Here both are understood, and everything else is the library's and PEFT's.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Cache, DebertaV2Config, DebertaV2ForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention


class PrefixSelfAttention(DisentangledSelfAttention):
    """Disentangled attention of a text to itself and to learned keys and values beside it (Li & Liang 2021; Liu et al. 2022).

    A prefix has no place in the text: its columns get no relative bias, and their scores are the content's alone, by the same
    scale as the text's. It asks nothing itself, so that the text's length, its relative positions and whatever reads them
    (the convolution, the pooler) are those of the model without it.
    """

    prefix: tuple[Tensor, Tensor, Tensor] | None = None
    """keys and values, each (batch, heads, prefix, head), and where they may be read, bool (batch, prefix); None without"""

    def transpose_for_scores(self, x: Tensor, attention_heads: int) -> Tensor:
        """(batch, time, heads * head) -> (batch * heads, time, head), beside autocast in its type.

        A quantized projection answers in its input's type, float32 behind a layer norm, and the library would fill masked scores
        of half precision with the smallest float32.
        """
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        return super().transpose_for_scores(x, attention_heads)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, output_attentions: bool = False,
        query_states: Tensor | None = None, relative_pos: Tensor | None = None, rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """hidden_states (batch, time, hidden), mask (batch, 1, time, time) -> (batch, time, hidden)"""
        if self.prefix is None:
            return super().forward(
                hidden_states, attention_mask, output_attentions, query_states, relative_pos, rel_embeddings
            )  # fmt: skip
        asking = hidden_states if query_states is None else query_states
        heads = self.num_attention_heads
        query, key, value = (
            self.transpose_for_scores(project(states), heads)  # each (batch * heads, time, head)
            for project, states in ((self.query_proj, asking), (self.key_proj, hidden_states), (self.value_proj, hidden_states))
        )
        keys, values, readable = self.prefix
        scale_factor = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
        scale = (query.shape[-1] * scale_factor) ** 0.5
        scores = query @ (key.transpose(1, 2) / scale)  # (batch * heads, time, time)
        if self.relative_attention:
            rel_embeddings = self.pos_dropout(rel_embeddings)
            scores = scores + self.disentangled_attention_bias(query, key, relative_pos, rel_embeddings, scale_factor)
        beside = query @ (keys.flatten(0, 1).to(key).transpose(1, 2) / scale)  # (batch * heads, time, prefix)
        # behind the text's columns, whose sums are then those without a prefix to the last digit
        scores = torch.cat([scores, beside], dim=-1).unflatten(0, (-1, heads))
        text = attention_mask.bool().expand(len(readable), -1, -1, -1)
        mask = torch.cat([text, readable[:, None, None].expand(-1, -1, text.shape[2], -1)], dim=-1)
        weights = self.dropout(scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)).to(value.dtype)
        of_text, of_prefix = weights.split([key.shape[1], keys.shape[2]], dim=-1)
        context = of_text @ value.unflatten(0, (-1, heads)) + of_prefix @ values.to(value)  # (batch, heads, time, head)
        context = context.transpose(1, 2).flatten(2)  # (batch, time, heads * head)
        return context, weights if output_attentions else None


class DebertaClassifier(DebertaV2ForSequenceClassification):
    """tokens and attention mask (batch, time) -> logits (batch, 2); with labels (batch,) their mean cross-entropy too"""

    virtual_tokens = 0
    """how many stand before the text in `inputs_embeds`"""

    def __init__(self, config: DebertaV2Config):
        super().__init__(config)
        for layer in self.deberta.encoder.layer:
            layer.attention.self = PrefixSelfAttention(config)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, *, attention_mask: Tensor, inputs_embeds: Tensor | None = None,
        past_key_values: Cache | None = None, labels: Tensor | None = None, **options,
    ) -> SequenceClassifierOutput:  # fmt: skip
        """`past_key_values`: a prefix for every layer, whose columns the attention mask begins with."""
        length = past_key_values.get_seq_length() if past_key_values is not None else 0
        readable, attention_mask = attention_mask[:, :length].bool(), attention_mask[:, length:]
        for number, layer in enumerate(self.deberta.encoder.layer):
            prefix = past_key_values.layers[number] if length else None
            # left in place for the backward pass, which may compute the layer once more
            layer.attention.self.prefix = (prefix.keys, prefix.values, readable) if length else None
        # the text's places are those it has alone, where a model counts them from the beginning
        places = None
        if inputs_embeds is not None and self.virtual_tokens:
            text = torch.arange(inputs_embeds.shape[1] - self.virtual_tokens, device=inputs_embeds.device)
            places = torch.cat([torch.arange(self.virtual_tokens, device=text.device), text]).unsqueeze(0)
        states = self.deberta(
            input_ids, attention_mask=attention_mask, position_ids=places, inputs_embeds=inputs_embeds, **options
        )[0]  # (batch, time, hidden)
        text = states[:, self.virtual_tokens if inputs_embeds is not None else 0 :]
        # the pooler and the head learn in float32, whatever the frozen layers below them are kept in
        pooled = self.pooler(text.to(self.classifier_type))
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    @property
    def classifier_type(self) -> torch.dtype:
        """The type of the numbers that the head is kept in."""
        return next(self.classifier.parameters()).dtype
