"""Detects the hardware, and sets up precision and memory allocation for it."""

import ctypes
import os
import platform
import re

import torch

from popcorn.errors import UserError
from popcorn.utils.machine import cpu_name, process_peak_memory

GLIBC_TRIM_THRESHOLD, GLIBC_TOP_PAD, GLIBC_MMAP_MAX = -1, -2, -4  # names of mallopt(3), from malloc.h
KERNELS = "16"
TARGET = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")
"""what PyTorch was compiled for: kernels or PTX, major and minor version, and a suffix for code of one architecture or family"""


def tune_allocator() -> None:
    """Configures glibc to keep and reuse freed memory, and oneDNN and PyTorch to cache fewer of oneDNN's kernels.

    Training on a CPU is up to 1.8 times as fast with the first. Other C libraries are left alone. By default oneDNN and PyTorch
    each cache 1,024 kernels, one for each shape, with megabytes of memory for each. With batches of all lengths, those of the
    CNN filled 24 GiB. With 64 in oneDNN but 1,024 in PyTorch, those of an LSTM of 512 units filled it too. Both variables are
    read at their first use.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)
    os.environ.setdefault("LRU_CACHE_CAPACITY", KERNELS)
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(GLIBC_MMAP_MAX, 0)
        mallopt(GLIBC_TRIM_THRESHOLD, -1)  # never
        mallopt(GLIBC_TOP_PAD, 256 * 2**20)


def mixed_precision(precision: str) -> str:
    """Accelerate's value for `--precision`: bf16 with hardware support, fp16 on older GPUs, else "no".

    Raises `UserError` for a precision without instructions in this processor: oneDNN has no LSTM for it.
    """
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        # by default is_bf16_supported includes emulation, which on a T4 is far slower than fp16
        best = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    else:
        best = "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"
    if precision == "auto":
        return best
    if not has_gpu and precision not in ("fp32", best):
        raise UserError(f"--precision is {precision}: this processor does not compute in it, leave the option out")
    return "no" if precision == "fp32" else precision


def require_gpu_kernels() -> None:
    """Raises `UserError` where this PyTorch has no compiled kernels for the current GPU.

    A kernel for 8.0 runs on 8.6: the same major version of the compute capability, and at least its minor version. PTX
    (`compute_90`) is compiled for every later GPU. Other names, such as those of AMD's GPUs, are not checked. Source: CUDA C++
    Programming Guide, Binary Compatibility and PTX Compatibility.
    """
    if not torch.cuda.is_available():
        return
    capability = torch.cuda.get_device_capability()
    targets = [found for found in map(TARGET.fullmatch, torch.cuda.get_arch_list()) if found]
    if targets and not any(_runs_on(capability, target) for target in targets):
        raise UserError(
            f"PyTorch {torch.__version__} has no kernels for {torch.cuda.get_device_name()} (compute capability {capability[0]}."
            f"{capability[1]}): take another GPU (on Kaggle: Settings, Accelerator, GPU T4 x2), or hide it with "
            "CUDA_VISIBLE_DEVICES=-1 to use the CPU"
        )


def _runs_on(capability: tuple[int, int], target: re.Match) -> bool:
    """Whether code for the target runs on a GPU of the compute capability."""
    kind, major, minor, suffix = target.groups()
    built_for = int(major), int(minor)
    if suffix == "a":  # with instructions of that architecture alone
        return capability == built_for
    is_later = capability >= built_for
    return is_later if kind == "compute" and not suffix else is_later and capability[0] == built_for[0]


def processor() -> str:
    """Number and name of the GPUs, or the name of the CPU."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return cpu_name()


def peak_memory() -> int:
    """Peak memory of this process in bytes: on the GPU where there is one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else process_peak_memory()
