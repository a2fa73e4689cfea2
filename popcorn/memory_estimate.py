"""A training step of an adapter without numbers: torch's fake tensors have shapes only, and what lives at once is counted."""

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
    """What a training step takes."""

    peak: float
    """bytes that live at once"""
    forward: float
    """FLOP of the forward pass"""
    flop: float
    """FLOP of both passes"""
    frozen: int
    """numbers that do not learn"""
    learning: int
    """numbers that do"""
    is_prefix: bool
    """whether every review has a copy of the latter"""


class LiveMemoryTracker(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive; a tensor that shares another's memory does not count again.

    torch's own MemTracker would do it, but cannot be given a model with frozen weights: it hooks the gradient of each.
    """

    def __init__(self, tensors: list[Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref] = {}
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        """Takes note of its memory, until that is freed."""
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
    """The script's model without any numbers."""
    hide_unusable_quantizers()
    with torch.device("meta"):
        about = script.peft_config(config)
        if isinstance(about, PromptTuningConfig):
            about.prompt_tuning_init = "RANDOM"  # the text's words are not needed for their sizes
        return get_peft_model(DebertaClassifier(sizes), about).train()


def fill(model: PeftModel) -> None:
    """Gives it tensors of the current mode."""
    for module in model.modules():
        for name, weights in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(weights.shape), weights.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype), persistent=False)
    if hasattr(model, "prompt_tokens"):
        model.prompt_tokens = {name: torch.arange(len(tokens)) for name, tokens in model.prompt_tokens.items()}


@contextmanager
def without_torchscript(module: ModuleType):
    """The module's functions as Python has them: older versions of transformers compile some.

    TorchScript knows no fake tensors.
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
    """A step of so many reviews of `max_length` each, all of it in float32 and nothing recomputed.

    One more comes before it, which makes the optimizer's state.
    """
    model = build_on_meta(script, config, sizes)
    with FakeTensorMode(), without_torchscript(modeling_deberta_v2):
        fill(model)
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
    frozen, learning = (
        sum(weights.numel() for weights in model.parameters() if weights.requires_grad == learns) for learns in (False, True)
    )
    is_prefix = model.active_peft_config.peft_type == PeftType.PREFIX_TUNING
    return Step(living.peak, forward - both, both, frozen, learning, is_prefix)
