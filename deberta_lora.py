"""DeBERTa with LoRA: frozen weights plus trainable low-rank matrices (Hu et al. 2022).

W x becomes W x + (alpha / rank) B A x for the query and value projections of every layer (section 4.2). A starts at random, B at
zero. Pooler and classifier are trained whole, at `head_learning_rate`. The frozen weights may be quantized to 8 or 4 bits
(`--bits`; Dettmers et al. 2022 and 2023).
"""

from dataclasses import dataclass

from popcorn.config import AdapterConfig, Count, NonNegative, Positive, Probability, parse
from popcorn.runs.run import run
from popcorn.training.adapters import AdapterTask, TrainingArguments, adapter_trainer

# isort: split
# after popcorn.training.adapters: it hides broken quantization packages, with which PEFT's import would fail
from peft import LoraConfig


@dataclass
class Config(AdapterConfig):
    """This method's options, in addition to those of all adapters."""

    MODEL_TYPE = "deberta-v2"
    model: str = "microsoft/deberta-v3-large"
    """a DeBERTa-v3 or v2 on the Hugging Face hub, on Kaggle (owner/model/framework/variation), or in a local folder;
    microsoft/deberta-v2-xxlarge is four times as large"""
    rank: Count = 16
    """rank of the update: columns of B, rows of A (r in the paper)"""
    alpha: Count = 32
    """the update is scaled by alpha / rank"""
    dropout: Probability = 0.1
    """dropout probability of the adapter's input"""

    # the recipe: cross-entropy, and the arguments of the Trainer below; training stops after `patience`
    # epochs without a better validation AUC, and the best epoch predicts; popcorn/config.py explains each option
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
    """Low-rank matrices for every query and value projection."""
    return LoraConfig(
        task_type="SEQ_CLS", r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
        target_modules=["query_proj", "value_proj"], modules_to_save=["pooler", "classifier"],
    )  # fmt: skip


def training_arguments(config: Config) -> TrainingArguments:
    """The recipe as the Trainer receives it; popcorn/training/hf_trainer.py adds what does not change the model.

    That is precision, evaluation, checkpoints and micro-batches. A `warmup_steps` below 1 is a fraction of all steps.
    """
    return TrainingArguments(
        num_train_epochs=config.epochs, per_device_train_batch_size=config.batch_size, optim="adamw_torch_fused",
        learning_rate=config.learning_rate, lr_scheduler_type="linear", warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm,
    )  # fmt: skip


if __name__ == "__main__":
    config = parse(Config)
    run(AdapterTask(peft_config, config), adapter_trainer(config, training_arguments))
