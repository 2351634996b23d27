"""
Input that comes asynchronously: it is waited for, passed on as it comes, paused, and closed.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import mappers
from tests.support import python
from txmapreduce import Inline, MapReduce, Policy
from txmapreduce.errors import TaskFailed
from txmapreduce.testing import failing, functions
from txmapreduce.testing._case import until


async def waiting(count: int) -> AsyncIterator[int]:
    """
    Numbers, some of which are waited for.
    """
    for n in range(count):
        if n % 3 == 0:
            await deferLater(reactor, 0)
        yield n


async def ready(count: int) -> AsyncIterator[int]:
    for n in range(count):
        yield n


class Countdown:
    """
    An asynchronous iterator that is no generator and can't be closed.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __aiter__(self) -> Countdown:
        return self

    async def __anext__(self) -> int:
        if not self.count:
            raise StopAsyncIteration
        self.count -= 1
        return self.count


class AsyncInputTests(TestCase):
    """
    Input of Twisted's.
    """

    timeout = 30

    async def run_(self, data: Any, **options: Any) -> Any:
        return await MapReduce(functions.square, **options).run(data, backend=Inline())

    async def test_laws(self) -> None:
        """
        The result is that of the same records in a list, for chunks of any size.
        """
        for count in (0, 1, 2, 10, 100):
            for chunksize in (None, 1, 7, 1000):
                policy = Policy(chunksize=chunksize)
                expected = [x * x for x in range(count)]
                for data in (waiting(count), ready(count)):
                    self.assertEqual(await self.run_(data, policy=policy), expected)
                self.assertEqual(await self.run_(Countdown(count), policy=policy), expected[::-1])
                self.assertEqual(
                    await self.run_(waiting(count), policy=policy, reduce=operator.add, initial=0), sum(expected)
                )

    async def test_chunksAreFull(self) -> None:
        """
        Records that are there without waiting come in full chunks.
        """
        job = MapReduce(functions.of_chunk, batched=True, policy=Policy(chunksize=10))
        sizes = [n for name, n in await job.run(ready(100), backend=Inline()) if name == "list"]
        self.assertEqual(sum(sizes), 100)
        self.assertGreaterEqual(max(sizes), 10)

    async def test_trickle(self) -> None:
        """
        What has come is passed on when there is nothing more, not when the chunk is full.
        """
        queue: DeferredQueue[int] = DeferredQueue()

        async def records() -> AsyncIterator[int]:
            while True:
                yield await queue.get()

        stream = MapReduce(functions.square, policy=Policy(chunksize=1000)).stream(records(), backend=Inline())
        results = stream.__aiter__()
        for n in range(20):
            queue.put(n)
            self.assertEqual(await results.__anext__(), n * n)
        await results.aclose()

    async def test_fixedChunks(self) -> None:
        """
        Where chunks have to be the same in every run they are, whenever their records come.
        """

        async def trickle(pauses: set[int]) -> AsyncIterator[int]:
            for n in range(25):
                if n in pauses:
                    await deferLater(reactor, 0)
                yield n

        job = MapReduce(mappers.only_length, batched=True, policy=Policy(chunksize=10, reproducible=True))
        for pauses in (set(), {3}, {10, 11, 24}, set(range(25))):
            self.assertEqual(await job.run(trickle(pauses), backend=Inline()), [10, 10, 5], f"{pauses}")

    async def test_paused(self) -> None:
        """
        It is pulled no further than a bounded number of chunks ahead of what was taken.
        """
        pulled = [0]

        async def records() -> AsyncIterator[int]:
            while True:
                pulled[0] += 1
                yield pulled[0]

        policy = Policy(chunksize=10, buffersize=2)
        results = MapReduce(functions.square, policy=policy).stream(records(), backend=Inline()).__aiter__()
        for n in range(1, 200):
            await results.__anext__()
            self.assertLessEqual(pulled[0], n + 10 * (2 * 2 + 2))
        await deferLater(reactor, 0.05)
        self.assertLessEqual(pulled[0], 200 + 10 * (2 * 2 + 2))
        await results.aclose()

    async def test_raises(self) -> None:
        """
        An exception of the input's comes back as it is, at its beginning, midway, and after waiting.
        """
        for good in (0, 1, 25):

            async def records(good: int = good) -> AsyncIterator[int]:
                async for n in waiting(good):
                    yield n
                raise LookupError("no more")

            with self.assertRaises(LookupError) as caught:
                await self.run_(records())
            self.assertEqual(caught.exception.args, ("no more",))

    async def test_closedAtTheEnd(self) -> None:
        """
        When the run fails, the generator is closed: it does not wait for the garbage collector.
        """
        closed = []

        async def records() -> AsyncIterator[int]:
            try:
                n = 0
                while True:
                    await deferLater(reactor, 0)
                    yield n
                    n += 1
            finally:
                await deferLater(reactor, 0)
                closed.append(True)

        with self.assertRaises(TaskFailed):
            await MapReduce(failing.fails_at_7).run(records(), backend=Inline())
        await until(lambda: closed)

    async def test_cancelledWhileItWaits(self) -> None:
        """
        When the run is cancelled while the input waits for something, that is cancelled, too, and the generator closed.
        """
        closed, cancelled = [], []
        never: Deferred[None] = Deferred(cancelled.append)

        async def records() -> AsyncIterator[int]:
            try:
                yield 1
                await never
            finally:
                closed.append(True)

        run = MapReduce(functions.square).start(records(), backend=Inline())
        await until(lambda: run.progress().records == 1)
        run.cancel()
        with self.assertRaises(CancelledError):
            await run.result
        await until(lambda: closed)
        self.assertEqual(cancelled, [never])

    async def test_streamOfAStream(self) -> None:
        """
        The results of one job can be the input of another.
        """
        first = MapReduce(functions.square).stream(range(50), backend=Inline())
        self.assertEqual(await self.run_(first), [x**4 for x in range(50)])


class AsyncioInputTests(SynchronousTestCase):
    """
    Input of asyncio's, in a process of its own.
    """

    def check(self, prelude: str, postlude: str) -> None:
        body = """
import asyncio
from collections.abc import AsyncIterator
from txmapreduce import Inline, MapReduce, Policy
from txmapreduce.errors import TaskFailed
closed = []

async def numbers(count):
    loop = asyncio.get_running_loop()
    try:
        for n in range(count):
            if n % 3 == 0:
                await asyncio.sleep(0)
            assert asyncio.get_running_loop() is loop
            yield n
    finally:
        await asyncio.sleep(0)
        closed.append(count)

async def broken():
    yield 1
    await asyncio.sleep(0)
    raise LookupError("no more")

async def from_queue(queue):
    try:
        while True:
            yield await queue.get()
    finally:
        closed.append("queue")

async def main():
    square = MapReduce(lambda x: x * x, policy=Policy(chunksize=7))
    for count in (0, 1, 50):
        assert await square.run_async(numbers(count), backend=Inline()) == [x * x for x in range(count)]
    try:
        await square.run_async(broken(), backend=Inline())
    except LookupError as error:
        assert error.args == ("no more",)
    else:
        raise AssertionError
    closed.clear()
    try:
        await MapReduce(lambda x: 1 // (x - 5)).run_async(numbers(1000000), backend=Inline())
    except TaskFailed:
        pass
    else:
        raise AssertionError
    while closed != [1000000]:
        await asyncio.sleep(0.001)
    queue = asyncio.Queue()
    results = square.stream(from_queue(queue), backend=Inline()).__aiter__()
    for n in range(10):
        await queue.put(n)
        assert await results.__anext__() == n * n
    closed.clear()
    await results.aclose()
    while closed != ["queue"]:
        await asyncio.sleep(0.001)
    task = asyncio.ensure_future(square.run_async(from_queue(queue), backend=Inline()))
    await queue.put(1)
    while not queue.empty():
        await asyncio.sleep(0.001)
    closed.clear()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    while closed != ["queue"]:
        await asyncio.sleep(0.001)
    first = square.stream(range(20), backend=Inline())
    assert await square.run_async(first, backend=Inline()) == [x ** 4 for x in range(20)]
    print("well")
"""
        done = python("-c", prelude + body + postlude)
        self.assertEqual((done.stdout, done.stderr, done.returncode), ("well\n", "", 0))

    def test_asyncio(self) -> None:
        """
        Generators of asyncio's are iterated in their own loop, closed there, and cancelled when they wait.
        """
        self.check("", "asyncio.run(main())")

    def test_asyncioReactor(self) -> None:
        """
        The same under Twisted's asyncio reactor, where generators that await Deferreds can be read as well.
        """
        self.check(
            "from twisted.internet import asyncioreactor\nasyncioreactor.install()\n",
            """
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater, react

async def of_twisted(count):
    for n in range(count):
        await deferLater(reactor, 0)
        yield n

async def twisted(reactor):
    await Deferred.fromFuture(asyncio.ensure_future(main()))
    assert await MapReduce(abs).run(of_twisted(5), backend=Inline()) == [0, 1, 2, 3, 4]

react(lambda reactor: ensureDeferred(twisted(reactor)))
""",
        )
