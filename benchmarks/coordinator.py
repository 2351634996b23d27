"""
How much of a run's CPU the coordinator needs, where a chunk takes some milliseconds.

    python benchmarks/coordinator.py [MILLISECONDS] [CHUNKS]

Two workers are busy with chunks of so many milliseconds each, 10 by default. Prints the CPU time of this process during
the run, start-up excluded, as a share of what two processors had to give.
"""

from __future__ import annotations

import sys
import time

from txmapreduce import MapReduce, Policy, Processes


def spin(milliseconds: float) -> float:
    """
    Use the processor for so long.
    """
    end = time.thread_time() + milliseconds / 1000
    while time.thread_time() < end:
        pass
    return milliseconds


def main(milliseconds: float = 10, chunks: int = 1000) -> None:
    with Processes(2) as pool:
        MapReduce(spin).run_sync([1] * 50, backend=pool)
        cpu, begun = time.process_time(), time.perf_counter()
        MapReduce(spin, policy=Policy(chunksize=1)).run_sync([milliseconds] * chunks, backend=pool)
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - begun
    print(
        f"{chunks:,} chunks of {milliseconds:g} ms in {seconds:.2f} s on 2 workers; the coordinator had "
        f"{1000 * cpu:.0f} ms of CPU, {1e6 * cpu / chunks:.0f} us a chunk: {50 * cpu / seconds:.2f} % of 2 processors"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
