"""DeBERTa-v2 with LoRA (Hu et al. 2022): the weights stay, and products of two thin matrices are learned beside some of them.

W x becomes W x + (alpha / rank) B A x, with A random and B zero at first, for the queries and the values of every layer (section
4.2). The frozen weights may lie in eight or four bits (Dettmers et al. 2022 and 2023).
"""

from dataclasses import dataclass

from popcorn.config import AdapterConfig, Count, NonNegative, Positive, Probability, parse
from popcorn.runs.run import run
from popcorn.training.adapters import AdapterTask, adapter_trainer

# isort: split
# after popcorn.training.adapters, which hides the quantizers that PEFT would fail on
from peft import LoraConfig


@dataclass
class Config(AdapterConfig):
    """What this method adds to the options of all adapters."""

    MODEL_TYPE = "deberta-v2"
    model: str = "microsoft/deberta-v2-xxlarge"
    """a DeBERTa-v2 or v3 of the hub, or the folder of one; microsoft/deberta-v3-large is smaller and scores higher"""
    rank: Count = 16
    """columns of B and rows of A (the paper's r)"""
    alpha: Count = 32
    """over the rank, the factor of what is learned"""
    dropout: Probability = 0.1
    """share of what the adapter reads that is zeroed in training"""

    # the recipe: AdamW, cross-entropy, linear warm-up and decay, early stopping; --help explains each
    max_length: Count = 256
    epochs: Count = 2
    patience: Count = 2
    batch_size: Count = 32
    learning_rate: Positive = 3e-4
    head_learning_rate: Positive = 1e-3
    warmup_ratio: Probability = 0.1
    weight_decay: NonNegative = 0.01
    max_grad_norm: Positive = 1.0


def peft_config(config: Config) -> LoraConfig:
    """Two thin matrices beside every query's and every value's projection."""
    return LoraConfig(
        task_type="SEQ_CLS", r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
        target_modules=["query_proj", "value_proj"], modules_to_save=["pooler", "classifier"],
    )  # fmt: skip


if __name__ == "__main__":
    config = parse(Config)
    run(AdapterTask(peft_config, config), adapter_trainer(config))
