"""
Tests for L{txmapreduce._pool.memory}: when it looks and what it does then, with a clock; what it measures, with
processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import psutil
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._pool import memory
from txmapreduce._pool.memory import SHARE, SHORTEST, MemoryWatch, resident
from txmapreduce._pool.slots import Slot

from .leftovers import Host, gone
from .test_architecture import loaded_by

LIMIT = 100 << 20


class WatchTests(SynchronousTestCase):
    """
    Tests for L{MemoryWatch}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.slots: list[Slot] = []
        self.sizes: dict[int, int] = {}
        self.looks: list[list[int]] = []
        self.relieved: list[int] = []
        self.excesses: list[tuple[int, str]] = []
        self.cost = 0.0
        self.spent = 0.0
        self.patch(memory, "time", SimpleNamespace(thread_time=lambda: self.spent))
        self.watch = MemoryWatch(self.clock, LIMIT, self.slots, self, self.measure)

    def measure(self, groups: Iterable[int]) -> Mapping[int, int]:
        self.looks.append(list(groups))
        self.spent += self.cost
        return self.sizes

    def relieve(self, slot: Slot) -> None:
        self.relieved.append(slot.child.pid)

    def exceeded(self, slot: Slot, excess: str) -> None:
        self.excesses.append((slot.child.pid, excess))

    def slot(self, pid: int, size: int, *, tasks: int = 1, keeps: bool = False) -> Slot:
        child: Any = SimpleNamespace(pid=pid)
        slot = Slot(child, keeps={1} if keeps else set())
        slot.queue.extend([Any] * tasks)  # type: ignore[list-item]
        self.slots.append(slot)
        self.sizes[pid] = size
        return slot

    def test_only_while_tasks_run(self) -> None:
        """
        It looks at those that have tasks, and stops looking when none has, until it is woken again.
        """
        busy, _ = self.slot(1, 0), self.slot(2, 0, tasks=0)
        self.watch.wake()
        self.watch.wake()
        self.clock.pump([SHORTEST] * 3)
        self.assertEqual(self.looks, [[1]] * 3)
        busy.queue.clear()
        self.clock.pump([SHORTEST] * 3)
        self.assertEqual((len(self.looks), self.clock.getDelayedCalls()), (3, []))
        busy.queue.append(Any)  # type: ignore[arg-type]
        self.watch.wake()
        self.clock.advance(SHORTEST)
        self.assertEqual(len(self.looks), 4)

    def test_too_much(self) -> None:
        """
        One that has more than the limit is reported, with what it had and what it might have.
        """
        self.slot(1, LIMIT)
        self.slot(2, LIMIT + (1 << 20))
        self.watch.wake()
        self.clock.advance(SHORTEST)
        text = "was killed because it had 101 MiB, more than its memory_limit of 100 MiB,"
        self.assertEqual((self.excesses, self.relieved), ([(2, text)], []))

    def test_much(self) -> None:
        """
        One that has more than half of it is relieved of what it keeps, if it keeps anything.
        """
        self.slot(1, LIMIT * 2 // 3, keeps=True)
        self.slot(2, LIMIT * 2 // 3)
        self.slot(3, LIMIT // 3, keeps=True)
        self.watch.wake()
        self.clock.advance(SHORTEST)
        self.assertEqual((self.excesses, self.relieved), ([], [1]))

    def test_cost(self) -> None:
        """
        The dearer a look, the longer the pause to the next: all of them take their share of a processor, no more.
        """
        self.slot(1, 0)
        self.watch.wake()
        for self.cost in (0.0, 0.001, 0.01):
            self.looks.clear()
            self.clock.pump([0.01] * 10_000)
            self.assertLessEqual(len(self.looks) * self.cost, 100 * SHARE + 2 * self.cost)
            self.assertGreaterEqual(len(self.looks), 0.9 * min(100 / SHORTEST, 100 * SHARE / (self.cost or 1e-9)) - 2)

    def test_stop(self) -> None:
        """
        It can be stopped, also when it is not looking.
        """
        self.watch.stop()
        self.slot(1, 0)
        self.watch.wake()
        self.watch.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


FAMILY = """
    import os, sys, time
    mine = b"x" * (30 << 20)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        more = b"y" * (50 << 20)
        os.write(writer, b"!")
        time.sleep(60)
    os.read(reader, 1)
    print(pid, flush=True)
    sys.stdin.read()
"""


class ResidentTests(SynchronousTestCase):
    """
    Tests for L{resident}.
    """

    def test_group(self) -> None:
        """
        All that a process and what it forked have counts; other processes don't.
        """
        host = Host(self, FAMILY)  # type: ignore[arg-type]
        host.line()
        pid = host.pid
        self.addCleanup(os.killpg, pid, signal.SIGKILL)
        alone = psutil.Process(pid).memory_info().rss
        size = resident()([pid])[pid]
        self.assertGreater(alone, 30 << 20)
        self.assertGreater(size, alone + (50 << 20))
        self.assertLess(size, 2 * alone + (70 << 20))

    def test_again(self) -> None:
        """
        Each time it is what there is then; a group without processes has nothing.
        """
        host = Host(self, FAMILY)  # type: ignore[arg-type]
        pid, child = host.pid, int(host.line())
        measure = resident()
        self.assertGreater(measure([pid])[pid], 80 << 20)
        os.killpg(pid, signal.SIGKILL)
        host.process.wait()
        self.assertEqual(gone([child], 5), [])
        self.assertEqual(measure([pid])[pid], 0)

    def test_loaded_when_needed(self) -> None:
        """
        psutil is loaded for a pool with a limit, and for no other.
        """
        make = "import txmapreduce; txmapreduce.Processes(1{})._open_pool()"
        self.assertNotIn("psutil", loaded_by(make.format("")))
        self.assertIn("psutil", loaded_by(make.format(", memory_limit='1GiB'")))
