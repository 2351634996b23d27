"""
The coordinator's decisions for many workers: the schedule of a run, driven by a clock that is made up.

    python benchmarks/scale.py [--chunks N] [--workers N ...] [--full]

No task is run and nothing is sent: each worker of the model takes about a second for a task, and then the next of those
that it has been given. What is measured is what the schedule itself takes, in one process: seconds of CPU for an event,
and the memory that it has at the most beyond what it began with. The result is checked: each chunk counts once.
"""

from __future__ import annotations

import argparse
import heapq
import random
import resource
import sys
import time
from collections import deque
from dataclasses import dataclass
from itertools import count

from txmapreduce._schedule.events import (
    Abort,
    Capacity,
    Conclude,
    Event,
    Finished,
    FoldAttempt,
    Got,
    Kill,
    MapAttempt,
    Outcome,
    Plan,
    Read,
    Started,
    Submit,
    Tick,
    Wake,
)
from txmapreduce._schedule.schedule import Schedule

__all__ = ["Model", "Result", "main", "plans"]


def plans(chunks: int) -> dict[str, Plan]:
    """
    Runs over C{chunks} splits, as they are planned for a cluster.
    """
    common = {"splits": True, "length": chunks, "bundle": False, "speculate": True}
    return {
        "list": Plan(collects=True, ordered=False, **common),  # type: ignore[arg-type]
        "reduce": Plan(collects=False, ordered=True, **common),  # type: ignore[arg-type]
        "by key": Plan(collects=False, ordered=False, partitioned=True, npartitions=64, **common),  # type: ignore[arg-type]
    }


@dataclass
class Result:
    """
    What a run of the model took. C{seconds} are of CPU.
    """

    events: int
    seconds: float
    nbytes: int
    slowest: float


class Model:
    """
    A backend and an input that are made up.
    """

    def __init__(self, plan: Plan, chunks: int, workers: int, seed: int = 0) -> None:
        self._schedule = Schedule(plan, 0.0)
        self._left = chunks
        self._chunks = chunks
        self._workers = workers
        self._random = random.Random(seed)
        self._idle = list(range(workers))
        self._waiting: deque[int] = deque()
        self._on: dict[int, int] = {}  # which worker runs an attempt
        self._attempts: dict[int, MapAttempt | FoldAttempt] = {}
        self._due: list[tuple[float, int, Event]] = []
        self._order = count()
        self._now = 0.0
        self._ended: Conclude | Abort | None = None

    def run(self) -> Result:
        """
        From the first event to the last.
        """
        events, seconds, slowest = 0, 0.0, 0.0
        before = _peak()
        self._at(0.0, Capacity(self._workers))
        while self._ended is None:
            self._now, _, event = heapq.heappop(self._due)
            self._before(event)
            begun = time.process_time()
            said = self._schedule.handle(event, self._now)
            took = time.process_time() - begun
            events, seconds, slowest = events + 1, seconds + took, max(slowest, took)
            for instruction in said:
                self._obey(instruction)
        if isinstance(self._ended, Abort) or self._schedule.tally.chunks != self._chunks:
            raise AssertionError(f"{self._ended} after {self._schedule.tally.chunks} chunks of {self._chunks}")
        return Result(events, seconds, _peak() - before, slowest)

    def _at(self, when: float, event: Event) -> None:
        heapq.heappush(self._due, (when, next(self._order), event))

    def _before(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._attempts.pop(event.id, None)
            self._free(event.id)

    def _free(self, id: int) -> None:
        """
        The worker of an attempt goes on with what waits.
        """
        worker = self._on.pop(id, None)
        if worker is None:
            return
        self._idle.append(worker)
        self._start()

    def _start(self) -> None:
        while self._idle and self._waiting:
            id = self._waiting.popleft()
            attempt = self._attempts.get(id)
            if attempt is None:
                continue
            self._on[id] = self._idle.pop()
            self._at(self._now, Started(id))
            seconds = self._random.uniform(0.5, 1.5)
            if self._random.random() < 0.001:
                seconds *= 10  # a straggler
            self._at(self._now + seconds, Finished(id, self._outcome(attempt, seconds)))

    def _outcome(self, attempt: MapAttempt | FoldAttempt, seconds: float) -> Outcome:
        records = 1000 if isinstance(attempt, MapAttempt) else 0
        return Outcome(("data", attempt.id), records=records, size=1000, nparts=64, nbytes=1 << 20, seconds=seconds)

    def _obey(self, instruction: object) -> None:
        if isinstance(instruction, Read):
            there = min(1, self._left)
            self._left -= there
            self._at(self._now, Got(instruction.lot, there, not there, "split"))
        elif isinstance(instruction, Submit):
            self._attempts[instruction.attempt.id] = instruction.attempt
            self._waiting.append(instruction.attempt.id)
            self._start()
        elif isinstance(instruction, Kill):
            self._attempts.pop(instruction.id, None)
            self._free(instruction.id)
        elif isinstance(instruction, Wake):
            self._at(instruction.at, Tick())
        elif isinstance(instruction, (Conclude, Abort)):
            self._ended = instruction


def _peak() -> int:
    """
    The bytes that this process has had in memory at the most.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the schedule for many workers.")
    parser.add_argument("--chunks", type=int, default=20_000, help="chunks of a run (default: 20,000)")
    parser.add_argument("--workers", type=int, nargs="*", default=[10, 100, 1000], help="default: 10 100 1000")
    parser.add_argument("--jobs", nargs="*", default=["list", "reduce", "by key"], help="default: all three kinds")
    parser.add_argument("--full", action="store_true", help="10 million chunks, up to 10,000 workers")
    args = parser.parse_args()
    chunks, workers = (10_000_000, [10, 100, 1000, 10_000]) if args.full else (args.chunks, args.workers)
    print("| run | workers | chunks | events | events/s | us an event | slowest event, ms | memory, MiB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in args.jobs:
        for number in workers:
            got = Model(plans(chunks)[name], chunks, number).run()
            print(
                f"| {name} | {number:,} | {chunks:,} | {got.events:,} | {got.events / got.seconds:,.0f} "
                f"| {1e6 * got.seconds / got.events:.1f} | {1e3 * got.slowest:.1f} | {got.nbytes >> 20} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
