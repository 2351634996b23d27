"""
What the coordinator takes of memory and descriptors, whatever its workers and its input do: a script for large numbers,
C{scripts/soak}, and the functions that the tests call with small ones.

Each function does its worst on a pool of its own in this process, and gives what has grown by that as a dict.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from txmapreduce import MapReduce, Policy, Processes
from txmapreduce._pool import launch
from txmapreduce.aggregates import Sum

from . import naughty
from .leftovers import descriptors, turn

MEBI = 1 << 20
RECORD = 64 << 10
ONE = Policy(chunksize=1, retries=3)


class Memory:
    """
    How much memory this process has at most, from now on, above what it has now.
    """

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._before = self._peak()

    def _peak(self) -> int:
        status = Path("/proc/self/status").read_text().split()
        return int(status[status.index("VmHWM:") + 1]) << 10

    def grown(self) -> float:
        """
        In MiB.
        """
        return round((self._peak() - self._before) / MEBI, 1)


def resident() -> int:
    """
    The bytes that this process has in memory when there is no garbage.
    """
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def census() -> dict[str, int]:
    """
    What this process has of what must not pile up.
    """
    children = psutil.Process().children(recursive=True)
    zombies = [child for child in children if child.status() == psutil.STATUS_ZOMBIE]
    return {"descriptors": len(descriptors()), "threads": threading.active_count(), "zombies": len(zombies)}


async def deaths(count: int) -> dict[str, float]:
    """
    So many workers of one pool die, one after the other in each of two places.
    """
    async with Processes(2) as pool:

        async def die(count: int) -> None:
            while count > 0:
                some = min(count, 50)
                records = await MapReduce(naughty.exit_first, policy=ONE).run(range(some), backend=pool)
                assert records == list(range(some))
                count -= some
            await MapReduce(naughty.slow_pid_of, policy=ONE).run(range(6), backend=pool)  # both are there

        await die(min(count, 100))
        before, memory, begun = census(), resident(), time.monotonic()
        await die(count)
        seconds = round((time.monotonic() - begun) / count, 3)
        grown = {name: number - before[name] for name, number in census().items()}
        return {**grown, "MiB": round((resident() - memory) / MEBI, 1), "seconds each": seconds}


async def flood(nbytes: int) -> dict[str, float]:
    """
    A worker prints so many bytes, in short lines and in long ones.
    """
    async with Processes(1) as pool:
        await MapReduce(naughty.print_much, policy=ONE).run([(1000, 100)], backend=pool)
        memory = Memory()
        lines = [(nbytes // 2 // 100, 100), (nbytes // 2 // 100_000, 100_000)]
        await MapReduce(naughty.print_much, policy=ONE).run(lines, backend=pool)
        return {"MiB": memory.grown()}


async def stopped(nbytes: int) -> dict[str, float]:
    """
    So many bytes go through pipes of 4 KiB while one worker of two has been stopped; it goes on at the end.
    """
    count = nbytes // RECORD
    with patch.object(launch, "_PIPE_SIZE", 4096):
        async with Processes(2) as pool:
            await MapReduce(naughty.slow_pid_of, policy=ONE).run(range(6), backend=pool)
            memory, victim = Memory(), pool.pids[0]

            def records() -> Iterator[bytes]:
                for number in range(count):
                    if number == 50:
                        os.kill(victim, signal.SIGSTOP)
                    yield bytes(RECORD)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGCONT)

            assert await MapReduce(len, reduce=Sum()).run(records(), backend=pool) == count * RECORD
            return {"MiB": memory.grown()}


async def endless(seconds: float) -> dict[str, float]:
    """
    The input never ends and the workers are slow: how many chunks were read ahead of those that were done.
    """
    pulled = ahead = 0
    async with Processes(2) as pool:
        await MapReduce(naughty.slow_pid_of, policy=ONE).run(range(6), backend=pool)

        def records() -> Iterator[int]:
            nonlocal pulled, ahead
            for number in itertools.count():
                pulled = number + 1
                if number > 20:
                    ahead = max(ahead, pulled - run.progress().chunks)
                yield number

        run = MapReduce(naughty.slow_pid_of, reduce=Sum(), policy=ONE).start(records(), backend=pool)
        memory = Memory()
        await turn(seconds)
        run.cancel()
        await run.result.addErrback(lambda failure: None)
        return {"MiB": memory.grown(), "chunks ahead for each worker": ahead / 2}


WAYS: dict[str, tuple[Callable[[Any], Coroutine[Any, Any, dict[str, float]]], float]] = {
    "flood": (flood, 100_000_000),
    "stopped": (stopped, 1 << 30),
    "endless": (endless, 20),
    "deaths": (deaths, 10_000),
}


def main() -> None:
    """
    One of them, or all, each in turn.
    """
    parser = argparse.ArgumentParser(description="What the coordinator takes when everything goes wrong.")
    parser.add_argument("ways", nargs="*", default=[*WAYS], metavar="way", help=f"of {', '.join(WAYS)}; default: all")
    parser.add_argument("--size", type=float, help="bytes, deaths or seconds, in place of the full size")
    options = parser.parse_args()

    def each(reactor: object) -> Deferred[None]:
        return Deferred.fromCoroutine(run_all())

    async def run_all() -> None:
        for way in options.ways:
            function, size = WAYS[way]
            print(json.dumps({"way": way, **await function(int(options.size or size))}), flush=True)

    react(each)


if __name__ == "__main__":
    main()
