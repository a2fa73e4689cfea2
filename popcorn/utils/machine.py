"""The CPU and the main memory, without importing torch."""

import platform
import sys

import psutil


def cpu_name() -> str:
    """The CPU's name, and the number of cores that this process may use."""
    from joblib import cpu_count  # respects affinities and containers

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or no name given
    cores = cpu_count()
    return f"{name}, {cores} core{'s' if cores > 1 else ''}"


def process_peak_memory() -> int:
    """Peak main memory of this process, in bytes."""
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return memory.peak_wset
    import resource  # which Windows lacks; psutil has no peak elsewhere

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
