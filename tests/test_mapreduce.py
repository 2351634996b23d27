"""
What is particular to runs in this process and in worker processes: what can be sent, and many runs on one pool.
"""

from __future__ import annotations

import functools
import operator
import os
import threading
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import mappers
from tests.support import PoolCase
from txmapreduce import Inline, MapReduce, Policy, Processes, close_default_pool
from txmapreduce.errors import BackendUnavailable, MapReduceError, NotSerializable, TaskFailed
from txmapreduce.testing import failing, functions
from txmapreduce.testing._case import failure_of, in_thread, until


class InlineTests(TestCase):
    """
    Runs in this process.
    """

    timeout = 30

    async def test_streamEndsClosed(self) -> None:
        """
        A stream ends, and C{aclose} returns, when the backend has closed the run, and not before: whoever reads on may
        need what the run had.
        """
        job, closing = MapReduce(functions.square), [Deferred[None](), Deferred[None]()]

        class Slow(Inline):
            def open(self, *args: Any) -> Any:
                session = super().open(*args)
                session.close = lambda: closing[0]
                return session

        backend = Slow()
        stream = job.stream([1, 2], backend=backend).__aiter__()
        self.assertEqual([await stream.__anext__(), await stream.__anext__()], [1, 4])
        end = Deferred.fromCoroutine(stream.__anext__())
        await deferLater(reactor, 0)
        self.assertNoResult(end)
        closing.pop(0).callback(None)
        with self.assertRaises(StopAsyncIteration):
            await end
        stream = job.stream([1, 2], backend=backend).__aiter__()
        await stream.__anext__()
        left = Deferred.fromCoroutine(stream.aclose())
        self.assertNoResult(left)
        closing[0].callback(None)
        await left

    async def test_unpicklableStays(self) -> None:
        """
        Nothing is serialised: the very objects are given and taken.
        """
        lock = threading.Lock()
        (same,) = await MapReduce(lambda x: x).run([lock], backend=Inline())
        self.assertIs(same, lock)


class Raises:
    """
    Can't be pickled, for a reason of its own.
    """

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        raise self.kind


class ProcessesTests(PoolCase):
    """
    Runs in worker processes.
    """

    async def test_workerLives(self) -> None:
        """
        What a mapper raises, be it SystemExit, does not end its worker.
        """
        pool = self.processes(1)
        (before,) = await MapReduce(mappers.pid).run([1], backend=pool)
        for error in (SystemExit(1), KeyboardInterrupt(), ValueError()):
            job = MapReduce(functools.partial(failing.raises, error))
            self.assertIsInstance(await failure_of(job.run([1], backend=pool)), TaskFailed)
        self.assertEqual(await MapReduce(mappers.pid).run([1], backend=pool), [before])

    async def test_unpicklableResult(self) -> None:
        """
        A result that can't be sent fails its run with a message that says what it is.
        """
        for job in (
            MapReduce(functions.generator_of),
            MapReduce(lambda x: threading.Lock()),
            MapReduce(lambda x: [(1, threading.Lock())], reduce_by_key=max),
        ):
            error = await failure_of(job.run([1, 2, 3], backend=self.pool))
            self.assertIsInstance(error, (TaskFailed, NotSerializable))
            self.assertRegex(str(error), "generator|lock")
        self.assertEqual(await MapReduce(functions.square).run([2], backend=self.pool), [4])

    async def test_unpicklableRecord(self) -> None:
        """
        A record that can't be sent is NotSerializable, and the message names it.
        """
        error = await failure_of(
            MapReduce(functions.identity, policy=Policy(chunksize=2)).run([1, threading.Lock()], backend=self.pool)
        )
        self.assertIsInstance(error, NotSerializable)
        self.assertIn("lock", str(error))

    async def test_recordThatExits(self) -> None:
        """
        A record that exits, or has no memory, when it is pickled is an error of its run: the next run on the same
        workers is none the worse.
        """
        for kind, expected in (
            (SystemExit, NotSerializable),
            (KeyboardInterrupt, NotSerializable),
            (GeneratorExit, NotSerializable),
            (MemoryError, MemoryError),
        ):
            run = MapReduce(str).run([1, Raises(kind)], backend=self.pool)
            await self.assertFailure(run, expected)
            self.assertEqual(await MapReduce(abs).run([-1, 2], backend=self.pool), [1, 2])

    async def test_unpicklableFunction(self) -> None:
        """
        A function that can't be sent is NotSerializable: which name, in which function.
        """
        secret = threading.Lock()
        error = await failure_of(MapReduce(lambda x: secret).run([1], backend=self.pool))
        self.assertIsInstance(error, NotSerializable)
        self.assertIn("secret", str(error))
        self.assertEqual(self.pool.pids, [])

    async def test_fairness(self) -> None:
        """
        A long run does not starve a short one on the same pool.
        """
        policy = Policy(chunksize=1, task_timeout=100)
        long = MapReduce(functools.partial(functions.slow, 0.005), policy=policy).start(range(400), backend=self.pool)
        await until(lambda: long.progress().chunks > 10)
        before = long.progress().chunks
        short = MapReduce(functools.partial(functions.slow, 0.005), policy=policy).start(range(20), backend=self.pool)
        await short.result
        self.assertLess(long.progress().chunks - before, 60)
        self.assertEqual(len(await long.result), 400)

    async def test_manyRuns(self) -> None:
        """
        Many runs of all kinds share a pool.
        """
        data = list(range(300))
        runs = []
        for _ in range(6):
            runs += [
                (MapReduce(functions.square), [x * x for x in data]),
                (MapReduce(functions.square, reduce=operator.add), sum(x * x for x in data)),
                (MapReduce(lambda x: [(x % 2, 1)], reduce_by_key=operator.add), {0: 150, 1: 150}),
            ]
        results = await gatherResults([job.run(data, backend=self.pool) for job, _ in runs])
        self.assertEqual(results, [expected for _, expected in runs])

    async def test_cancelledRunLeavesThePool(self) -> None:
        """
        What ran for a cancelled run is stopped, and the pool is there for the next.
        """
        run = MapReduce(functools.partial(functions.slow, 60)).start(range(4), backend=self.pool)
        await until(lambda: self.pool.pids)
        run.cancel()
        self.assertIsInstance(await failure_of(run.result), CancelledError)
        self.assertEqual(await MapReduce(functions.square).run(range(3), backend=self.pool), [0, 1, 4])

    async def test_streamClosedEarly(self) -> None:
        """
        When the reader of a stream leaves, the workers are free for others.
        """
        stream = MapReduce(functools.partial(functions.slow, 0.01)).stream(iter(int, 1), backend=self.pool).__aiter__()
        await stream.__anext__()
        await stream.aclose()
        self.assertEqual(await MapReduce(functions.square).run(range(3), backend=self.pool), [0, 1, 4])

    async def test_closed(self) -> None:
        """
        A closed pool takes no more runs, but lets those under way end.
        """
        run = MapReduce(functions.square).run(range(100), backend=self.pool)
        closing = self.pool.close()
        error = await failure_of(MapReduce(functions.square).run([1], backend=self.pool))
        self.assertIsInstance(error, BackendUnavailable)
        self.assertEqual(await run, [x * x for x in range(100)])
        await closing
        self.assertEqual(self.pool.pids, [])

    async def test_asyncWith(self) -> None:
        """
        At the end of C{async with} the workers have ended.
        """
        async with Processes(2) as pool:
            pids = set(await MapReduce(mappers.pid).run(range(50), backend=pool))
            self.assertLessEqual(pids, set(pool.pids))
        self.assertEqual(pool.pids, [])
        for pid in pids:
            with self.assertRaises(ProcessLookupError):
                os.kill(pid, 0)

    async def test_lateCloseOfNothing(self) -> None:
        """
        A pool that was never used closes at once, as often as one likes.
        """
        pool = Processes(2)
        await pool.close()
        await pool.close()

    async def test_defaultPool(self) -> None:
        """
        Runs without C{backend=} share one pool; C{close_default_pool} ends its workers, and the next run makes another.
        """
        first = set(await MapReduce(mappers.pid).run(range(4)))
        await close_default_pool()
        second = set(await MapReduce(mappers.pid).run(range(4)))
        await close_default_pool()
        self.assertEqual(first & second, set())

    async def test_streamInAThread(self) -> None:
        """
        A stream can be read with a plain C{for} in a thread.
        """
        job = MapReduce(functions.square, policy=Policy(chunksize=2))
        values = await in_thread(lambda: list(job.stream(range(9), backend=self.pool)))
        self.assertEqual(values, [x * x for x in range(9)])


class ReprTests(SynchronousTestCase):
    """
    What a job shows of itself.
    """

    def test_name(self) -> None:
        """
        It is called what its mapper is called, or by the name that it was given.
        """
        self.assertIn("square", repr(MapReduce(functions.square)))
        self.assertIn("mine", repr(MapReduce(functions.square, name="mine")))
        self.assertTrue(issubclass(TaskFailed, MapReduceError))
