"""Qwen3 with LoRA, classifying by the log-probabilities of two words (Hu et al. 2022, Dettmers et al. 2023).

A prompt ends where the sentiment of the review would follow. The log-odds of a positive review are the logit of " positive" minus
that of " negative". So there is no new head, and what the decoder learned in pretraining serves from the first step. Its frozen
weights may be quantized to 8 or 4 bits. Gemma 3 (text alone), Llama 3 and Phi work too, with --model.
"""

from dataclasses import dataclass

from popcorn.config import DECODERS, Count, FrozenConfig, NonNegative, Positive, Probability, parse
from popcorn.runs.run import run
from popcorn.training.adapters import TrainingArguments, adapter_trainer
from popcorn.training.label_word_task import LabelWordTask

# isort: split
# after popcorn.training.adapters: it hides broken quantization packages, with which PEFT's import would fail
from peft import LoraConfig


@dataclass
class Config(FrozenConfig):
    """This method's options, in addition to those of all adapters."""

    MODEL_TYPE = DECODERS
    model: str = "Qwen/Qwen3-1.7B"
    """a Qwen3, Gemma 3 (text), Llama 3 or Phi model on the Hugging Face hub, on Kaggle (owner/model/framework/variation),
    or in a local folder"""
    prompt: str = "Movie review:\n{review}\nThe sentiment of this review, negative or positive, is"
    """text around each review; a label word would follow it"""
    label_words: tuple[str, str] = ("negative", "positive")
    """words for a negative and for a positive review, each a single token with the space before it"""
    rank: Count = 16
    """rank of the update: columns of B, rows of A (r in the paper)"""
    alpha: Count = 32
    """the update is scaled by alpha / rank"""
    dropout: Probability = 0.05
    """dropout probability of the adapter's input"""

    # the recipe: cross-entropy, and the arguments of the Trainer below; training stops after `patience`
    # epochs without a better validation AUC, and the best epoch predicts; popcorn/config.py explains each option
    max_length: Count = 512
    epochs: Count = 2
    patience: Count = 2
    batch_size: Count = 16
    learning_rate: Positive = 2e-4
    warmup_ratio: Probability = 0.1
    weight_decay: NonNegative = 0.0
    max_grad_norm: Positive = 1.0


def peft_config(config: Config) -> LoraConfig:
    """Low-rank matrices for every linear layer of attention and feed-forward (Dettmers et al. 2023, section 4)."""
    return LoraConfig(
        task_type="CAUSAL_LM", r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules="all-linear",
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
    run(LabelWordTask(peft_config, config), adapter_trainer(config, training_arguments))
