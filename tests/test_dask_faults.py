"""
Jobs on a cluster of Dask whose workers are killed, and whose scheduler is, while they run.

C{DASK_INSTANTS=50} kills workers at so many random instants; by default it is a few.
"""

from __future__ import annotations

import operator
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import psutil
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests import clusters
from tests.test_dask import DaskCase
from txmapreduce import Inline, MapReduce, Policy
from txmapreduce.errors import BackendUnavailable, TaskFailed
from txmapreduce.testing._case import failure_of, until

INSTANTS = int(os.environ.get("DASK_INSTANTS", "2"))
"""At how many instants a worker is killed."""


def slow_pairs(x: int) -> list[tuple[int, bytes]]:
    """
    Some values for some keys, after some time.
    """
    time.sleep(0.004)
    chance = random.Random(x)
    return [(chance.randrange(100), chance.randbytes(100)) for _ in range(50)]


def joined(key: int, values: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """
    All values of a key.
    """
    time.sleep(0.001)
    yield key, b"".join(values)


def slowly_joined(key: int, values: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """
    The same, so slowly that something can happen meanwhile.
    """
    time.sleep(0.02)
    yield key, b"".join(values)


JOBS = [
    MapReduce(slow_pairs, reducer=joined, npartitions=3, policy=Policy(chunksize=5)),
    MapReduce(slow_pairs, reduce_by_key=operator.add, npartitions=3, policy=Policy(chunksize=5, reproducible=True)),
    MapReduce(slow_pairs, flat=True, policy=Policy(chunksize=5)),
]
ITEMS = range(200)


class Flaky:
    """
    Maps until there is a file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, x: int) -> list[tuple[int, bytes]]:
        if os.path.exists(self.path):
            raise ValueError("no more")
        return slow_pairs(x)


class KilledTests(DaskCase):
    """
    Two workers that are killed again and again; their nannies start them again.
    """

    timeout = 60 + 20 * INSTANTS

    def make(self) -> clusters.Cluster:
        return self.own(2, ("--nanny",))

    async def test_instants(self) -> None:
        """
        A worker is killed at a random instant of a job, whatever this is at: the result is exact.
        """
        expected = [await job.run(ITEMS, backend=Inline()) for job in JOBS]
        seconds = [0.0] * len(JOBS)
        for number in range(-len(JOBS), INSTANTS):  # first each once, to see how long it takes
            which = number % len(JOBS)
            begun = time.monotonic()
            done: Deferred[Any] = JOBS[which].run(ITEMS, backend=self.remote)
            if number < 0:
                self.assertTrue(await done == expected[which])
                seconds[which] = time.monotonic() - begun
                continue
            await deferLater(reactor, random.random() * seconds[which])
            self.kill()
            self.assertTrue(await done == expected[which], f"job {which}")

    def kill(self) -> None:
        """
        Kill one of the processes that nannies have started, if there is one.
        """
        nanny = psutil.Process(random.choice(self.cluster.workers).pid)
        for process in nanny.children():
            if "resource_tracker" not in " ".join(process.cmdline()):
                process.kill()


class LostTests(DaskCase):
    """
    What a worker had is lost with it.
    """

    def make(self) -> clusters.Cluster:
        return self.own(2)

    async def reducing(self, mapper: Any) -> Any:
        """
        A run all of whose records are mapped, and that reduces for some seconds.
        """
        policy = Policy(chunksize=100, speculate=False)
        job = MapReduce(mapper, reducer=slowly_joined, npartitions=4, policy=policy)
        run = job.start(ITEMS, backend=self.remote)
        await until(lambda: run.progress().records == len(ITEMS))
        return run

    async def test_madeAgain(self) -> None:
        """
        Partials are made again, which takes a while; nobody stops that.
        """
        expected = await MapReduce(slow_pairs, reducer=joined).run(ITEMS, backend=Inline())
        run = await self.reducing(slow_pairs)
        self.cluster.workers[0].kill()
        self.assertTrue(await run.result == expected)

    async def test_inVain(self) -> None:
        """
        When the mapper does not like that, its own error is told.
        """
        path = os.path.abspath(self.mktemp())
        run = await self.reducing(Flaky(path))
        with open(path, "w"):
            pass
        self.cluster.workers[0].kill()
        error = await failure_of(run.result)
        self.assertIsInstance(error, TaskFailed)
        self.assertEqual(repr(error.__cause__), "ValueError('no more')")


class SchedulerTests(DaskCase):
    timeout = 60 + 10 * INSTANTS

    def make(self) -> clusters.Cluster:
        return clusters.shared()  # it is not used

    async def test_killed(self) -> None:
        """
        The scheduler is killed at a random instant of a job: it gives its result, or one error says what was lost.
        """
        for number in range(max(1, INSTANTS // 5)):
            self.cluster = await deferToThread(self.own, 1)
            backend = self.dask()
            job = JOBS[number % len(JOBS)]
            expected = await job.run(ITEMS, backend=backend)
            begun = time.monotonic()
            await job.run(ITEMS, backend=backend)
            done = job.run(ITEMS, backend=backend)
            await deferLater(reactor, random.random() * (time.monotonic() - begun))
            self.cluster.scheduler.kill()
            killed = time.monotonic()
            try:
                self.assertTrue(await done == expected)
            except BackendUnavailable as error:
                self.assertIn("Dask", str(error))
            self.assertLess(time.monotonic() - killed, 30)
            self.cluster.stop()
