"""What the hardware is, and what training should ask of it."""

import ctypes
import os
import platform

import torch

from popcorn.errors import UserError
from popcorn.utils.machine import cpu_name, process_peak_memory

GLIBC_TRIM_THRESHOLD, GLIBC_TOP_PAD, GLIBC_MMAP_MAX = -1, -2, -4  # names of mallopt(3), from malloc.h
KERNELS = "64"


def tune_allocator() -> None:
    """Tells glibc to keep the memory that a step frees for the next step, and oneDNN to keep fewer kernels.

    Training on a CPU is up to 1.8 times as fast with the first; other C libraries are left alone. oneDNN would keep the last
    1,024 kernels, one for each shape and megabytes each: batches of all lengths filled 24 GiB with those of the CNN. It reads
    the number when it is first used.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(GLIBC_MMAP_MAX, 0)
        mallopt(GLIBC_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(GLIBC_TOP_PAD, 256 * 2**20)


def mixed_precision(asked: str) -> str:
    """Accelerate's word for `--precision`: bf16 where the hardware computes in it, fp16 on older GPUs, else "no".

    Raises `UserError` for a precision that this processor has no instructions for, where oneDNN has no LSTM in it.
    """
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        # is_bf16_supported counts emulation in by default, and a T4 emulates it at a fraction of its fp16 rate
        best = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    else:
        best = "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"
    if asked == "auto":
        return best
    if not has_gpu and asked not in ("fp32", best):
        raise UserError(f"--precision is {asked}: this processor does not compute in it, leave the option out")
    return "no" if asked == "fp32" else asked


def processor() -> str:
    """The name and number of the GPUs, or the CPU's."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return cpu_name()


def peak_memory() -> int:
    """Bytes: the most that this process has held, on the GPU where there is one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else process_peak_memory()
