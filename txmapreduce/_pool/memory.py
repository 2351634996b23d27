"""
The memory of workers, looked at from outside.

What counts is what is resident of all processes in a worker's group: its own, that of what it forked, and what it
shares with them or with the coordinator. It is looked at only while tasks run, and so seldom that it costs next to
nothing; what grows faster than that is seen late.

A worker that has more than half of what it may have is asked for what it keeps between tasks, for that grows by right.
One that has more than all of it is killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from .cgroup import folders
from .slots import Slot

__all__ = ["MemoryWatch", "resident", "total_memory"]

SHORTEST = 0.05
"""Seconds from one look to the next, at the least."""
SHARE = 0.003
"""What looking may cost, as a share of one processor."""


_LIMITS = ("memory.max", "memory.limit_in_bytes")
"""Where a control group's limit stands, in versions 2 and 1."""


class Keeper(Protocol):
    """
    Who owns the slots.
    """

    def relieve(self, slot: Slot) -> None:
        """
        The child has much: get back what it keeps.
        """

    def exceeded(self, slot: Slot, excess: str) -> None:
        """
        The child has too much, as C{excess} says.
        """


class MemoryWatch:
    """
    Watches the children of some slots.
    """

    def __init__(
        self,
        reactor: Any,
        limit: int,
        slots: Sequence[Slot],
        keeper: Keeper,
        measure: Callable[[Iterable[int]], Mapping[int, int]] | None = None,
    ) -> None:
        """
        @param measure: gives the bytes of process groups; tests give their own.
        """
        self._reactor = reactor
        self._limit = limit
        self._slots = slots
        self._keeper = keeper
        self._measure = measure if measure is not None else resident()
        self._next: Any = None

    def wake(self) -> None:
        """
        There is a task.
        """
        if self._next is None:
            self._next = self._reactor.callLater(SHORTEST, self._look)

    def _look(self) -> None:
        self._next = None
        busy = [slot for slot in self._slots if slot.queue]
        if not busy:
            return
        began = time.thread_time()
        sizes = self._measure([slot.child.pid for slot in busy])
        pause = max(SHORTEST, (time.thread_time() - began) / SHARE)
        self._next = self._reactor.callLater(pause, self._look)
        for slot in busy:
            self._judge(slot, sizes.get(slot.child.pid, 0))

    def _judge(self, slot: Slot, size: int) -> None:
        if size > self._limit:
            had, limit = _mebibytes(size), _mebibytes(self._limit)
            self._keeper.exceeded(slot, f"was killed because it had {had}, more than its memory_limit of {limit},")
        elif 2 * size > self._limit and slot.keeps:
            self._keeper.relieve(slot)

    def stop(self) -> None:
        """
        Look no more.
        """
        if self._next is not None:
            self._next.cancel()
            self._next = None


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.4g} MiB"


def total_memory() -> int:
    """
    The bytes of memory that this process and its workers may have: all that there is, or what the control group allows.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in (folder / name for folder in folders("memory") for name in _LIMITS):
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(limits)


def resident() -> Callable[[Iterable[int]], Mapping[int, int]]:
    """
    What measures the resident bytes of process groups.
    """
    import psutil  # costs time, and most pools have no limit

    known: dict[int, psutil.Process] = {}

    def measure(groups: Iterable[int]) -> Mapping[int, int]:
        nonlocal known
        sizes, before, known = dict.fromkeys(groups, 0), known, {}
        for pid in psutil.pids():
            try:
                group = os.getpgid(pid)
                if group in sizes:
                    known[pid] = before.get(pid) or psutil.Process(pid)
                    sizes[group] += known[pid].memory_info().rss
            except (psutil.Error, ProcessLookupError, PermissionError):  # it has ended, or is none of ours
                continue
        return sizes

    return measure
