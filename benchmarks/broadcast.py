"""
An array that all tasks read: in a closure, and broadcast.

    python -m benchmarks.broadcast [MEBIBYTES]

For each way and 2 and 4 workers: seconds from before the array is prepared to when the first task has it and to when
the last worker has it, seconds to the first task of a second run, and the memory of coordinator and workers together
while all of them have it.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy
import psutil

from benchmarks.memory import memory_of
from txmapreduce import MapReduce, Policy, Processes, broadcast

__all__ = ["main"]

LONG = 0.5
"""Seconds that a task waits, so that each worker gets one."""


def wait(x: int) -> None:
    time.sleep(LONG)


def measured(array: Any) -> tuple[int, float, int, int]:
    """
    The process that runs this, when it had the array, and its memory and its parent's once all workers have it.
    """
    assert array.sum() > 0
    seconds = time.time()
    time.sleep(LONG)
    process = psutil.Process()
    parent = process.parent()
    return os.getpid(), seconds, memory_of(process), memory_of(parent) if parent else 0


def measure(way: str, workers: int, mebibytes: int) -> str:
    """
    A line of the table. Needs a fresh process, since memory that was used before counts.
    """
    array = numpy.ones(mebibytes << 17)
    policy = Policy(chunksize=1)
    with Processes(workers) as pool:
        MapReduce(wait, policy=policy).run_sync(range(workers), backend=pool)
        begun = time.time()
        if way == "broadcast":
            handle = broadcast(array)
            del array
            job = MapReduce(lambda x: measured(handle.value), policy=policy)
        else:
            job = MapReduce(lambda x: measured(array), policy=policy)
        runs = []
        for _ in range(2):
            done = job.run_sync(range(2 * workers), backend=pool)
            runs.append((begun, done))
            begun = time.time()
    (begun, first), (again, second) = runs
    latest = {pid: (own, parent) for pid, _, own, parent in first}
    memory = sum(own for own, _ in latest.values()) + max(parent for _, parent in latest.values())
    had = [min(at for pid, at, *_ in first if pid == each) - begun for each in latest]
    next_had = min(at for _, at, *_ in second) - again
    return f"| {way} | {workers} | {min(had):.2f} | {max(had):.2f} | {next_had:.2f} | {memory >> 20} |"


def main() -> None:
    if len(sys.argv) == 4:
        print(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
        return
    size = sys.argv[1] if len(sys.argv) > 1 else "256"
    print("| way | workers | first task, s | last worker, s | second run, s | memory, MiB |\n|---|---|---|---|---|---|")
    for workers in "24":
        for way in ("closure", "broadcast"):
            sys.stdout.flush()
            os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-m", "benchmarks.broadcast", way, workers, size])


if __name__ == "__main__":
    main()
