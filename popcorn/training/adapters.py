"""Frozen pretrained models with a small trainable adapter, using PEFT."""

import json
from collections.abc import Callable
from pathlib import Path

from popcorn.utils.packages import hide_unusable_quantizers

hide_unusable_quantizers()  # before PEFT is imported, here or elsewhere

# isort: split
import numpy as np
import torch
from accelerate import PartialState
from peft import PeftConfig, PeftModel, PeftType, get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME as PEFT_WEIGHTS
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BitsAndBytesConfig, DataCollatorWithPadding, PreTrainedConfig, PreTrainedModel, TrainingArguments
from transformers.utils import is_bitsandbytes_available

from popcorn.config import ADAPTER, AdapterConfig, FrozenConfig, ZeroShotConfig
from popcorn.data.splits import Split
from popcorn.errors import UserError, first_line
from popcorn.models.deberta import DebertaClassifier
from popcorn.models.pretrained import load_pretrained, weights_checksum
from popcorn.models.saved import require_file, save_metadata
from popcorn.training.finetuning_task import PretrainedTask
from popcorn.training.fit_result import FitResult
from popcorn.training.hf_trainer import FineTuner, HFTrainer, MakeArguments, predict_probability
from popcorn.training.processes import start_processes, summary_of
from popcorn.training.review_trainer import PredictingTrainer, use_one_gpu
from popcorn.utils import hardware
from popcorn.utils.files import write_json

NEW_MODULES = ["pooler", "classifier"]
"""modules that DeBERTa's checkpoints do not include: trained with every adapter, never quantized, and saved with it"""
BASE = "base.json"
"""file in an adapter's folder with the name and checksum of its base model, and any prompt"""
MakePeftConfig = Callable[[FrozenConfig], PeftConfig]
"""a script's config to a PEFT config"""


class AdapterTask(PretrainedTask):
    """The reviews as subwords, and a frozen model with a small adapter."""

    config: FrozenConfig

    def __init__(self, peft_config: MakePeftConfig, config: FrozenConfig):
        super().__init__(self.build_adapter, config)
        self.peft_config = peft_config

    def load(self) -> None:
        """Loads the tokenizer, and encodes the reviews.

        Raises `UserError` where the hardware does not support the bits, or `--name` is the run of `--adapter`.
        """
        config = self.config
        config.bits = resolve_bits(config.bits)
        run_dir = (config.output_dir / "runs" / config.name).resolve()
        if config.adapter and run_dir in config.adapter.resolve().parents:
            raise UserError(f"--name {config.name} is that of the run which saved {config.adapter}: give another name")
        super().load()

    def build_adapter(self, config: FrozenConfig, checkpoint: Path) -> PeftModel:
        """The frozen model with its adapter."""
        return build_adapter(self.peft_config, config, checkpoint)

    def parameter_groups(self, model: nn.Module, config: AdapterConfig) -> list[dict]:
        """Two groups: the adapter, and the pooler with the classifier."""
        trainable = [(name, weights) for name, weights in model.named_parameters() if weights.requires_grad]
        head = [weights for name, weights in trainable if any(f".{part}." in name for part in NEW_MODULES)]
        rest = [weights for name, weights in trainable if not any(f".{part}." in name for part in NEW_MODULES)]
        return [{"params": rest, "lr": config.learning_rate}, {"params": head, "lr": config.head_learning_rate}]

    def save_artifacts(self, run_dir: Path) -> None:
        """Saves the options; the adapter's folder has the rest."""
        save_metadata(run_dir, self.peft_config, self.config, "adapter")


def adapter_trainer(config: FrozenConfig, training_arguments: MakeArguments) -> "AdapterTrainer | PredictOnlyTrainer":
    """The trainer for an adapter, or with `--adapter`, the one that only predicts."""
    return PredictOnlyTrainer() if config.adapter else AdapterTrainer(training_arguments)


def resolve_bits(requested: int | None) -> int:
    """Bits of a frozen weight; raises `UserError` where the hardware does not support them."""
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    bits = requested or (32 if capability is None else 8 if capability >= (7, 5) else 4)
    if bits < 16 and not is_bitsandbytes_available():
        raise UserError(
            f"--bits {bits} needs bitsandbytes, which is not installed: pip install --upgrade bitsandbytes, or give --bits 16"
        )
    if bits == 8 and capability is not None and capability < (7, 5):
        raise UserError(
            f"--bits 8 needs a GPU of compute capability 7.5 (a T4), and this one has {capability[0]}.{capability[1]}: "
            "give --bits 4, or leave the option out"
        )
    return bits


def build_adapter(peft_config: MakePeftConfig, config: AdapterConfig, checkpoint: Path) -> PeftModel:
    """The frozen DeBERTa with an adapter; raises `UserError` as `with_adapter` does."""
    return with_adapter(load_frozen_base(config, checkpoint), peft_config(config), config)


def with_adapter(base: PreTrainedModel, settings: PeftConfig, config: FrozenConfig) -> PeftModel:
    """The frozen model with a new adapter, or with that of `--adapter`.

    Raises `UserError` where the folder has no adapter, or one for another base model or prompt.
    """
    if config.adapter is None:
        model = get_peft_model(base, settings)
    else:
        require_base_model(config.adapter, settings.peft_type, config, base.config)
        try:
            model = PeftModel.from_pretrained(base, config.adapter)
            require_same_names(load_file(config.adapter / PEFT_WEIGHTS), get_peft_model_state_dict(model))
        except (SafetensorError, RuntimeError) as problem:
            raise _no_adapter(config.adapter, problem) from problem
    active = model.active_peft_config  # a saved adapter's own config, which may differ from the options
    if active.is_prompt_learning and active.peft_type != PeftType.PREFIX_TUNING:
        base.virtual_tokens = active.num_virtual_tokens
    return model


def load_frozen_base(config: AdapterConfig, checkpoint: Path) -> DebertaClassifier:
    """The checkpoint's weights in `config.bits`, with a new pooler and head in float32."""
    model = load_quantized(DebertaClassifier, config, checkpoint, unquantized=NEW_MODULES, new=NEW_MODULES, num_labels=2)
    for name in NEW_MODULES:
        getattr(model, name).float()
    return model


def load_quantized(
    model_class: type[PreTrainedModel], config: FrozenConfig | ZeroShotConfig, checkpoint: Path, unquantized: list[str], **options
) -> PreTrainedModel:  # fmt: skip
    """The checkpoint's weights in `config.bits`, except for the modules in `unquantized`.

    The other weights have the dtype that the hardware computes in: a bf16 checkpoint is fp16 on a T4. `options` are those of
    `load_pretrained`.
    """
    compute_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(hardware.mixed_precision(config.precision), torch.float32)
    dtype = {32: torch.float32, 16: torch.bfloat16 if compute_dtype is torch.float32 else compute_dtype}.get(
        config.bits, compute_dtype
    )
    quantized = {
        8: {"load_in_8bit": True},
        4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
    }.get(config.bits)
    model = load_pretrained(
        model_class, checkpoint, dtype=dtype,
        # each process has a complete copy
        device_map={"": PartialState().device} if quantized and torch.cuda.is_available() else None,
        quantization_config=BitsAndBytesConfig(**quantized, llm_int8_skip_modules=unquantized) if quantized else None,
        **options,
    )  # fmt: skip
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # else the first evaluation on such a CPU repacks 4-bit weights for a kernel without gradients
            module.support_avx512bf16_for_cpu = False
    model.config.weights_sha256 = weights_checksum(checkpoint)
    model.config.source = Path(config.model).name if Path(config.model).is_dir() else config.model
    return model


class AdapterTuner(FineTuner):
    """Trains an adapter; its checkpoints have all trainable parameters and no others.

    PEFT's own format is for inference: it has the output of a prompt encoder but not its weights, so training could not resume.
    """

    def write_weights(self, path: Path) -> None:
        """Saves the trainable parameters."""
        save_file({name: value.contiguous() for name, value in self._learning()}, path)

    def read_weights(self, path: Path) -> None:
        """Loads the trainable parameters; raises `RuntimeError` for a missing or unexpected name."""
        weights = load_file(path)
        require_same_names(weights, dict(self._learning()))
        self.model.load_state_dict(weights, strict=False)  # not strict, since the frozen weights are not in the file

    def _learning(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]

    def write_model(self, folder: Path) -> None:
        """Saves the adapter in PEFT's format, with the tokenizer, the base model's checksum, and any prompt."""
        self.model.save_pretrained(folder)
        self.data_collator.tokenizer.save_pretrained(folder)
        base = self.model.get_base_model().config
        prompt = getattr(base, "prompt_options", {})
        write_json(folder / BASE, {"model": base.source, "weights_sha256": base.weights_sha256, **prompt})


def require_same_names(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Raises `RuntimeError` where the names differ, since the libraries ignore that."""
    if differing := sorted(found.keys() ^ expected.keys()):
        raise RuntimeError(f"{'it lacks' if differing[0] in expected else 'it has an unknown'} {differing[0]}")


def _no_adapter(folder: Path, problem: Exception) -> UserError:
    reason = first_line(problem)
    return UserError(f"--adapter {folder} is not an adapter of a finished run ({reason}): give a folder such as {ADAPTER}")


def require_base_model(folder: Path, peft_type: PeftType, config: FrozenConfig, base_config: PreTrainedConfig) -> None:
    """Raises `UserError` unless the folder's adapter fits the script, `--model`, and any prompt."""
    try:
        saved_type = PeftConfig.from_pretrained(str(folder)).peft_type.value
        saved = json.loads((folder / BASE).read_text(encoding="utf-8"))
        name, checksum = saved["model"], saved["weights_sha256"]
        require_file(folder / PEFT_WEIGHTS)  # else PEFT would search the hub, and load a pickle
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
        raise _no_adapter(folder, problem) from problem
    if saved_type != peft_type.value:
        raise UserError(f"--adapter {folder} is of type {saved_type}, and this script's are {peft_type.value}")
    if checksum != base_config.weights_sha256:
        raise UserError(
            f"--adapter {folder} was trained on {name}, and --model {config.model} has other weights: "
            "pass the model that it was trained on"
        )
    for option, value in getattr(base_config, "prompt_options", {}).items():
        if saved.get(option, value) != value:  # adapters of earlier versions have no prompt in their file
            raise UserError(
                f"--adapter {folder} was trained with --{option.replace('_', '-')} {saved[option]!r}, and here it is {value!r}: "
                "pass the same"
            )


class AdapterTrainer(HFTrainer):
    """Trains adapters with Hugging Face's Trainer."""

    trainer_class = AdapterTuner


class PredictOnlyTrainer:
    """Predicts with a saved adapter, without training."""

    start = staticmethod(start_processes)

    def set_up(self, task: AdapterTask, run_dir: Path, deadline: float) -> None:
        """Receives the task and the run's folder."""
        self.task, self.run_dir = task, run_dir

    def fit(self, split: Split) -> FitResult:
        """Predicts the test reviews."""
        config, precision = self.task.config, hardware.mixed_precision(self.task.config.precision)
        arguments = TrainingArguments(
            output_dir=str(self.run_dir), per_device_eval_batch_size=config.batch_size, report_to=[], remove_unused_columns=False,
            use_cpu=not torch.accelerator.is_available(), dataloader_pin_memory=torch.accelerator.is_available(),
            bf16=precision == "bf16", fp16=precision == "fp16",
        )  # fmt: skip
        use_one_gpu(arguments)
        trainer = PredictingTrainer(self.task.new_model(), arguments, data_collator=DataCollatorWithPadding(self.task.tokenizer))
        test = predict_probability(trainer, self.task.test, np.arange(len(self.task.test)))
        return FitResult(validation=np.zeros(0), test=test)

    def summary(self) -> dict:
        """For the saved results: parameters, precision, time and memory."""
        return summary_of(self.task, self.run_dir)

    def finish(self) -> None:
        """Does nothing: there is no new model to save."""
