"""
What becomes of exceptions: errors, retries, records that are skipped.
"""

from __future__ import annotations

import functools
import operator
from pathlib import Path
from typing import Any

from ..errors import TaskFailed
from ..job import Policy
from ..mapreduce import MapReduce
from . import failing, functions
from ._case import BackendCase, failure_of


class FailureCases(BackendCase):
    """
    What becomes of exceptions: errors, retries, records that are skipped.
    """

    async def test_mapperFails(self) -> None:
        """
        An exception of the mapper's fails the run with TaskFailed: its cause, its traceback, its chunk, its record.
        """
        job = MapReduce(failing.fails_at_7, policy=Policy(chunksize=3))
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
        job = MapReduce(failing.fails_at_7, policy=Policy(chunksize=5, task_timeout=100))
        error = await failure_of(job.run(range(10), backend=self.backend()))
        self.assertIn("record 2 of chunk 1", str(error))

    async def test_othersFail(self) -> None:
        """
        Whatever else of the user's raises is TaskFailed, too: a generator, an operator, a reducer.
        """
        data = range(20)
        for job, kind in (
            (MapReduce(failing.fails_midway, flat=True), ValueError),
            (MapReduce(functions.square, reduce=failing.fails_to_add), ArithmeticError),
            (MapReduce(functions.pairs_of_numbers, reducer=failing.reducer_that_fails), ValueError),
            (MapReduce(functions.pairs_of_numbers, reduce_by_key=failing.fails_to_add), ArithmeticError),
            (MapReduce(functions.square, reduce_by_key=operator.add), TypeError),
            (MapReduce(functions.square, flat=True), TypeError),
            (MapReduce(failing.chained), ValueError),
            (MapReduce(functools.partial(failing.raises, KeyboardInterrupt())), KeyboardInterrupt),
            (MapReduce(functools.partial(failing.raises, SystemExit(3))), SystemExit),
            (MapReduce(functools.partial(failing.raises, GeneratorExit())), GeneratorExit),
            (MapReduce(functools.partial(failing.raises, MemoryError())), MemoryError),
            (MapReduce(functools.partial(failing.raises, TaskFailed("of the user's"))), TaskFailed),
        ):
            error = await failure_of(job.run(data, backend=self.backend()))
            self.assertIs(type(error), TaskFailed, repr(error))
            self.assertIs(type(error.__cause__), kind, repr(error))

    async def test_oddExceptions(self) -> None:
        """
        An exception that does not travel is TaskFailed all the same, with its traceback in the message.
        """
        for mapper, name in (
            (failing.raises_two_arguments, "TwoArguments"),
            (failing.raises_no_text, "NoText"),
            (failing.raises_unpicklable, "but it has a text"),
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
                (MapReduce(failing.fails_at_7, policy=policy), [x for x in range(40) if x != 7], [7]),
                (MapReduce(failing.fails_midway, flat=True, policy=policy), [y for x in good for y in (x, -x)], None),
                (MapReduce(failing.fails_in_batch, batched=True, policy=policy), [x % 10 for x in good], None),
                (
                    MapReduce(failing.pairs_fail_midway, reduce_by_key=operator.add, policy=policy),
                    {"all": 36, "good": 36},
                    None,
                ),
                (MapReduce(failing.fails_midway, flat=True, reduce=operator.add, policy=policy), 0, None),
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
            run = MapReduce(failing.fails_midway, flat=True, policy=policy).start(range(40), backend=self.backend())
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
        ways: list[tuple[Any, dict[str, Any], Any]] = [
            (failing.until_attempt, {}, list(range(20))),
            (failing.until_attempt, {"reduce": operator.add}, 190),
            (failing.pairs_until_attempt, {"reduce_by_key": operator.add}, {0: 63, 1: 70, 2: 57}),
        ]
        for chunksize in (None, 1, 4):
            for mapper, options, expected in ways:
                policy = Policy(retry_exceptions=(failing.Passing,), retries=2, chunksize=chunksize)
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
        job = MapReduce(functools.partial(failing.until_attempt, 2), policy=policy)
        error = await failure_of(job.run(range(20), backend=self.backend()))
        self.assertEqual(error.attempt, 1)

    async def test_retriedRandom(self) -> None:
        """
        The random numbers of a chunk are the same at any attempt.
        """
        policy = Policy(retry_exceptions=(failing.Passing,), seed=1, chunksize=4)
        results = [
            await MapReduce(functools.partial(failing.random_until_attempt, good), policy=policy).run(
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
            policy = Policy(retry_exceptions=(failing.Passing,), chunksize=1 + n * 3)
            job = MapReduce(
                functions.pairs_of_numbers, reduce_by_key=failing.FailsToMergeOnce(str(flag)), policy=policy
            )
            expected = await MapReduce(functions.pairs_of_numbers, reduce_by_key=operator.add).run(
                range(100), backend=self.backend()
            )
            self.assertEqual(await job.run(range(100), backend=self.backend()), expected)
            self.assertTrue(flag.exists())
