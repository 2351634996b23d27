"""
How many processors this process may use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .._pool.cgroup import MEMBERSHIP, ROOT, folders

__all__ = ["available_cpus"]


def available_cpus() -> int:
    """
    How many processors this process may use: its affinity, cut by the quota of its control group; at least 1.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(ROOT, MEMBERSHIP)
    return max(1, min(count, count if quota is None else int(quota + 0.5)))


def _cgroup_quota(root: Path, membership: Path) -> float | None:
    """
    The smallest CPU quota, in processors, on the way from this process's control group to the root (versions 1 and 2).
    """
    quotas = (quota for folder in folders("cpu", root, membership) for quota in _quota_of(folder))
    return min(quotas, default=None)


def _quota_of(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return
    if quota not in ("max", "-1") and int(period) > 0:
        yield int(quota) / int(period)
