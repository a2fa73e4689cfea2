"""Memory and FLOP of an adapter's training step, from tensor shapes alone.

torch's fake tensors have shapes and no data. All tensors that are alive at the same time are counted.
"""

import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import torch
from peft import PeftModel, PeftType, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import DebertaV2Config
from transformers.models.deberta_v2 import modeling_deberta_v2

from popcorn.config import AdapterConfig
from popcorn.models.deberta import DebertaClassifier
from popcorn.utils.packages import hide_unusable_quantizers


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
    is_prefix: bool
    """whether every review has its own copy of the trainable parameters"""


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


def build_on_meta(script: ModuleType, config: AdapterConfig, sizes: DebertaV2Config) -> PeftModel:
    """The script's model on torch's meta device, without data."""
    hide_unusable_quantizers()
    with torch.device("meta"):
        peft_config = script.peft_config(config)
        if isinstance(peft_config, PromptTuningConfig):
            peft_config.prompt_tuning_init = "RANDOM"  # sizes do not depend on the words of the text
        return get_peft_model(DebertaClassifier(sizes), peft_config).train()


def materialize(model: PeftModel) -> None:
    """Replaces the model's meta tensors with tensors of the current mode."""
    for module in model.modules():
        for name, weights in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(weights.shape), weights.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype), persistent=False)
    if hasattr(model, "prompt_tokens"):
        model.prompt_tokens = {name: torch.arange(len(tokens)) for name, tokens in model.prompt_tokens.items()}


@contextmanager
def without_torchscript(module: ModuleType):
    """Replaces the module's TorchScript functions with the original Python functions.

    Older versions of transformers compile some. TorchScript does not support fake tensors.
    """
    compiled = {name: value for name, value in vars(module).items() if isinstance(value, torch.jit.ScriptFunction)}
    try:
        for name, function in compiled.items():
            setattr(module, name, function._torchdynamo_inline)
        yield
    finally:
        for name, function in compiled.items():
            setattr(module, name, function)


def step(script: ModuleType, config: AdapterConfig, sizes: DebertaV2Config, reviews: int) -> Step:
    """One training step on N reviews of `max_length` each, in float32, without recomputation.

    A first step before it creates the optimizer's state.
    """
    model = build_on_meta(script, config, sizes)
    with FakeTensorMode(), without_torchscript(modeling_deberta_v2):
        materialize(model)
        optimizer = torch.optim.AdamW([weights for weights in model.parameters() if weights.requires_grad])
        tokens = torch.zeros((reviews, config.max_length), dtype=torch.long)
        mask, labels = torch.ones_like(tokens), torch.zeros(reviews, dtype=torch.long)
        living = LiveMemoryTracker([*model.parameters(), *model.buffers(), tokens, mask, labels])
        with living, FlopCounterMode(display=False) as flop:
            for _ in range(2):
                living.peak = 0
                loss = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
                forward = flop.get_total_flops()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                del loss
        both = flop.get_total_flops() / 2
    frozen, trainable = (
        sum(weights.numel() for weights in model.parameters() if weights.requires_grad == is_trainable)
        for is_trainable in (False, True)
    )
    is_prefix = model.active_peft_config.peft_type == PeftType.PREFIX_TUNING
    return Step(living.peak, forward - both, both, frozen, trainable, is_prefix)
