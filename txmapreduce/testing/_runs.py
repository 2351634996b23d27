"""
What can be seen of a run, and done with it.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults

from ..aggregates import Collect, Counts, Sum
from ..errors import BadInput, RunTimedOut
from ..job import Policy
from ..mapreduce import MapReduce
from ..runs import Run
from . import failing, functions
from ._case import BackendCase, failure_of, until


class RunCases(BackendCase):
    """
    What can be seen of a run, and done with it.
    """

    async def test_progress(self) -> None:
        """
        Progress tells of chunks and records, of which there are as many as the input has at the end.
        """
        run = MapReduce(functions.square, policy=Policy(chunksize=3)).start(range(10), backend=self.backend())
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
        run = MapReduce(functions.square, policy=Policy(chunksize=3)).start(iter(range(10)), backend=self.backend())
        self.assertEqual((run.progress().total, run.progress().fraction), (None, None))
        await run.result
        self.assertEqual((run.progress().total, run.progress().records), (4, 10))

    async def test_counters(self) -> None:
        """
        Counters are the sums over all chunks.
        """
        ways: list[tuple[Any, dict[str, Any]]] = [
            (functions.counting, {}),
            (functions.counting, {"reduce": operator.add}),
            (functions.counting_pairs, {"reduce_by_key": operator.add}),
        ]
        for mapper, options in ways:
            run = MapReduce(mapper, **options, policy=Policy(chunksize=7)).start(range(100), backend=self.backend())
            await run.result
            self.assertEqual(run.counters, {("seen", "records"): 100, ("seen", "sum"): 4950})

    async def test_partial(self) -> None:
        """
        The result so far can be asked for at any time, as often as one likes, and changes nothing in the end.
        """
        ways: list[tuple[Any, dict[str, Any], Any]] = [
            (functions.identity, {}, list(range(200))),
            (functions.single_list, {"reduce": functions.extended}, list(range(200))),
            (functions.single_list, {"reduce": functions.extended, "initial": [-1]}, list(range(-1, 200))),
            (functions.identity, {"reduce": Sum()}, 19900),
            (functions.identity, {"reduce": Collect()}, list(range(200))),
            (functions.identity, {"reduce": Counts()}, Counter(range(200))),
            (functions.pairs_of_numbers, {"reduce_by_key": Collect()}, None),
            (functions.pairs_of_numbers, {"reduce_by_key": operator.add}, None),
            (functions.pairs_of_numbers, {"reducer": functions.joined}, None),
        ]
        for mapper, options, expected in ways:
            job = MapReduce(mapper, **options, policy=Policy(chunksize=2, reproducible=True))
            if expected is None:
                expected = await job.run(range(200), backend=self.backend())
            runs: list[Run] = []
            asked: list[Deferred[Any]] = []
            data = self.asking(range(200), runs, asked)
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
        ways: list[tuple[dict[str, Any], Any]] = [
            ({}, []),
            ({"reduce": operator.add}, None),
            ({"reduce": operator.add, "initial": 5}, None),
            ({"reduce": Sum()}, None),
        ]
        for options, expected in ways:
            run = MapReduce(functions.square, **options).start(range(3), backend=self.backend())
            partial = run.partial()
            self.assertEqual(await partial, expected, f"{options}")
            await run.result

    async def test_partialOfAFailedRun(self) -> None:
        """
        The result so far of a run that failed is its failure.
        """
        run = MapReduce(failing.fails_at_7).start(range(10), backend=self.backend())
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

        job = MapReduce(functions.square, reduce=operator.add)
        for cancel in (Run.cancel, lambda run: run.result.cancel()):
            run = job.start(endless(), backend=self.backend())
            await until(lambda: run.progress().records)  # noqa: B023
            cancel(run)
            self.assertIsInstance(await failure_of(run.result), CancelledError)
            run.cancel()
        self.assertEqual(closed, [True, True])

    async def test_timeout(self) -> None:
        """
        A run ends with RunTimedOut at the policy's timeout.
        """
        run = MapReduce(functions.square, reduce=operator.add, policy=Policy(timeout=0.1))
        self.assertIsInstance(await failure_of(run.run(iter(int, 1), backend=self.backend())), RunTimedOut)

    async def test_inputRaises(self) -> None:
        """
        An exception of the input itself comes back as it is.
        """

        def breaking() -> Iterator[int]:
            yield from range(10)
            raise LookupError("no more")

        ways: list[dict[str, Any]] = [{}, {"reduce": operator.add}]
        for options in ways:
            error = await failure_of(MapReduce(functions.square, **options).run(breaking(), backend=self.backend()))
            self.assertEqual((type(error), error.args), (LookupError, ("no more",)))

    async def test_noInput(self) -> None:
        """
        Data that can't be iterated is BadInput, in the Deferred.
        """
        for data in (5, None, object()):
            error = await failure_of(MapReduce(functions.square).run(data, backend=self.backend()))
            self.assertIsInstance(error, BadInput)

    async def test_jobAgain(self) -> None:
        """
        A job can be run again, and at the same time.
        """
        job, backend = MapReduce(functions.square, reduce=operator.add), self.backend()
        results = await gatherResults([job.run(range(n), backend=backend) for n in range(1, 9)])
        self.assertEqual(results, [sum(x * x for x in range(n)) for n in range(1, 9)])

    async def test_runFromACallback(self) -> None:
        """
        A run may be started where another one's result arrives.
        """
        job, backend = MapReduce(functions.square), self.backend()
        again = job.run(range(5), backend=backend).addCallback(lambda values: job.run(values, backend=backend))
        self.assertEqual(await again, [x**4 for x in range(5)])
