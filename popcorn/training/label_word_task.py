"""A decoder that classifies by the next word of a prompt; frozen, or with a small adapter."""

from pathlib import Path

import numpy as np
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from popcorn.config import FrozenConfig, ZeroShotConfig
from popcorn.data.batching import EncodedReviews
from popcorn.data.prompt import NO_EXAMPLES, Prompt
from popcorn.data.subword_tokenizer import read_contents
from popcorn.errors import UserError
from popcorn.models.label_words import CLASSES
from popcorn.models.pretrained import architecture
from popcorn.models.saved import save_metadata
from popcorn.models.tokenizer import read_decoder_tokenizer, require_positions
from popcorn.training.adapters import AdapterTask, MakePeftConfig, load_quantized, with_adapter
from popcorn.training.finetuning_task import PretrainedTask
from popcorn.utils import hardware


class PromptTask(PretrainedTask):
    """The reviews as subwords within a prompt."""

    config: FrozenConfig | ZeroShotConfig

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, and the prompt in its tokens.

        Raises `UserError` where the hardware does not suit the model, or the prompt does not suit its tokenizer.
        """
        require_range(self.config)
        self.prompt = load_prompt(self.config)
        return self.prompt.tokenizer

    def contents(self, name: str) -> list[np.ndarray]:
        """The subwords of one file's reviews, without the prompt."""
        return read_contents(self.competition, name, self.tokenizer, self.config)

    def encode(self, name: str) -> EncodedReviews:
        return self.prompt.encode(self.contents(name), NO_EXAMPLES)


def load_prompt(config: FrozenConfig | ZeroShotConfig) -> Prompt:
    """The options' prompt, with the checkpoint's tokenizer.

    Raises `UserError` where they do not fit each other, or `--max-length` is larger than the model's maximum.
    """
    tokenizer = read_decoder_tokenizer(config.checkpoint)
    require_positions(config, tokenizer)
    return Prompt(tokenizer, config.prompt, config.label_words, config.max_length)


def require_range(config: FrozenConfig | ZeroShotConfig) -> None:
    """Raises `UserError` for a model whose activations overflow in fp16, on hardware without bf16."""
    family = architecture(config.checkpoint).model_type
    if family == "gemma3_text" and hardware.mixed_precision(config.precision) == "fp16":
        raise UserError(
            f"{config.model} overflows in fp16, and this GPU has no bf16: give --precision fp32 --bits 4, or take a Qwen3 model"
        )


def load_decoder(config: FrozenConfig | ZeroShotConfig, label_ids: tuple[int, int]) -> PreTrainedModel:
    """The frozen decoder in `config.bits`, which classifies by the two label words."""
    model_class = CLASSES[architecture(config.checkpoint).model_type]
    model = load_quantized(model_class, config, config.checkpoint, unquantized=["lm_head"])
    model.label_ids = label_ids
    model.config.prompt_options = {"prompt": config.prompt, "label_words": list(config.label_words)}
    return model.requires_grad_(False)


def build_label_words(peft_config: MakePeftConfig, config: FrozenConfig, label_ids: tuple[int, int]) -> PeftModel:
    """The frozen decoder with an adapter; raises `UserError` as `with_adapter` does."""
    return with_adapter(load_decoder(config, label_ids), peft_config(config), config)


class LabelWordTask(AdapterTask, PromptTask):
    """The reviews within a prompt, and a frozen decoder with a small adapter."""

    def build_adapter(self, config: FrozenConfig, checkpoint: Path) -> PeftModel:
        return build_label_words(self.peft_config, config, self.prompt.label_ids)

    def parameter_groups(self, model: nn.Module, config: FrozenConfig) -> list[dict]:
        """One group: the adapter alone, since there is no new head."""
        return [{"params": [weights for weights in model.parameters() if weights.requires_grad], "lr": config.learning_rate}]

    def save_artifacts(self, run_dir: Path) -> None:
        """Saves the options; the adapter's folder has the rest."""
        save_metadata(run_dir, self.peft_config, self.config, "label_words")
