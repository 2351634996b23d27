"""
What can be seen of a run: its progress, its counters, its failures, its stream; and many runs on one pool.
"""

from __future__ import annotations

import functools
import operator
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import mappers
from tests.support import PoolCase, in_thread, until
from txmapreduce import Inline, MapReduce, Policy, Processes, close_default_pool
from txmapreduce.aggregates import Collect, Counts, Sum
from txmapreduce.errors import BackendUnavailable, BadInput, MapReduceError, NotSerializable, RunTimedOut, TaskFailed
from txmapreduce.runs import Run


async def failure_of(deferred: Deferred[Any]) -> BaseException:
    """
    How a run fails.
    """
    try:
        value = await deferred
    except BaseException as error:
        return error
    raise AssertionError(f"it gave {value!r}")


class RunCases:
    """
    What holds on every backend.
    """

    def backend(self) -> Any:
        raise NotImplementedError

    async def test_progress(self) -> None:
        """
        Progress tells of chunks and records, of which there are as many as the input has at the end.
        """
        run = MapReduce(mappers.square, policy=Policy(chunksize=3)).start(range(10), backend=self.backend())
        before = run.progress()
        self.assertEqual((before.chunks, before.records, before.fraction), (0, 0, 0.0))
        await run.result
        after = run.progress()
        self.assertEqual(
            (after.chunks, after.total, after.records, after.retried, after.skipped, after.fraction),
            (4, 4, 10, 0, 0, 1.0),
        )
        self.assertGreaterEqual(after.seconds, before.seconds)

    async def test_progressOfUnknownLength(self) -> None:
        """
        Of a generator nobody knows the length: no fraction until it has ended.
        """
        run = MapReduce(mappers.square, policy=Policy(chunksize=3)).start(iter(range(10)), backend=self.backend())
        self.assertEqual((run.progress().total, run.progress().fraction), (None, None))
        await run.result
        self.assertEqual((run.progress().total, run.progress().records), (4, 10))

    async def test_counters(self) -> None:
        """
        Counters are the sums over all chunks.
        """
        for mapper, options in (
            (mappers.counting, {}),
            (mappers.counting, {"reduce": operator.add}),
            (mappers.counting_pairs, {"reduce_by_key": operator.add}),
        ):
            run = MapReduce(mapper, **options, policy=Policy(chunksize=7)).start(range(100), backend=self.backend())
            await run.result
            self.assertEqual(run.counters, {("seen", "records"): 100, ("seen", "sum"): 4950})

    async def test_partial(self) -> None:
        """
        The result so far can be asked for at any time, as often as one likes, and changes nothing in the end.
        """
        for mapper, options, expected in (
            (mappers.identity, {}, list(range(200))),
            (mappers.single_list, {"reduce": mappers.extended}, list(range(200))),
            (mappers.single_list, {"reduce": mappers.extended, "initial": [-1]}, list(range(-1, 200))),
            (mappers.identity, {"reduce": Sum()}, 19900),
            (mappers.identity, {"reduce": Collect()}, list(range(200))),
            (mappers.identity, {"reduce": Counts()}, Counter(range(200))),
            (mappers.pairs_of_numbers, {"reduce_by_key": Collect()}, None),
            (mappers.pairs_of_numbers, {"reduce_by_key": operator.add}, None),
            (mappers.pairs_of_numbers, {"reducer": mappers.joined}, None),
        ):
            job = MapReduce(mapper, **options, policy=Policy(chunksize=2, reproducible=True))
            if expected is None:
                expected = await job.run(range(200), backend=self.backend())
            runs: list[Run] = []
            data = self.asking(range(200), runs, asked := [])
            runs.append(run := job.start(data, backend=self.backend()))
            result = await run.result
            self.assertEqual(result, expected, f"{options}")
            self.assertEqual(await run.partial(), expected)
            for so_far in await gatherResults(asked):
                self.assertTrue(so_far is None or type(so_far) is type(expected), f"{so_far!r} of {options}")

    def asking(self, data: Any, runs: list[Run], asked: list[Deferred[Any]]) -> Iterator[Any]:
        """
        Input that asks its run for the partial result as it is read.
        """
        for record in data:
            if record and record % 20 == 0:
                asked.append(runs[0].partial())
            yield record

    async def test_partialOfNothing(self) -> None:
        """
        As long as there is nothing, the result so far is C{None}; for a job that reduces nothing, an empty list.
        """
        for options, expected in (
            ({}, []),
            ({"reduce": operator.add}, None),
            ({"reduce": operator.add, "initial": 5}, None),
            ({"reduce": Sum()}, None),
        ):
            run = MapReduce(mappers.square, **options).start(range(3), backend=self.backend())
            partial = run.partial()
            self.assertEqual(await partial, expected, f"{options}")
            await run.result

    async def test_partialOfAFailedRun(self) -> None:
        """
        The result so far of a run that failed is its failure.
        """
        run = MapReduce(mappers.fails_at_7).start(range(10), backend=self.backend())
        error = await failure_of(run.result)
        self.assertIs(await failure_of(run.partial()), error)

    async def test_cancel(self) -> None:
        """
        A cancelled run fails with CancelledError and closes its input; cancelling it again does nothing.
        """
        closed = []

        def endless() -> Iterator[int]:
            try:
                while True:
                    yield 1
            finally:
                closed.append(True)

        job = MapReduce(mappers.square, reduce=operator.add)
        for cancel in (lambda run: run.cancel(), lambda run: run.result.cancel()):
            run = job.start(endless(), backend=self.backend())
            await until(lambda run=run: run.progress().records)
            cancel(run)
            self.assertIsInstance(await failure_of(run.result), CancelledError)
            run.cancel()
        self.assertEqual(closed, [True, True])

    async def test_timeout(self) -> None:
        """
        A run ends with RunTimedOut at the policy's timeout.
        """
        run = MapReduce(mappers.square, reduce=operator.add, policy=Policy(timeout=0.1))
        self.assertIsInstance(await failure_of(run.run(iter(int, 1), backend=self.backend())), RunTimedOut)

    async def test_mapperFails(self) -> None:
        """
        An exception of the mapper's fails the run with TaskFailed: its cause, its traceback, its chunk, its record.
        """
        job = MapReduce(mappers.fails_at_7, policy=Policy(chunksize=3))
        error = await failure_of(job.run(range(10), backend=self.backend()))
        self.assertIsInstance(error, TaskFailed)
        self.assertIs(type(error.__cause__), ValueError)
        self.assertEqual(error.__cause__.args, ("7 is not good",))
        self.assertEqual((error.chunk, error.attempt), (2, 1))
        self.assertIn("record", str(error))
        self.assertIn("chunk 2", str(error))
        self.assertIn('raise ValueError(f"{x} is not good")', str(error))
        self.assertIn("in fails_at_7", error.remote_traceback)

    async def test_recordInTheMessage(self) -> None:
        """
        The message says which record of its chunk it was.
        """
        job = MapReduce(mappers.fails_at_7, policy=Policy(chunksize=5, task_timeout=100))
        error = await failure_of(job.run(range(10), backend=self.backend()))
        self.assertIn("record 2 of chunk 1", str(error))

    async def test_othersFail(self) -> None:
        """
        Whatever else of the user's raises is TaskFailed, too: a generator, an operator, a reducer.
        """
        data = range(20)
        for job, kind in (
            (MapReduce(mappers.fails_midway, flat=True), ValueError),
            (MapReduce(mappers.square, reduce=mappers.fails_to_add), ArithmeticError),
            (MapReduce(mappers.pairs_of_numbers, reducer=mappers.reducer_that_fails), ValueError),
            (MapReduce(mappers.pairs_of_numbers, reduce_by_key=mappers.fails_to_add), ArithmeticError),
            (MapReduce(mappers.square, reduce_by_key=operator.add), TypeError),
            (MapReduce(mappers.square, flat=True), TypeError),
            (MapReduce(mappers.chained), ValueError),
            (MapReduce(functools.partial(mappers.raises, KeyboardInterrupt())), KeyboardInterrupt),
            (MapReduce(functools.partial(mappers.raises, SystemExit(3))), SystemExit),
            (MapReduce(functools.partial(mappers.raises, GeneratorExit())), GeneratorExit),
            (MapReduce(functools.partial(mappers.raises, MemoryError())), MemoryError),
            (MapReduce(functools.partial(mappers.raises, TaskFailed("of the user's"))), TaskFailed),
        ):
            error = await failure_of(job.run(data, backend=self.backend()))
            self.assertIs(type(error), TaskFailed, repr(error))
            self.assertIs(type(error.__cause__), kind, repr(error))

    async def test_oddExceptions(self) -> None:
        """
        An exception that does not travel is TaskFailed all the same, with its traceback in the message.
        """
        for mapper, name in (
            (mappers.raises_two_arguments, "TwoArguments"),
            (mappers.raises_no_text, "NoText"),
            (mappers.raises_unpicklable, "but it has a text"),
        ):
            error = await failure_of(MapReduce(mapper).run([1], backend=self.backend()))
            self.assertIs(type(error), TaskFailed)
            self.assertIn(name, str(error))
            self.assertIn(f"in {mapper.__name__}", str(error))

    async def test_skip(self) -> None:
        """
        With C{bad_records="skip"} a record whose mapping raises is left out as a whole, and noted.
        """
        for chunksize in (None, 1, 4, 100):
            policy = Policy(bad_records="skip", chunksize=chunksize)
            good = [x for x in range(40) if x % 10 != 7]
            for job, expected, bad in (
                (MapReduce(mappers.fails_at_7, policy=policy), [x for x in range(40) if x != 7], [7]),
                (MapReduce(mappers.fails_midway, flat=True, policy=policy), [y for x in good for y in (x, -x)], None),
                (MapReduce(mappers.fails_in_batch, batched=True, policy=policy), [x % 10 for x in good], None),
                (
                    MapReduce(mappers.pairs_fail_midway, reduce_by_key=operator.add, policy=policy),
                    {"all": 36, "good": 36},
                    None,
                ),
                (MapReduce(mappers.fails_midway, flat=True, reduce=operator.add, policy=policy), 0, None),
            ):
                run = job.start(range(40), backend=self.backend())
                self.assertEqual(await run.result, expected)
                self.assertEqual(len(run.skipped), len(bad or [7, 17, 27, 37]))
                self.assertEqual(run.progress().skipped, len(run.skipped))
                self.assertEqual(run.progress().records, 40)
                self.assertTrue(all("ValueError" in skipped.reason for skipped in run.skipped))
                if chunksize is not None:
                    where = sorted(skipped.chunk * chunksize + skipped.record for skipped in run.skipped)
                    self.assertEqual(where, bad or [7, 17, 27, 37])

    async def test_maxBadRecords(self) -> None:
        """
        More bad records than C{max_bad_records} fail the run; as many do not.
        """
        for limit, fails in ((0, True), (3, True), (4, False)):
            policy = Policy(bad_records="skip", max_bad_records=limit, chunksize=4)
            run = MapReduce(mappers.fails_midway, flat=True, policy=policy).start(range(40), backend=self.backend())
            if fails:
                error = await failure_of(run.result)
                self.assertIsInstance(error, TaskFailed)
                self.assertIn("max_bad_records", str(error))
            else:
                await run.result

    async def test_retryExceptions(self) -> None:
        """
        A listed exception (or one derived from it) is tried again, C{retries} more times. Counters count what came of
        the attempt that succeeded.
        """
        for chunksize in (None, 1, 4):
            for mapper, options, expected in (
                (mappers.until_attempt, {}, list(range(20))),
                (mappers.until_attempt, {"reduce": operator.add}, 190),
                (mappers.pairs_until_attempt, {"reduce_by_key": operator.add}, {0: 63, 1: 70, 2: 57}),
            ):
                policy = Policy(retry_exceptions=(mappers.Passing,), retries=2, chunksize=chunksize)
                run = MapReduce(functools.partial(mapper, 3), **options, policy=policy).start(
                    range(20), backend=self.backend()
                )
                self.assertEqual(await run.result, expected)
                self.assertEqual(run.counters, {("seen", "records"): 20, ("seen", "sum"): 190})
                self.assertEqual(run.progress().retried, 2)
                error = await failure_of(
                    MapReduce(functools.partial(mapper, 4), **options, policy=policy).run(
                        range(20), backend=self.backend()
                    )
                )
                self.assertIsInstance(error, TaskFailed)
                self.assertEqual(error.attempt, 3)

    async def test_noRetry(self) -> None:
        """
        An exception that is not listed is not tried again.
        """
        policy = Policy(retry_exceptions=(KeyError,), retries=2)
        job = MapReduce(functools.partial(mappers.until_attempt, 2), policy=policy)
        error = await failure_of(job.run(range(20), backend=self.backend()))
        self.assertEqual(error.attempt, 1)

    async def test_retriedRandom(self) -> None:
        """
        The random numbers of a chunk are the same at any attempt.
        """
        policy = Policy(retry_exceptions=(mappers.Passing,), seed=1, chunksize=4)
        results = [
            await MapReduce(functools.partial(mappers.random_until_attempt, good), policy=policy).run(
                range(20), backend=self.backend()
            )
            for good in (1, 3)
        ]
        self.assertEqual(results[0], results[1])

    async def test_retriedReduce(self) -> None:
        """
        An operator that raises a listed exception is tried again, and no value counts twice.
        """
        for n in range(3):
            flag = Path(self.mktemp()).absolute()
            policy = Policy(retry_exceptions=(mappers.Passing,), chunksize=1 + n * 3)
            job = MapReduce(mappers.pairs_of_numbers, reduce_by_key=mappers.FailsToMergeOnce(str(flag)), policy=policy)
            expected = await MapReduce(mappers.pairs_of_numbers, reduce_by_key=operator.add).run(
                range(100), backend=self.backend()
            )
            self.assertEqual(await job.run(range(100), backend=self.backend()), expected)
            self.assertTrue(flag.exists())

    async def test_inputRaises(self) -> None:
        """
        An exception of the input itself comes back as it is.
        """

        def breaking() -> Iterator[int]:
            yield from range(10)
            raise LookupError("no more")

        for options in ({}, {"reduce": operator.add}):
            error = await failure_of(MapReduce(mappers.square, **options).run(breaking(), backend=self.backend()))
            self.assertEqual((type(error), error.args), (LookupError, ("no more",)))

    async def test_noInput(self) -> None:
        """
        Data that can't be iterated is BadInput, in the Deferred.
        """
        for data in (5, None, object()):
            error = await failure_of(MapReduce(mappers.square).run(data, backend=self.backend()))
            self.assertIsInstance(error, BadInput)

    async def test_jobAgain(self) -> None:
        """
        A job can be run again, and at the same time.
        """
        job, backend = MapReduce(mappers.square, reduce=operator.add), self.backend()
        results = await gatherResults([job.run(range(n), backend=backend) for n in range(1, 9)])
        self.assertEqual(results, [sum(x * x for x in range(n)) for n in range(1, 9)])

    async def test_runFromACallback(self) -> None:
        """
        A run may be started where another one's result arrives.
        """
        job, backend = MapReduce(mappers.square), self.backend()
        again = job.run(range(5), backend=backend).addCallback(lambda values: job.run(values, backend=backend))
        self.assertEqual(await again, [x**4 for x in range(5)])

    async def test_stream(self) -> None:
        """
        A stream gives the results one by one: in input order, or as they come; all of a flat mapper's.
        """
        for options, expected in (({}, [x * x for x in range(50)]),):
            job = MapReduce(mappers.square, **options, policy=Policy(chunksize=3))
            self.assertEqual([y async for y in job.stream(range(50), backend=self.backend())], expected)
            unordered = [y async for y in job.stream(range(50), ordered=False, backend=self.backend())]
            self.assertEqual(sorted(unordered), expected)
        flat = MapReduce(mappers.some, flat=True, policy=Policy(chunksize=1))
        self.assertEqual(
            [y async for y in flat.stream(range(20), backend=self.backend())],
            [y for x in range(20) for y in mappers.some(x)],
        )
        self.assertEqual([y async for y in flat.stream([], backend=self.backend())], [])

    async def test_streamOfAReducer(self) -> None:
        """
        The results of the classic form can be streamed, too.
        """
        job = MapReduce(mappers.pairs_of_numbers, reducer=mappers.joined)
        expected = await job.run(range(50), backend=self.backend())
        self.assertEqual([y async for y in job.stream(range(50), backend=self.backend())], expected)

    async def test_streamOfAReduce(self) -> None:
        """
        A job with one result has nothing to stream.
        """
        for options in ({"reduce": operator.add}, {"reduce_by_key": operator.add}):
            with self.assertRaises(BadInput):
                MapReduce(mappers.square, **options).stream([1], backend=self.backend())

    async def test_streamFails(self) -> None:
        """
        A stream raises what the run fails with, behind the results of the chunks before.
        """
        job = MapReduce(mappers.fails_at_7, policy=Policy(chunksize=1))
        values = []
        with self.assertRaises(TaskFailed):
            async for value in job.stream(range(10), backend=self.backend()):
                values.append(value)
        self.assertEqual(values, list(range(len(values))))

    async def test_streamOfTheEndless(self) -> None:
        """
        A stream reads no further ahead than C{buffersize} chunks of what has been taken, on an endless input; when
        its reader leaves, the input is closed.
        """
        for ordered in (True, False):
            pulled, closed = [0], []

            def endless(pulled: list[int] = pulled, closed: list[bool] = closed) -> Iterator[int]:
                try:
                    while True:
                        pulled[0] += 1
                        yield pulled[0]
                finally:
                    closed.append(True)

            job = MapReduce(mappers.square, policy=Policy(chunksize=10, buffersize=4))
            stream = job.stream(endless(), ordered=ordered, backend=self.backend()).__aiter__()
            for n in range(1, 400):
                await stream.__anext__()
                self.assertLessEqual(pulled[0], n + 10 * (2 * 4 + 2), f"for result {n}")
            await deferLater(reactor, 0.05)  # would it go on by itself?
            self.assertLessEqual(pulled[0], 400 + 10 * (2 * 4 + 2))
            self.assertEqual(closed, [])
            await stream.aclose()
            self.assertEqual(closed, [True])


class InlineTests(RunCases, TestCase):
    """
    Runs in this process.
    """

    timeout = 30

    def backend(self) -> Inline:
        return Inline()

    async def test_streamEndsClosed(self) -> None:
        """
        A stream ends, and C{aclose} returns, when the backend has closed the run, and not before: whoever reads on may
        need what the run had.
        """
        job, closing = MapReduce(mappers.square), [Deferred[None](), Deferred[None]()]

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


class ProcessesTests(RunCases, PoolCase):
    """
    Runs in worker processes.
    """

    def backend(self) -> Processes:
        return self.pool

    async def test_workerLives(self) -> None:
        """
        What a mapper raises, be it SystemExit, does not end its worker.
        """
        pool = self.processes(1)
        (before,) = await MapReduce(mappers.pid).run([1], backend=pool)
        for error in (SystemExit(1), KeyboardInterrupt(), ValueError()):
            job = MapReduce(functools.partial(mappers.raises, error))
            self.assertIsInstance(await failure_of(job.run([1], backend=pool)), TaskFailed)
        self.assertEqual(await MapReduce(mappers.pid).run([1], backend=pool), [before])

    async def test_unpicklableResult(self) -> None:
        """
        A result that can't be sent fails its run with a message that says what it is.
        """
        for job in (
            MapReduce(mappers.generator_of),
            MapReduce(lambda x: threading.Lock()),
            MapReduce(lambda x: [(1, threading.Lock())], reduce_by_key=max),
        ):
            error = await failure_of(job.run([1, 2, 3], backend=self.pool))
            self.assertIsInstance(error, (TaskFailed, NotSerializable))
            self.assertRegex(str(error), "generator|lock")
        self.assertEqual(await MapReduce(mappers.square).run([2], backend=self.pool), [4])

    async def test_unpicklableRecord(self) -> None:
        """
        A record that can't be sent is NotSerializable, and the message names it.
        """
        error = await failure_of(
            MapReduce(mappers.identity, policy=Policy(chunksize=2)).run([1, threading.Lock()], backend=self.pool)
        )
        self.assertIsInstance(error, NotSerializable)
        self.assertIn("lock", str(error))

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
        long = MapReduce(functools.partial(mappers.slow, 0.005), policy=policy).start(range(400), backend=self.pool)
        await until(lambda: long.progress().chunks > 10)
        before = long.progress().chunks
        short = MapReduce(functools.partial(mappers.slow, 0.005), policy=policy).start(range(20), backend=self.pool)
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
                (MapReduce(mappers.square), [x * x for x in data]),
                (MapReduce(mappers.square, reduce=operator.add), sum(x * x for x in data)),
                (MapReduce(lambda x: [(x % 2, 1)], reduce_by_key=operator.add), {0: 150, 1: 150}),
            ]
        results = await gatherResults([job.run(data, backend=self.pool) for job, _ in runs])
        self.assertEqual(results, [expected for _, expected in runs])

    async def test_cancelledRunLeavesThePool(self) -> None:
        """
        What ran for a cancelled run is stopped, and the pool is there for the next.
        """
        run = MapReduce(functools.partial(mappers.slow, 60)).start(range(4), backend=self.pool)
        await until(lambda: self.pool.pids)
        run.cancel()
        self.assertIsInstance(await failure_of(run.result), CancelledError)
        self.assertEqual(await MapReduce(mappers.square).run(range(3), backend=self.pool), [0, 1, 4])

    async def test_streamClosedEarly(self) -> None:
        """
        When the reader of a stream leaves, the workers are free for others.
        """
        stream = MapReduce(functools.partial(mappers.slow, 0.01)).stream(iter(int, 1), backend=self.pool).__aiter__()
        await stream.__anext__()
        await stream.aclose()
        self.assertEqual(await MapReduce(mappers.square).run(range(3), backend=self.pool), [0, 1, 4])

    async def test_closed(self) -> None:
        """
        A closed pool takes no more runs, but lets those under way end.
        """
        run = MapReduce(mappers.square).run(range(100), backend=self.pool)
        closing = self.pool.close()
        error = await failure_of(MapReduce(mappers.square).run([1], backend=self.pool))
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
        job = MapReduce(mappers.square, policy=Policy(chunksize=2))
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
        self.assertIn("square", repr(MapReduce(mappers.square)))
        self.assertIn("mine", repr(MapReduce(mappers.square, name="mine")))
        self.assertTrue(issubclass(TaskFailed, MapReduceError))
