"""
Runs jobs on real workers that don't live long: SIGKILL, SIGSEGV, an exit and SIGSTOP end them at random moments,
seeded, 50 ms on average after their first task was under way. Each result has to be what plain Python gives, each chunk
counted once, and in the end nothing may be left behind.

A worker takes longer than that to start, so its life begins with the first task that it notes down, not with its
start. A stopped worker says nothing, so C{task_timeout} finds it.

    scripts/chaos                 20 runs
    scripts/chaos --runs 1000     so many
    scripts/chaos --seed 5        other moments
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import reduce
from operator import add
from typing import Any

import psutil
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react

from txmapreduce import MapReduce, Policy, Processes, current_task
from txmapreduce.aggregates import Counts

from .leftovers import children, descriptors, turn

LIFE = 0.05
RECORDS = 60
PACE = 0.002
"""Seconds that a record takes: a run of sixty on two workers is worth a life or two."""

LIMIT = 60
"""Seconds after which a run counts as one that hangs."""

_SIGNALS = {"KILL": signal.SIGKILL, "SEGV": signal.SIGSEGV, "exit": signal.SIGUSR1, "STOP": signal.SIGSTOP}


def exit_when_told() -> None:
    """
    An initializer: the worker exits by itself when somebody says so, whatever it is doing.
    """
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))


def seen(record: int) -> int:
    """
    Count the record, and take a moment.
    """
    current_task().counter("chaos", "records").increment()
    time.sleep(PACE)
    return record


def squares(record: int) -> int:
    return seen(record) ** 2


def text(record: int) -> str:
    return f"{seen(record)},"


def keyed(record: int) -> Iterator[tuple[int, int]]:
    yield seen(record) % 7, record


def digits(record: int) -> str:
    return str(seen(record))


def ordered(key: int, values: Iterator[int]) -> Iterator[tuple[int, list[int]]]:
    yield key, sorted(values)


DATA = range(RECORDS)
SUMS = {key: sum(range(key, RECORDS, 7)) for key in range(7)}
KINDS: tuple[tuple[dict[str, Any], Any], ...] = (
    ({"mapper": squares}, [n * n for n in DATA]),
    ({"mapper": text, "reduce": add}, reduce(add, (f"{n}," for n in DATA))),
    ({"mapper": keyed, "reduce_by_key": add}, SUMS),
    ({"mapper": keyed, "reducer": ordered}, [(key, list(range(key, RECORDS, 7))) for key in range(7)]),
    ({"mapper": digits, "flat": True, "reduce": Counts()}, Counter("".join(map(str, DATA)))),
)
"""Kinds of jobs, and what each gives."""


class Reaper:
    """
    Ends the workers of a pool.
    """

    def __init__(self, rng: random.Random, pool: Processes, clock: Callable[[], float]) -> None:
        self._rng = rng
        self._pool = pool
        self._clock = clock
        self._ends: dict[int, tuple[float, str]] = {}  # when each worker's life ends, and how
        self.ended: Counter[str] = Counter()

    def look(self) -> None:
        """
        Give each worker that has begun with a task its time, and end those whose time has come.
        """
        for slot in list(self._pool._pool._slots if self._pool._pool else ()):
            pid = slot.child.pid
            if pid not in self._ends and slot.greeted and slot.child.began[1]:
                life = self._rng.expovariate(1 / LIFE)
                self._ends[pid] = (self._clock() + life, self._rng.choice(list(_SIGNALS)))
            elif pid in self._ends and self._ends[pid][0] <= self._clock() and not slot.child.dead:
                self._end(pid, self._ends.pop(pid)[1])
                self._ends[pid] = (float("inf"), "")

    def _end(self, pid: int, way: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, _SIGNALS[way])
            self.ended[way] += 1


def present() -> tuple[set[psutil.Process], set[int], set[threading.Thread]]:
    """
    The processes, descriptors and threads that there are.
    """
    return children(), set(descriptors()), set(threading.enumerate())


def leftovers(before: tuple[set[psutil.Process], set[int], set[threading.Thread]]) -> list[str]:
    """
    What there is that there was not before.
    """
    processes, fds, threads = before
    left = [f"process {child.pid} {child.status()}" for child in children() - processes]
    left += [f"descriptor {fd}: {what}" for fd, what in descriptors().items() if fd not in fds]
    return left + [f"thread {thread.name}" for thread in set(threading.enumerate()) - threads]


async def one_run(reactor: Any, seed: int, ended: Counter[str]) -> str:
    """
    A run. Returns what was wrong with it.
    """
    rng = random.Random(seed)
    options, expected = KINDS[seed % len(KINDS)]
    policy = Policy(chunksize=rng.choice((1, 5, 20, None)), retries=500, task_timeout=0.5, timeout=LIMIT)
    pool = Processes(2, initializer=exit_when_told)
    reaper = Reaper(rng, pool, reactor.seconds)
    run = MapReduce(**options, policy=policy).start(DATA, backend=pool)
    outcome: list[Any] = []
    run.result.addBoth(outcome.append)
    while not outcome:
        reaper.look()
        await turn(0.002)
    await pool.close()
    ended.update(reaper.ended)
    if outcome[0] != expected:
        return f"WRONG: {outcome[0]!r:.300}"
    counted = run.counters["chaos", "records"]
    return "" if counted == RECORDS else f"DOUBLE or lost: {counted} of {RECORDS} records counted"


async def batch(reactor: Any, seeds: range, say: Callable[[str], object] = print) -> int:
    """
    Runs with these seeds. Returns how many went wrong.
    """
    ended: Counter[str] = Counter()
    began, slowest, wrong = reactor.seconds(), 0.0, 0
    await turn()  # the reactor opens its own descriptors first
    before = present()
    for seed in seeds:
        start = reactor.seconds()
        problems = [await one_run(reactor, seed, ended)]
        slowest = max(slowest, reactor.seconds() - start)
        for _ in range(3):  # Twisted closes pipes one turn later
            await turn()
        problems = list(filter(None, [*problems, *leftovers(before)]))
        wrong += bool(problems)
        for problem in problems:
            say(f"seed {seed}: {problem}")
    ways = ", ".join(f"{number} by {way}" for way, number in sorted(ended.items()))
    say(f"{len(seeds)} runs in {reactor.seconds() - began:.0f} s, the slowest {slowest:.1f} s; workers ended: {ways}")
    say(f"{wrong} runs went wrong")
    return wrong


async def main(reactor: Any, runs: int, seed: int) -> None:
    if await batch(reactor, range(seed, seed + runs)):
        sys.exit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/chaos")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    react(lambda reactor: ensureDeferred(main(reactor, options.runs, options.seed)))
