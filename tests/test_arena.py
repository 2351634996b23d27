"""
Tests for L{txmapreduce._wire.arena}, alone and under real runs.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
from typing import Any
from unittest import skipUnless

import numpy
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce import MapReduce, Policy, Processes
from txmapreduce._wire import arena as _arena
from txmapreduce._wire.arena import PAGE, SMALLEST, Arena, Blocks, create
from txmapreduce.errors import ProtocolError
from txmapreduce.testing import functions

from .leftovers import NothingLeft, descriptors, gone
from .support import python

MIB = 1 << 20
ONE_EACH = Policy(chunksize=1)
LINUX = skipUnless(hasattr(os, "memfd_create"), "there is no memfd")


class BlocksTests(SynchronousTestCase):
    """
    Which pages are taken.
    """

    @given(st.lists(st.one_of(st.integers(1, 9), st.tuples(st.integers(0, 20))), max_size=60))
    def test_nothingOverlapsAndNothingIsLost(self, steps: list[Any]) -> None:
        """
        Blocks never overlap, one is refused only where no gap is large enough, and in the end all is there again.
        """
        blocks, free = Blocks(32), set(range(32))
        for step in steps:
            if isinstance(step, int):
                start = blocks.take(step)
                if start is None:
                    self.assertFalse(any({*range(n, n + step)} <= free for n in range(32)))
                else:
                    self.assertLessEqual({*range(start, start + step)}, free)
                    free -= {*range(start, start + step)}
            elif blocks.taken:
                start = sorted(blocks.taken)[step[0] % len(blocks.taken)]
                free |= {*range(start, start + blocks.give_back(start))}
        for start in list(blocks.taken):
            blocks.give_back(start)
        self.assertEqual(blocks.take(32), 0)

    def test_lowestFirst(self) -> None:
        """
        What was used before is used again.
        """
        blocks = Blocks(10)
        blocks.take(3)
        blocks.take(3)
        blocks.give_back(0)
        self.assertEqual((blocks.take(2), blocks.take(1), blocks.take(4)), (0, 2, 6))

    def test_unknown(self) -> None:
        """
        What is not taken can't be given back.
        """
        with self.assertRaises(KeyError):
            Blocks(10).give_back(0)


@LINUX
class ArenaTests(SynchronousTestCase):
    """
    Both parts of an arena, in one process.
    """

    def setUp(self) -> None:
        arena = create()
        assert arena is not None
        self.ours, self.theirs = arena, Arena(arena.fd, worker=True)
        self.ours.shared = True
        self.addCleanup(self.ours.close)

    def memory(self) -> int:
        return os.fstat(self.ours.fd).st_blocks * 512

    def pass_on(self, data: bytes) -> memoryview:
        place = self.theirs.lend(data)
        assert place is not None
        return self.ours.borrow(place)

    def test_bothWays(self) -> None:
        """
        What is lent on one side can be borrowed on the other.
        """
        for lender, borrower in ((self.ours, self.theirs), (self.theirs, self.ours)):
            data = [os.urandom(SMALLEST + n) for n in (0, 1, PAGE)]
            places = [lender.lend(item) for item in data]
            self.assertEqual([bytes(borrower.borrow(place)) for place in places], data)  # type: ignore[arg-type]

    def test_notLent(self) -> None:
        """
        What is small, what does not fit, and what the other side could not read, goes through the pipe.
        """
        self.assertIsNone(self.ours.lend(bytes(SMALLEST - 1)))
        self.assertIsNone(self.ours.lend(bytes(_arena.DOWN + 1)))
        self.ours.shared = False
        self.assertIsNone(self.ours.lend(bytes(SMALLEST)))

    def test_lastView(self) -> None:
        """
        A block comes back when the last view of it is gone, and is lent again.
        """
        view = self.pass_on(bytes(MIB))
        array = numpy.frombuffer(view, "B")[5:]
        del view
        self.assertEqual(self.ours.ended(), ())
        del array
        ended = self.ours.ended()
        self.assertEqual(ended, (0,))
        self.theirs.give_back(ended)
        before = self.memory()
        self.assertEqual(self.theirs.lend(bytes(MIB)), MIB)
        self.assertEqual(self.memory(), before)

    def test_private(self) -> None:
        """
        What is written into a view is seen by that view alone, and is gone with it.
        """
        place = self.theirs.lend(bytes(MIB))
        assert place is not None
        one = self.ours.borrow(place)
        one[:3] = b"abc"
        self.assertEqual(os.pread(self.ours.fd, 3, _arena.DOWN), bytes(3))
        del one
        self.assertEqual(bytes(self.ours.borrow(place)[:3]), bytes(3))

    def test_fork(self) -> None:
        """
        What a fork may still look at is not lent again.
        """
        view = self.pass_on(bytes(MIB))
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        del view
        self.assertEqual(self.ours.ended(), ())

    def test_memoryGoesBack(self) -> None:
        """
        Of what was used once, only so much memory is kept.
        """
        count = 3 * _arena.KEEP // (8 * MIB)
        views = [self.pass_on(bytes(8 * MIB)) for _ in range(count)]
        self.assertGreaterEqual(self.memory(), 3 * _arena.KEEP)
        views.clear()
        self.theirs.give_back(self.ours.ended())
        self.assertLessEqual(self.memory(), _arena.KEEP)
        data = [os.urandom(8 * MIB) for _ in range(count)]
        self.assertEqual([bytes(view) for view in map(self.pass_on, data)], data)

    def test_outside(self) -> None:
        """
        A place outside of the half is refused, and so is one that comes back and was not lent.
        """
        pages = _arena.UP // PAGE
        for place in (pages << 31 | 1, (pages - 1) << 31 | PAGE + 1, 0, 1 << 80 | 1):
            with self.assertRaises(ProtocolError):
                self.ours.borrow(place)
        self.ours.borrow((pages - 1) << 31 | PAGE)
        with self.assertRaises(ProtocolError):
            self.ours.give_back([3])

    def test_cannotBeCut(self) -> None:
        """
        A worker can't take away what the coordinator reads.
        """
        with self.assertRaises(PermissionError):
            os.ftruncate(self.ours.fd, 0)

    def test_closed(self) -> None:
        """
        Views outlive the arena. A closed one lends nothing.
        """
        view = self.pass_on(b"x" * MIB)
        self.ours.close()
        self.assertIsNone(self.ours.lend(bytes(MIB)))
        self.ours.give_back([7])
        self.assertEqual(bytes(view), b"x" * MIB)

    def test_noMemory(self) -> None:
        """
        Where the system has no memory to give, nothing is lent, and the room is not lost.
        """

        def fail(*_: object) -> int:
            raise OSError(28, "No space left on device")

        patch = self.patch(os, "pwrite", fail)
        self.assertIsNone(self.theirs.lend(bytes(MIB)))
        patch.restore()
        self.assertEqual(self.theirs.lend(bytes(MIB)), MIB)

    def test_noArena(self) -> None:
        """
        Where the system has no file, no room in it, no mapping, or a limit, there is no arena, and no descriptor left.
        """

        def fail(*_: object) -> Any:
            raise OSError(12, "Cannot allocate memory")

        before = descriptors()
        for owner, name in ((os, "memfd_create"), (os, "ftruncate"), (_arena, "_Mapping")):
            patch = self.patch(owner, name, fail)
            self.assertIsNone(create())
            patch.restore()
        self.patch(resource, "getrlimit", lambda _: (1 << 40, 1 << 40))
        self.assertIsNone(create())
        self.assertEqual(descriptors(), before)
        self.assertIsNone(_arena.join(None))


@LINUX
class FreeMemoryTests(SynchronousTestCase):
    """
    The heap of this process.
    """

    def test_returned(self) -> None:
        """
        What lies free in the heap, below something that is still in use, goes back to the system where the C library
        can do that.
        """
        done = python(
            "-c",
            """if True:
            import psutil
            from txmapreduce._wire.arena import _libc, return_free_memory
            blocks = [bytes(50_000) for _ in range(1000)]
            del blocks[:-1]
            resident = psutil.Process().memory_info().rss
            return_free_memory()
            returned = resident - psutil.Process().memory_info().rss
            print(returned > 40_000_000 or not hasattr(_libc, "malloc_trim"))
            """,
        )
        self.assertEqual((done.stdout, done.stderr), ("True\n", ""))


class RunTests(NothingLeft):
    """
    Large values in real runs.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.pool = Processes(2)
        await MapReduce(functions.identity, policy=ONE_EACH).run(range(4), backend=self.pool)  # both have said hello

    async def tearDown(self) -> None:
        await self.pool.close()
        await super().tearDown()

    async def test_types(self) -> None:
        """
        Large values come back as what they were, arrays can be written to, and nobody else sees that.
        """
        array = numpy.arange(MIB)
        data: list[Any] = [b"x" * MIB, bytearray(b"y" * MIB), array, (array, "z"), array[::2], "ü" * MIB]
        got = await MapReduce(functions.identity, policy=ONE_EACH).run(data, backend=self.pool)
        self.assertEqual([type(item) for item in got], [type(item) for item in data])
        self.assertEqual([*got[:2], got[5]], [*data[:2], data[5]])
        got[2][:] = 7
        numpy.testing.assert_array_equal(got[3][0], array)
        numpy.testing.assert_array_equal(got[4], array[::2])

    async def test_mapperKeepsAndWrites(self) -> None:
        """
        A mapper may change the array that it gets, and keep it.
        """
        data = [numpy.full(MIB, n, "B") for n in range(200)]
        got = await MapReduce(_change_and_keep, policy=ONE_EACH).run(data, backend=self.pool)
        self.assertEqual([(int(item.min()), int(item.max())) for item in got], [(n + 1, n + 1) for n in range(200)])
        self.assertEqual([int(item[0]) for item in data], list(range(200)))

    async def test_full(self) -> None:
        """
        More than fits goes through the pipe. Everything stays valid when the workers are gone, killed or closed.
        """
        self.patch(_arena, "UP", 16 * MIB)
        pool = Processes(2)
        try:
            got = await MapReduce(_array_of, policy=ONE_EACH).run(range(200), backend=pool)
            pids = pool.pids
            os.kill(pids[0], signal.SIGKILL)
            self.assertEqual(gone(pids[:1], 10), [])
            more = await MapReduce(_array_of, policy=ONE_EACH).run(range(50), backend=pool)
        finally:
            await pool.close()
        self.assertEqual([int(item.sum()) // MIB for item in got], list(range(200)))
        self.assertEqual([int(item.sum()) // MIB for item in more], list(range(50)))

    async def test_fold(self) -> None:
        """
        Partials that are large pass from worker to worker.
        """
        job = MapReduce(_array_of, reduce=numpy.add, policy=Policy(chunksize=1, reproducible=True))
        total = await job.run(range(100), backend=self.pool)
        self.assertEqual((int(total.min()), int(total.max())), (sum(range(100)) % 256, sum(range(100)) % 256))

    async def test_noArena(self) -> None:
        """
        Without an arena everything goes through the pipe.
        """
        self.patch(_arena, "create", lambda: None)
        pool = Processes(1)
        try:
            got = await MapReduce(functions.identity, policy=ONE_EACH).run([b"x" * MIB] * 4, backend=pool)
        finally:
            await pool.close()
        self.assertEqual(got, [b"x" * MIB] * 4)

    async def test_memoryComesBack(self) -> None:
        """
        Results that were dropped make room for the next: the file does not grow with every run.
        """
        job = MapReduce(_array_of, policy=ONE_EACH)
        sizes = []
        for _ in range(4):
            await job.run(range(100), backend=self.pool)
            gc.collect()
            sizes.append(sum(map(_arena_size, self.pool.pids)))
        self.assertLessEqual(sizes[-1], 2 * 120 * MIB)

    async def test_descriptors(self) -> None:
        """
        A worker's arena is one descriptor here.
        """
        mine = [what for what in descriptors().values() if "txmapreduce-arena" in what]
        self.assertEqual(len(mine), len(self.pool.pids))


def _change_and_keep(array: Any) -> Any:
    kept = sys.__dict__.setdefault("_txm_kept", [])
    array += 1
    kept.append(array)
    assert len(kept) % 40 or all((item == item[0]).all() for item in kept)
    return array


def _array_of(n: int) -> Any:
    return numpy.full(MIB, n, "B")


def _arena_size(pid: int) -> int:
    return os.stat(f"/proc/{pid}/fd/6").st_blocks * 512
