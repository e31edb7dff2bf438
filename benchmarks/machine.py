"""The machine that figures belong to."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from pytest_arl.backends.local.probe import probe

__all__ = ["describe"]


def describe() -> dict[str, str]:
    """What a reader must know to compare figures with his own."""
    host = probe()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "isolation": host.tier,
        "user": "root" if host.privileged else "an ordinary user",
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model", "CPU part")):
            return line.partition(":")[2].strip()
    return platform.machine()
