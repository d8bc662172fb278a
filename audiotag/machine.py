"""What this machine has: cores, a processor, perhaps a GPU. By cheap looks, before anything heavy is imported."""

from __future__ import annotations

import os
import platform
from contextlib import suppress


def has_gpu() -> bool:
    """Whether a cheap look finds signs of a GPU that torch might use."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    # A driver of NVIDIA on Linux, on Windows, or on Windows seen from WSL; one of AMD.
    evidence = ("/dev/nvidiactl", r"C:\Windows\System32\nvcuda.dll", "/dev/dxg", "/dev/kfd")
    return any(map(os.path.exists, evidence))


def core_count() -> int:
    """Cores that this process may use, which on shared machines are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """What the processor calls itself, as far as the system tells."""
    name = ""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()
