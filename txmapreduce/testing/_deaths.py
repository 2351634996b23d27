"""
Workers that die or hang, for backends that have any.
"""

from __future__ import annotations

import operator
from typing import Any

from ..errors import TaskTimedOut, WorkerDied
from ..job import Policy
from ..mapreduce import MapReduce
from . import failing, functions
from ._case import BackendCase, failure_of

__all__ = ["WorkerTests"]


class WorkerTests(BackendCase):
    """
    For backends whose workers are processes of their own, which are replaced when they die. These functions kill the
    process that they run in, so a backend that runs them in the test's process can't have them.
    """

    async def test_diesOnce(self) -> None:
        """
        What a worker was at when it died is done again, and nothing counts twice.
        """
        ways: list[tuple[dict[str, Any], Any]] = [
            ({}, list(range(200))),
            ({"reduce": operator.add}, sum(range(200))),
        ]
        for options, expected in ways:
            job = MapReduce(failing.kills_once, **options, policy=Policy(chunksize=20))
            run = job.start(range(200), backend=self.backend())
            self.assertEqual(await run.result, expected)
            self.assertEqual(run.counters, {("seen", "records"): 200, ("seen", "sum"): sum(range(200))})

    async def test_diesAlways(self) -> None:
        """
        What kills its worker each time ends the run with WorkerDied, which says which record of which chunk it was.
        """
        job = MapReduce(failing.kills_at_70, policy=Policy(chunksize=20, retries=2))
        error = await failure_of(job.run(range(200), backend=self.backend()))
        self.assertIsInstance(error, WorkerDied)
        self.assertEqual((error.chunk, error.attempt, error.record), (3, 3, 10))

    async def test_skipped(self) -> None:
        """
        With C{bad_records="skip"} a record that kills its worker is left out, alone.
        """
        job = MapReduce(failing.kills_at_70, policy=Policy(chunksize=20, bad_records="skip"))
        run = job.start(range(200), backend=self.backend())
        self.assertEqual(await run.result, [x for x in range(200) if x != 70])
        self.assertEqual([(bad.chunk, bad.record) for bad in run.skipped], [(3, 10)])

    async def test_hangs(self) -> None:
        """
        What takes longer than C{task_timeout} is stopped and done again; when it always does, that is the error.
        """
        job = MapReduce(failing.hangs_once, policy=Policy(chunksize=1, task_timeout=1))
        self.assertEqual(await job.run(range(10), backend=self.backend()), list(range(10)))
        job = MapReduce(failing.hangs_once, policy=Policy(chunksize=1, task_timeout=0.5, retries=0))
        self.assertIsInstance(await failure_of(job.run(range(10), backend=self.backend())), TaskTimedOut)
        self.assertEqual(await MapReduce(functions.square).run([3], backend=self.backend()), [9])
