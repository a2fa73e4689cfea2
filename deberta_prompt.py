"""DeBERTa-v2 with prompt tuning (Lester et al. 2021): some vectors are learned that stand before the review like words.

They begin as the vectors of a sentence that asks for the task (section 3.2). Only the first layer is told of them, so that
they need a large model, and a learning rate a hundred times that of weights.
"""

from dataclasses import dataclass

from peft import PromptTuningConfig

from popcorn.config import AdapterConfig, parse
from popcorn.runs.run import run
from popcorn.training.adapters import AdapterTask, adapter_trainer


@dataclass
class Config(AdapterConfig):
    """What this method adds to the options of all adapters."""

    MODEL_TYPE = "deberta-v2"
    model: str = "microsoft/deberta-v2-xxlarge"
    """a DeBERTa-v2 or v3 of the hub, or the folder of one; microsoft/deberta-v3-large is smaller and scores higher"""
    epochs: int = 2
    """at most so many passes over the training reviews"""
    learning_rate: float = 1e-2
    """AdamW's peak for the prompt, reached after the warm-up and followed by a linear decay to zero"""
    virtual_tokens: int = 20
    """vectors before the review"""
    text: str = "Is the sentiment of this movie review positive or negative? The review that follows is"
    """what they begin as: [CLS], its subwords and [SEP], repeated or cut to their number"""


def peft_config(config: Config) -> PromptTuningConfig:
    """A table of vectors, and nothing else."""
    return PromptTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=config.virtual_tokens, modules_to_save=["pooler", "classifier"],
        prompt_tuning_init="TEXT", prompt_tuning_init_text=config.text, tokenizer_name_or_path=str(config.checkpoint),
    )  # fmt: skip


if __name__ == "__main__":
    config = parse(Config)
    run(AdapterTask(peft_config, config), adapter_trainer(config))
