"""
The memory of processes.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable

import psutil

__all__ = ["high_water_mark", "memory_of", "memory_of_all"]


def memory_of(process: psutil.Process) -> int:
    """
    Bytes of a process: its share of what it shares with others where the system tells (Linux), without that elsewhere.
    """
    info = process.memory_full_info()
    return int(getattr(info, "pss", info.uss))


def memory_of_all(processes: Iterable[psutil.Process]) -> int:
    """
    Bytes of several processes, of which some may have ended.
    """
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            total += memory_of(process)
    return total


def high_water_mark() -> int:
    """
    The most memory that this process has had, in bytes. On Linux C{ru_maxrss} won't do: it starts with that of the
    process that this one was forked from.
    """
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
