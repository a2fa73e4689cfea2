"""A GPU that PyTorch has no kernels for is refused before anything else, torch.cuda's answers are simulated; memory of a CPU."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

import lstm
from popcorn.config import TrainingConfig
from popcorn.data.word_tokenizer import TOKENIZER
from popcorn.errors import UserError
from popcorn.inference.load import load
from popcorn.models.saved import METADATA
from popcorn.runs.run import run
from popcorn.training import processes
from popcorn.training.hf_trainer import HFTrainer, TrainingArguments
from popcorn.training.loop import train
from popcorn.training.pytorch_trainer import PyTorchTrainer
from popcorn.training.word_model import WordModelTask
from popcorn.utils.hardware import require_gpu_kernels

CUDA_12_8 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.fixture
def gpu(monkeypatch):
    """Simulates a GPU by its compute capability, and the kernels that PyTorch was compiled with."""

    def simulate(capability: tuple[int, int], kernels: list[str]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla P100-PCIE-16GB")
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: kernels)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)

    return simulate


@pytest.mark.parametrize(
    ("capability", "kernels"),
    [
        ((7, 5), CUDA_12_8), ((12, 0), CUDA_12_8),
        ((8, 9), CUDA_12_8),  # by the kernels for 8.6
        ((12, 1), ["sm_90", "compute_90"]),  # by PTX
        ((9, 0), ["sm_90a"]), ((10, 3), ["sm_100f"]),
        ((9, 4), ["gfx942"]), ((7, 5), []),  # AMD's, or nothing known
    ],
)  # fmt: skip
def test_a_gpu_with_kernels_is_taken(capability, kernels, gpu):
    gpu(capability, kernels)
    require_gpu_kernels()


@pytest.mark.parametrize(
    ("capability", "kernels"),
    [
        ((6, 0), CUDA_12_8),
        ((8, 0), ["sm_75", "sm_86"]),  # a lower minor version
        ((12, 0), ["sm_75", "sm_90"]),  # a newer GPU, and no PTX
        ((6, 0), ["sm_75", "compute_75"]),  # PTX of a newer one
        ((10, 0), ["sm_90a"]), ((9, 1), ["sm_90a", "compute_90a"]), ((11, 0), ["compute_100f"]),  # of one architecture or family
    ],
)  # fmt: skip
def test_a_gpu_without_kernels_is_refused(capability, kernels, gpu):
    gpu(capability, kernels)
    with pytest.raises(UserError, match=rf"has no kernels for Tesla P100.*{capability[0]}\.{capability[1]}.*GPU T4 x2"):
        require_gpu_kernels()


@pytest.mark.parametrize("start", [PyTorchTrainer.start, HFTrainer(TrainingArguments).start])
def test_both_engines_refuse_it_at_the_start(start, gpu, monkeypatch):
    gpu((6, 0), CUDA_12_8)
    monkeypatch.setattr(processes, "PartialState", lambda **_: PartialState(cpu=True))  # there is no GPU to join
    with pytest.raises(UserError, match="has no kernels"):
        start(TrainingConfig())


def test_a_run_ends_with_one_sentence_before_it_reads_anything(gpu, tmp_path, monkeypatch, capsys):
    gpu((6, 0), CUDA_12_8)
    monkeypatch.setattr(processes, "PartialState", lambda **_: PartialState(cpu=True))
    config = lstm.Config(data_dir=tmp_path / "nothing", output_dir=tmp_path, name="lstm")
    with pytest.raises(SystemExit) as ended:
        run(WordModelTask(lstm.LSTM, config), PyTorchTrainer(train))
    assert ended.value.code == 2 and "has no kernels" in capsys.readouterr().err


def test_predict_refuses_it_for_an_adapter(gpu, tmp_path):
    """Its base may be on the GPU."""
    gpu((6, 0), CUDA_12_8)
    metadata = {"script": "deberta_lora", "build": "peft_config", "kind": "adapter", "config": {}, "tokenizer": TOKENIZER}
    (Path(tmp_path) / METADATA).write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="has no kernels"):
        load(tmp_path)


FREE_MEMORY = """
from pathlib import Path
from popcorn.utils.hardware import tune_allocator

tune_allocator()
batch = b"1" * (9 * 2**28)  # 2.25 GiB
del batch
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_memory_stays_for_the_next_batch():
    """More than 2 GiB, the largest threshold that glibc takes."""
    kibibytes = subprocess.run([sys.executable, "-c", FREE_MEMORY], capture_output=True, text=True, check=True).stdout
    assert int(kibibytes) > 9 * 2**18
