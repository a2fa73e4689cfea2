"""DeBERTa-v2 with LoRA (Hu et al. 2022): the weights stay, and products of two thin matrices are learned beside some of them.

W x becomes W x + (alpha / rank) B A x, with A random and B zero at first, for the queries and the values of every layer (section
4.2). The frozen weights may lie in eight or four bits (Dettmers et al. 2022 and 2023).
"""

from dataclasses import dataclass

from peft import LoraConfig

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
    learning_rate: float = 3e-4
    """AdamW's peak for the adapter, reached after the warm-up and followed by a linear decay to zero"""
    rank: int = 16
    """columns of B and rows of A (the paper's r)"""
    alpha: int = 32
    """over the rank, the factor of what is learned"""
    dropout: float = 0.1
    """share of what the adapter reads that is zeroed in training"""


def peft_config(config: Config) -> LoraConfig:
    """Two thin matrices beside every query's and every value's projection."""
    return LoraConfig(
        task_type="SEQ_CLS", r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
        target_modules=["query_proj", "value_proj"], modules_to_save=["pooler", "classifier"],
    )  # fmt: skip


if __name__ == "__main__":
    config = parse(Config)
    run(AdapterTask(peft_config, config), adapter_trainer(config))
