"""
Functions that tests send to workers, beside those of L{txmapreduce.testing.functions}. They are apart so that a worker
need not import what tests do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any


def pid(x: Any) -> int:
    return os.getpid()


def only_length(batch: list[Any]) -> list[int]:
    return [len(batch)]


def slow_square(x: int) -> int:
    time.sleep(0.002)
    return x * x


def spills_always() -> None:
    """
    An initializer: from now on this worker spills at every look, in tiny blocks.
    """
    from txmapreduce._shuffle import merge, runs, spill

    spill.BATCH = spill.LOOK = 8
    spill.FILED, spill.SMALL = 24, 10
    runs.BLOCK = 60
    merge.FAN_IN = spill.FAN_IN = 3
    spill.Store.full = lambda self: True  # type: ignore[method-assign]


def by_tens(key: int, npartitions: int) -> int:
    return key // 10 % npartitions


def numbered(n: int) -> Iterator[tuple[int, int]]:
    yield n % 31, n * 7 % 10
