"""
Tests for L{txmapreduce.backends.processes}: real runs on real workers, as users see them.
"""

from __future__ import annotations

import operator
import os
import sys
import threading
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface.verify import verifyObject

from txmapreduce import MapReduce, Policy, Processes
from txmapreduce._schedule import schedule
from txmapreduce.aggregates import Counts, Mean
from txmapreduce.backends import _cpus
from txmapreduce.errors import BackendUnavailable, BadInput, NotSerializable

from . import naughty
from .leftovers import NothingLeft, descriptors, gone, turn

LATENCY = 0.25
"""Seconds that the reactor may be late while a job runs: five times what we promise, since test machines are busy."""


class PoolCase(NothingLeft):
    """
    Makes pools, and closes them in the end.
    """

    def pool(self, max_workers: int = 2, **settings: Any) -> Processes:
        pool = Processes(max_workers, **settings)
        self.addCleanup(pool.close)
        return pool

    async def tearDown(self) -> None:
        for pool in self._pools:
            await pool.close()
        await super().tearDown()

    async def setUp(self) -> None:
        self._pools: list[Processes] = []
        await super().setUp()
        make = self.pool

        def kept(*args: Any, **settings: Any) -> Processes:
            pool = make(*args, **settings)
            self._pools.append(pool)
            return pool

        self.pool = kept  # type: ignore[method-assign]


class PoolTests(PoolCase):
    """
    The life of a pool.
    """

    async def test_warm(self) -> None:
        """
        Workers start at the first run and are used again by the next.
        """
        pool = self.pool(2)
        self.assertEqual(pool.pids, [])
        job = MapReduce(naughty.slow_pid_of, policy=Policy(chunksize=1))
        first = set(await job.run(range(6), backend=pool))
        second = set(await job.run(range(6), backend=pool))
        self.assertEqual((len(first), first), (2, second))
        self.assertEqual(first, set(pool.pids))

    async def test_close(self) -> None:
        """
        A pool that is closed lets its runs end, then ends its workers, and takes no more runs.
        """
        pool = self.pool(2)
        result = MapReduce(naughty.slow_pid_of).run(range(20), backend=pool)
        closed = pool.close()
        pids = pool.pids
        self.assertEqual(len(await result), 20)
        await closed
        self.assertEqual((pool.pids, gone(pids, 0)), ([], []))
        await self.assertFailure(MapReduce(abs).run([1], backend=pool), BackendUnavailable)

    async def test_context(self) -> None:
        """
        C{async with} closes it.
        """
        async with Processes(1) as pool:
            await MapReduce(abs).run([1], backend=pool)
            (pid,) = pool.pids
        self.assertEqual(gone([pid], 0), [])

    async def test_service(self) -> None:
        """
        It is a service: stopping it closes it.
        """
        pool = self.pool(1)
        verifyObject(IService, pool)
        pool.startService()
        await MapReduce(abs).run([1], backend=pool)
        await pool.stopService()
        self.assertEqual(pool.pids, [])

    async def test_idle_timeout(self) -> None:
        """
        Idle workers end after C{idle_timeout}; the next run starts others.
        """
        pool = self.pool(1, idle_timeout=0.1)
        (first,) = await MapReduce(naughty.pid_of).run([0], backend=pool)
        while pool.pids:
            await turn(0.02)
        (second,) = await MapReduce(naughty.pid_of).run([0], backend=pool)
        self.assertNotEqual(first, second)

    async def test_max_tasks_per_child(self) -> None:
        """
        Each worker runs so many tasks and no more; by-key results that workers keep for later are complete.
        """
        pool = self.pool(2, max_tasks_per_child=2)
        policy = Policy(chunksize=1, task_timeout=60)  # one chunk a task
        found = Counter(await MapReduce(naughty.pid_of, policy=policy).run(range(7), backend=pool))
        self.assertEqual((sum(found.values()), max(found.values())), (7, 2))
        counts = await MapReduce(naughty.last_digit, reduce=Counts(), policy=policy).run([1, 2, 11, 1, 2], backend=pool)
        self.assertEqual(counts, {"1": 3, "2": 2})

    async def test_initializer(self) -> None:
        """
        The initializer runs in each worker before its first task.
        """
        pool = self.pool(2, initializer=naughty.remember, initargs=("model",))
        found = await MapReduce(naughty.remembered, policy=Policy(chunksize=1)).run(range(8), backend=pool)
        self.assertEqual(found, ["model"] * 8)

    async def test_many_runs_at_once(self) -> None:
        """
        A hundred runs that are started together all get their own results.
        """
        pool = self.pool(2)
        runs = [MapReduce(partial(pow, exp=2)).run(range(n, n + 3), backend=pool) for n in range(100)]
        found = await gatherResults(runs)
        self.assertEqual(found, [[n**2, (n + 1) ** 2, (n + 2) ** 2] for n in range(100)])

    async def test_run_from_a_callback(self) -> None:
        """
        The callback of one run may start the next.
        """
        pool = self.pool(1)
        job = MapReduce(abs)
        found = await job.run([-1], backend=pool).addCallback(lambda one: job.run(one, backend=pool))
        self.assertEqual(found, [1])

    async def test_soak(self) -> None:
        """
        Many small runs leave no more descriptors, threads and processes than the first few. TXMAPREDUCE_SOAK says how
        many.
        """
        pool = self.pool(2)
        job = MapReduce(naughty.last_digit, reduce=Counts())

        def census() -> tuple[int, int, list[int]]:
            return len(descriptors()), threading.active_count(), sorted(c.pid for c in psutil.Process().children())

        async def many(count: int) -> None:
            for _ in range(count):
                self.assertEqual(await job.run(range(10), backend=pool), dict.fromkeys("0123456789", 1))

        await many(10)
        await MapReduce(naughty.slow_pid_of, policy=Policy(chunksize=1)).run(range(8), backend=pool)
        before = census()
        await many(int(os.environ.get("TXMAPREDUCE_SOAK", "200")))
        self.assertEqual(census(), before)


class SettingsTests(SynchronousTestCase):
    """
    What L{Processes} takes.
    """

    def test_bad_values(self) -> None:
        """
        Values that can't be used are refused at once, by name.
        """
        for name, value in (
            ("max_workers", 0),
            ("max_workers", True),
            ("max_workers", 1.5),
            ("min_workers", -1),
            ("max_tasks_per_child", 0),
            ("threads_per_worker", 0),
            ("initializer", 5),
            ("idle_timeout", 0),
            ("idle_timeout", "soon"),
            ("memory_limit", 0),
            ("memory_limit", "much"),
        ):
            error = self.assertRaises(BadInput, lambda name=name, value=value: Processes(**{name: value}))
            self.assertIn(name, str(error))
        self.assertRaises(BadInput, Processes, 2, min_workers=3)

    def test_unsendable_initializer(self) -> None:
        """
        An initializer that can't be sent is refused at once, too.
        """
        self.assertRaises(NotSerializable, lambda: Processes(initializer=print, initargs=(threading.Lock(),)))


class SurroundingsTests(PoolCase):
    """
    What the workers take over.
    """

    async def surroundings(self, pool: Processes, *names: str) -> dict[str, Any]:
        (found,) = await MapReduce(partial(naughty.surroundings, list(names))).run([0], backend=pool)
        return found  # type: ignore[no-any-return]

    async def test_process(self) -> None:
        """
        Import path with later additions, arguments, working directory and warnings filters, also those of the moment on
        a warm worker.
        """
        pool = self.pool(1)
        await self.surroundings(pool)
        self.addCleanup(os.chdir, os.getcwd())
        folder = os.path.realpath(self.temporary())
        os.mkdir(folder)
        Path(folder, "only_here.py").write_text("def triple(n):\n    return 3 * n\n")
        self.patch(sys, "path", [folder, *sys.path])
        self.patch(sys, "argv", ["me", "--fast"])
        os.chdir(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("error", BytesWarning)
            found = await self.surroundings(pool)
        self.assertEqual((found["path"][0], found["argv"], found["cwd"]), (folder, ["me", "--fast"], folder))
        self.assertIn("error", found["filters"])
        import only_here  # type: ignore[import-not-found]

        self.addCleanup(sys.modules.pop, "only_here")
        self.assertEqual(await MapReduce(only_here.triple).run([2], backend=pool), [6])

    async def test_environment(self) -> None:
        """
        Workers have this process's environment with C{env} on top, and libraries are told how many threads to use.
        """
        self.patch(os, "environ", {**os.environ, "TXMAPREDUCE_TEST": "a", "OMP_NUM_THREADS": "16"})
        pool = self.pool(1, env={"TXMAPREDUCE_OTHER": "b", "MKL_NUM_THREADS": "7"}, threads_per_worker=3)
        names = ("TXMAPREDUCE_TEST", "TXMAPREDUCE_OTHER", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        found = (await self.surroundings(pool, *names))["environ"]
        self.assertEqual([found[name] for name in names], ["a", "b", "3", "3", "7"])

    async def test_changed_by_a_run(self) -> None:
        """
        What one run's functions did to their process does not show in the next run's working directory.
        """
        pool = self.pool(1)
        before = await self.surroundings(pool)
        await MapReduce(naughty.change_everything).run([1], backend=pool)
        after = await self.surroundings(pool)
        self.assertEqual((after["cwd"], before["cwd"]), (os.getcwd(), os.getcwd()))


class Commonest(Counts):
    """
    An aggregate that is derived from one that goes by key, and does not itself.
    """

    def finish(self, acc: Counter[Any]) -> Any:
        return max(acc, key=lambda value: (acc[value], value))


class PartitionTests(PoolCase):
    """
    Many keys, which the workers fold side by side, a partition each.
    """

    async def test_kinds(self) -> None:
        """
        The result is the same, of the same type, as with few keys; what is finished as a whole is not cut.
        """
        self.patch(schedule, "MANY_KEYS", 100)
        records, pool = range(3000), self.pool(3)
        sums, means = {f"k{n}": n + n + 1000 + n + 2000 for n in range(1000)}, {n: n / 3 for n in range(1000)}
        for job, expected in (
            (MapReduce(lambda n: [(f"k{n % 1000}", n)], reduce_by_key=operator.add), sums),
            (MapReduce(lambda n: [(n % 1000, n % 1000 / 3)], reduce_by_key=Mean()), means),
            (MapReduce(lambda n: n % 1000, reduce=Counts()), Counter(dict.fromkeys(range(1000), 3))),
            (MapReduce(lambda n: n % 1000 if n < 2999 else 7, reduce=Commonest()), 7),
        ):
            result = await job.run(records, backend=pool)
            self.assertEqual((type(result), result), (type(expected), expected))


class BigTests(PoolCase):
    """
    Much at once.
    """

    async def test_both_ways(self) -> None:
        """
        64 MiB go to a worker and come back whole.
        """
        data = os.urandom(1 << 16) * 1024
        (found,) = await MapReduce(bytes).run([data], backend=self.pool(1))
        self.assertTrue(found == data)

    async def test_many_values(self) -> None:
        """
        A list of many values comes back whole, and the reactor has its turns all the while.
        """
        pool = self.pool(2)
        await MapReduce(abs).run([1], backend=pool)
        late: list[float] = []
        stamp = time.monotonic()

        def probe() -> None:
            nonlocal stamp
            late.append(time.monotonic() - stamp)
            stamp = time.monotonic()

        clock = LoopingCall(probe)
        clock.start(0.005)
        found = await MapReduce(naughty.pair).run(range(300_000), backend=pool)
        clock.stop()
        self.assertEqual((len(found), found[-1]), (300_000, (299_999, "299999")))
        self.assertLess(max(late), LATENCY)


class WebTests(PoolCase):
    """
    A web application that runs jobs.
    """

    async def setUp(self) -> None:
        port = reactor.listenTCP(0, Site(Resource()), interface="127.0.0.1")  # type: ignore[attr-defined]
        await port.stopListening()  # Twisted keeps a descriptor in reserve from the first port on
        await super().setUp()

    async def test_answers_others(self) -> None:
        """
        While a request runs a job other requests are answered in time.
        """
        from twisted.web.client import Agent, HTTPConnectionPool, readBody

        pool = self.pool(2)
        await MapReduce(naughty.slow_pid_of, policy=Policy(chunksize=1)).run(range(4), backend=pool)

        class Job(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> int:
                job = MapReduce(naughty.last_digit, reduce=Counts())
                done = job.run(range(1_000_000), backend=pool)
                done.addCallback(lambda counts: request.write(str(sum(counts.values())).encode()))
                done.addBoth(lambda _: request.finish())
                return NOT_DONE_YET

        class Hello(Resource):
            isLeaf = True

            def render_GET(self, request: Any) -> bytes:
                return b"hello"

        root = Resource()
        root.putChild(b"job", Job())
        root.putChild(b"hello", Hello())
        port = reactor.listenTCP(0, Site(root), interface="127.0.0.1")  # type: ignore[attr-defined]
        agent = Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False))

        def get(path: str) -> Deferred[bytes]:
            url = f"http://127.0.0.1:{port.getHost().port}/{path}".encode()
            return agent.request(b"GET", url).addCallback(readBody)

        found: list[bytes] = []
        job = get("job").addCallback(found.append)
        late: list[float] = []
        while not found:
            begun = time.monotonic()
            self.assertEqual(await get("hello"), b"hello")
            late.append(time.monotonic() - begun)
        await job
        await port.stopListening()
        self.assertEqual(found, [b"1000000"])
        self.assertGreater(len(late), 3)
        self.assertLess(max(late), LATENCY)


class CpuTests(SynchronousTestCase):
    """
    Tests for L{available_cpus}.
    """

    def quota(self, membership: str, **files: str) -> float | None:
        root = Path(self.mktemp())
        for name, text in files.items():
            path = root.joinpath(*name.split("__")).with_name(name.split("__")[-1].replace("_max", ".max"))
            if "cfs" in name:
                path = path.with_name(path.name.replace("cpu_cfs", "cpu.cfs"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        member = Path(self.mktemp())
        member.write_text(membership)
        return _cpus._cgroup_quota(root, member)

    def test_version_2(self) -> None:
        """
        The tightest quota on the way up counts; "max" is none.
        """
        found = self.quota("0::/a/b\n", a__b__cpu_max="400000 100000\n", a__cpu_max="150000 100000\n")
        self.assertEqual(found, 1.5)
        self.assertIs(self.quota("0::/a\n", a__cpu_max="max 100000\n"), None)

    def test_version_1(self) -> None:
        """
        In version 1 the quota and its period are two files in the controller's own hierarchy; -1 is none.
        """
        files = {"cpu__a__cpu_cfs_quota_us": "250000\n", "cpu__a__cpu_cfs_period_us": "100000\n"}
        self.assertEqual(self.quota("5:memory:/x\n4:cpu,cpuacct:/a\n", **files), 2.5)
        files["cpu__a__cpu_cfs_quota_us"] = "-1\n"
        self.assertIs(self.quota("4:cpu,cpuacct:/a\n", **files), None)

    def test_nothing_to_read(self) -> None:
        """
        Where there are no such files, or nonsense in them, there is no quota.
        """
        self.assertIs(self.quota("0::/a\n", a__cpu_max="nonsense"), None)
        self.assertIs(_cpus._cgroup_quota(Path("/not/there"), Path("/not/there")), None)

    def test_smaller_of_both(self) -> None:
        """
        Affinity and quota both hold, and there is always one.
        """
        self.patch(os, "sched_getaffinity", lambda pid: set(range(8)))
        for quota, expected in ((None, 8), (2.0, 2), (0.1, 1), (100.0, 8)):
            self.patch(_cpus, "_cgroup_quota", lambda root, membership, quota=quota: quota)
            self.assertEqual(_cpus.available_cpus(), expected)
