"""Decoders that classify by the logits of two words, without a new head.

logit(positive word) - logit(negative word) is the log-odds of a positive review. Only these two logits are computed, at the last
position of each prompt: those of all words at all positions would take gigabytes.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    Gemma3ForCausalLM,
    LlamaForCausalLM,
    Phi3ForCausalLM,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen3ForCausalLM,
)
from transformers.modeling_outputs import SequenceClassifierOutput


class LabelWords:
    """Replaces a causal language model's forward pass by that of a classifier with two classes."""

    label_ids: tuple[int, int]
    """token ids of the negative and of the positive word"""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, **_
    ) -> SequenceClassifierOutput:  # fmt: skip
        """Tokens and mask (batch, time), padded on either side -> float32 logits (batch, 2), and the loss.

        Other arguments, which PEFT passes for text generation, are ignored.
        """
        # counted from each prompt's first token, so that padding on the left changes nothing
        position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        states = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state  # (batch, time, hidden)
        last = position_ids.argmax(1)  # the first of the largest positions: padding on the right repeats it
        state = states[torch.arange(len(states), device=states.device), last].float()
        rows = list(self.label_ids)
        # as products and sums, which autocast leaves in float32
        logits = (state.unsqueeze(1) * self.lm_head.weight[rows].float()).sum(-1)  # (batch, 2)
        if self.lm_head.bias is not None:
            logits = logits + self.lm_head.bias[rows].float()
        softcap = getattr(self.config, "final_logit_softcapping", None)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        loss = None if labels is None else cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Qwen3LabelWords(LabelWords, Qwen3ForCausalLM):
    """Qwen3 (Qwen team 2025)."""


class Gemma3LabelWords(LabelWords, Gemma3ForCausalLM):
    """Gemma 3 for text alone (Gemma team 2025)."""


class LlamaLabelWords(LabelWords, LlamaForCausalLM):
    """Llama 2 and 3 (Grattafiori et al. 2024), and models of the same architecture."""


class PhiLabelWords(LabelWords, PhiForCausalLM):
    """Phi-1, 1.5 and 2 (Gunasekar et al. 2023)."""


class Phi3LabelWords(LabelWords, Phi3ForCausalLM):
    """Phi-3 and 4 (Abdin et al. 2024)."""


CLASSES: dict[str, type[PreTrainedModel]] = {
    "qwen3": Qwen3LabelWords, "gemma3_text": Gemma3LabelWords, "llama": LlamaLabelWords, "phi": PhiLabelWords,
    "phi3": Phi3LabelWords,
}  # fmt: skip
"""the class of each `model_type` in `popcorn.config.DECODERS`"""
