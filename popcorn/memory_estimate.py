"""Memory and FLOP of a training step, from tensor shapes alone.

torch's fake tensors have shapes and no data. All tensors that are alive at the same time are counted.
"""

import weakref
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType

import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.deberta_v2 import modeling_deberta_v2

from popcorn.config import FineTuneConfig, FrozenConfig
from popcorn.models.deberta import DebertaClassifier
from popcorn.models.label_words import CLASSES
from popcorn.training.memory import recompute_activations
from popcorn.utils.packages import hide_unusable_quantizers
from popcorn.utils.simulated_gpu import gpu_kernels, replaced

aten = torch.ops.aten
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""by Accelerate's names of mixed precision"""
CPU_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4]),
}
"""FLOP of the fused attention of a CPU, which torch's counter does not know"""


@dataclass(frozen=True)
class Arithmetic:
    """How a device computes a training step."""

    precision: str = "no"
    """mixed precision: "no", "fp16" or "bf16" """
    on_gpu: bool = False
    """whether kernels and autocast are a GPU's"""
    bits: int = 32
    """bits of a frozen weight"""

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Dtype of the frozen weights; of quantized ones, the dtype of their products."""
        if self.bits == 32:
            return torch.float32
        return torch.bfloat16 if self.bits == 16 and self.precision == "no" else DTYPES[self.precision]


@dataclass(frozen=True)
class Step:
    """Memory, FLOP and parameters of one training step."""

    peak: float
    """bytes of all tensors alive at the same time, at most"""
    forward: float
    """FLOP of the forward pass"""
    flop: float
    """FLOP of both passes"""
    frozen: int
    """frozen parameters"""
    trainable: int
    """trainable parameters"""


class LiveMemoryTracker(TorchDispatchMode):
    """Counts the bytes of all live tensors; tensors that share memory count once.

    torch's MemTracker does not work with frozen weights, because it hooks the gradient of each.
    """

    def __init__(self, tensors: list[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref] = {}
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        """Counts the tensor's memory until it is freed."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self.known:
            return

        def freed(_) -> None:
            del self.known[key]
            self.now -= size

        self.known[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


def frozen_on_meta(sizes: PreTrainedConfig) -> PreTrainedModel:
    """A frozen DeBERTa or decoder, on torch's meta device, without data."""
    with torch.device("meta"):
        model = CLASSES.get(sizes.model_type, DebertaClassifier)(sizes)
    model.label_ids = (0, 1)  # of a decoder: any two words take the same memory
    return model.requires_grad_(False)


def adapter_on_meta(script: ModuleType, config: FrozenConfig, sizes: PreTrainedConfig) -> PeftModel:
    """The model of a script that trains an adapter, on torch's meta device, without data."""
    hide_unusable_quantizers()
    base = frozen_on_meta(sizes)
    with torch.device("meta"):
        peft_config = script.peft_config(config)
        if isinstance(peft_config, PromptTuningConfig):
            peft_config.prompt_tuning_init = "RANDOM"  # sizes do not depend on the words of the text
        return get_peft_model(base, peft_config)


def classifier_on_meta(script: ModuleType, config: FineTuneConfig, checkpoint: Path) -> nn.Module:
    """The model of a script that fine-tunes all weights, on torch's meta device.

    Of the checkpoint only config.json is read.
    """
    modules = [each for each in vars(script).values() if isinstance(each, type) and issubclass(each, nn.Module)]
    own = [each for each in modules if each.__module__ == script.__name__]
    with torch.device("meta"):
        return (script.build if hasattr(script, "build") else own[0])(config, checkpoint)


def materialize(model: nn.Module, frozen_dtype: torch.dtype = torch.float32) -> None:
    """Replaces the model's meta tensors with tensors of the current mode; trainable ones are float32."""
    for module in model.modules():
        for name, weights in list(module.named_parameters(recurse=False)):
            dtype = torch.float32 if weights.requires_grad else frozen_dtype
            setattr(module, name, nn.Parameter(torch.empty(weights.shape, dtype=dtype), weights.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype), persistent=False)
    if hasattr(model, "prompt_tokens"):
        model.prompt_tokens = {name: torch.arange(len(tokens)) for name, tokens in model.prompt_tokens.items()}


def return_input_dtype(model: nn.Module) -> None:
    """Makes frozen linear layers return the dtype of their input, as quantized ones do under autocast."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.register_forward_hook(lambda _, inputs, output: output.to(inputs[0].dtype))


def without_torchscript(module: ModuleType):
    """Replaces the module's TorchScript functions with the original Python functions.

    Older versions of transformers compile some. TorchScript does not support fake tensors.
    """
    compiled = {name: value for name, value in vars(module).items() if isinstance(value, torch.jit.ScriptFunction)}
    return replaced(module, {name: function._torchdynamo_inline for name, function in compiled.items()})


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """The loss on tokens (reviews, time) of one length, of the library's models or of a logit."""
    labels = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
    if isinstance(model, PreTrainedModel | PeftModel):
        # with labels, the library's DeBERTa would look at their values, which fake tensors do not have
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        return F.cross_entropy(logits.float(), labels)
    logits = model(tokens, torch.full_like(labels, tokens.shape[1]))
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float())


def autocast_loss(model: nn.Module, tokens: Tensor, arithmetic: Arithmetic) -> Tensor:
    """The loss in mixed precision."""
    with torch.autocast(tokens.device.type, DTYPES[arithmetic.precision], enabled=arithmetic.precision != "no"):
        return loss_of(model, tokens)


def prediction(build: Callable[[], nn.Module], reviews: int, length: int, arithmetic: Arithmetic) -> Step:
    """A forward pass without gradients on N reviews of the same length, in tokens; arguments as in `step`."""
    model = build().eval()
    kernels = gpu_kernels(arithmetic.precision) if arithmetic.on_gpu else nullcontext()
    with torch.no_grad(), FakeTensorMode(), kernels:
        materialize(model, arithmetic.frozen_dtype)
        tokens = torch.zeros((reviews, length), dtype=torch.long)
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as flop:
            autocast_loss(model, tokens, arithmetic)
        with LiveMemoryTracker([*model.parameters(), *model.buffers(), tokens]) as living:
            autocast_loss(model, tokens, arithmetic)
    return Step(living.peak, flop.get_total_flops(), flop.get_total_flops(), sum(map(torch.numel, model.parameters())), 0)


def step(
    build: Callable[[], nn.Module], reviews: int, length: int, arithmetic: Arithmetic, recomputed: bool = False,
    accumulated: bool = False,
) -> Step:  # fmt: skip
    """One training step on N reviews of the same length, in tokens.

    `build`: the model on torch's meta device. `recomputed`: whether activations are. `accumulated`: whether there are gradients
    of an earlier micro-batch.
    """
    model = build().train()
    if arithmetic.bits < 16:
        return_input_dtype(model)
    if recomputed:
        with redirect_stdout(StringIO()):  # the run logs it, and not the plan
            recompute_activations(model)
    kernels = gpu_kernels(arithmetic.precision) if arithmetic.on_gpu else nullcontext()
    with FakeTensorMode(), without_torchscript(modeling_deberta_v2), kernels:
        materialize(model, arithmetic.frozen_dtype)
        optimizer = torch.optim.AdamW([weights for weights in model.parameters() if weights.requires_grad], fused=True)
        tokens = torch.zeros((reviews, length), dtype=torch.long)
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as flop:
            loss = autocast_loss(model, tokens, arithmetic)
            forward = flop.get_total_flops()
            loss.backward()
        optimizer.step()  # which creates its state
        if not accumulated:
            optimizer.zero_grad()
        # memory in another pass, because torch's counter keeps tensors that are recomputed
        state = [value for values in optimizer.state.values() for value in values.values()]
        gradients = [weights.grad for weights in model.parameters() if weights.grad is not None]
        living = LiveMemoryTracker([*model.parameters(), *model.buffers(), tokens, *state, *gradients])
        del loss, gradients
        with living:
            autocast_loss(model, tokens, arithmetic).backward()
            optimizer.step()
    frozen, trainable = (
        sum(weights.numel() for weights in model.parameters() if weights.requires_grad == is_trainable)
        for is_trainable in (False, True)
    )
    return Step(living.peak, forward, flop.get_total_flops(), frozen, trainable)
