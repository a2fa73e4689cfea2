"""DeBERTa-v2 with prefix tuning (Li & Liang 2021; Liu et al. 2022, P-tuning v2): learned keys and values in every layer.

Every word of the review may attend to them, in every layer anew, as if a text stood before it that the model would read in
just the way that helps. The attention that takes them is in popcorn/deberta.py.
"""

from dataclasses import dataclass

from peft import PrefixTuningConfig

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
    learning_rate: float = 5e-3
    """AdamW's peak for the prefix, reached after the warm-up and followed by a linear decay to zero"""
    virtual_tokens: int = 20
    """keys and values of each layer"""
    hidden: int | None = None
    """units of a network that makes them in training, as Li & Liang have it; none where they are learned themselves"""


def peft_config(config: Config) -> PrefixTuningConfig:
    """A table of keys and values."""
    return PrefixTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=config.virtual_tokens, modules_to_save=["pooler", "classifier"],
        prefix_projection=config.hidden is not None, encoder_hidden_size=config.hidden,
    )  # fmt: skip


if __name__ == "__main__":
    config = parse(Config)
    run(AdapterTask(peft_config, config), adapter_trainer(config))
