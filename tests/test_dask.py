"""
The backend for Dask distributed, on a real scheduler and real workers.
"""

from __future__ import annotations

import glob
import operator
import os
import signal
import sys
import threading
import time
from importlib import import_module, invalidate_caches
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import clusters
from tests.support import python
from txmapreduce import Dask, MapReduce, Policy
from txmapreduce.backends._dask import versions
from txmapreduce.errors import BackendUnavailable, BadInput, WorkerDied
from txmapreduce.testing._case import until

try:
    import distributed
except ImportError:
    distributed = None


def square(x: int) -> int:
    return x * x


def slow(x: int) -> int:
    time.sleep(0.02)
    return x


def deadly(x: int) -> int:
    if x == 500:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


class DaskCase(TestCase):
    """
    Tests with two workers, C{self.remote}.
    """

    timeout = 120

    if distributed is None:
        skip = "distributed is not installed"

    def setUp(self) -> None:
        self.cluster = self.make()
        self.remote = self.dask()

    def make(self) -> clusters.Cluster:
        return clusters.shared()

    def own(self, *args: Any, **environment: str) -> clusters.Cluster:
        """
        A cluster that ends with the test.
        """
        cluster = clusters.Cluster(*args, **environment)
        self.addCleanup(cluster.stop)
        return cluster

    def dask(self, **options: Any) -> Dask:
        backend = Dask(self.cluster.file, **options)
        self.addCleanup(backend.close)
        return backend


class ErrorTests(DaskCase):
    async def test_trust(self) -> None:
        """
        Dask itself unpickles what workers send, so C{trust="data"} is refused.
        """
        with self.assertRaises(BadInput):
            await MapReduce(square, policy=Policy(trust="data")).run(range(10), backend=self.remote)

    async def test_notThere(self) -> None:
        """
        Where there is no scheduler, or TLS without certificates, the error says so, and no thread is left.
        """
        before = self.loops()
        for address in ("tcp://127.0.0.1:9", "tls://127.0.0.1:9"):
            backend = Dask(address, timeout=1)
            self.addCleanup(backend.close)
            with self.assertRaisesRegex(BackendUnavailable, f"no connection to the Dask scheduler {address}"):
                await MapReduce(square).run(range(10), backend=backend)
            self.assertEqual(self.loops(), before)

    def loops(self) -> int:
        """
        How many threads there are in which a client has its loop.
        """
        return sum("IO loop" in thread.name for thread in threading.enumerate())

    async def test_closed(self) -> None:
        """
        A closed backend takes no runs.
        """
        await self.remote.close()
        with self.assertRaises(BackendUnavailable):
            await MapReduce(square).run(range(10), backend=self.remote)

    async def test_clientOfTheUsers(self) -> None:
        """
        A C{Client} that was given is used, and left open.
        """
        client = await deferToThread(distributed.Client, scheduler_file=self.cluster.file, set_as_default=False)
        self.addCleanup(deferToThread, client.close)
        backend = Dask(client)
        self.assertEqual(await MapReduce(square).run(range(10), backend=backend), [x * x for x in range(10)])
        await backend.close()
        self.assertEqual(client.status, "running")

    async def test_files(self) -> None:
        """
        Modules that are not on the workers are sent there, also when another backend sent other contents before. One
        that does not load is told.
        """
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        self.patch(sys, "path", [*sys.path, folder])
        path = os.path.join(folder, "far_from_there.py")
        for number in (2, 3):
            with open(path, "w") as file:
                file.write(f"def times(x):\n    return {number} * x\n")
            sys.modules.pop("far_from_there", None)
            invalidate_caches()
            times = import_module("far_from_there").times
            backend = self.dask(files=[path])
            self.assertEqual(await MapReduce(times).run(range(3), backend=backend), [0, number, 2 * number])
        with open(path, "w") as file:
            file.write("1 / 0")
        with self.assertRaisesRegex(BackendUnavailable, "files could not be sent .*ZeroDivisionError"):
            await MapReduce(square).run(range(3), backend=self.dask(files=[path]))

    async def test_nothingIsLeft(self) -> None:
        """
        When a run has ended, its data is gone from the cluster.
        """
        await MapReduce(lambda x: [(x, 1)], reduce_by_key=operator.add).run(range(200_000), backend=self.remote)
        client = await deferToThread(distributed.Client, scheduler_file=self.cluster.file, set_as_default=False)
        self.addCleanup(deferToThread, client.close)
        while any((await deferToThread(client.has_what)).values()):
            await deferLater(reactor, 0.05)


class SecurityTests(DaskCase):
    """
    A cluster that talks by TLS alone.
    """

    def make(self) -> clusters.Cluster:
        self.security = distributed.Security.temporary()
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        files = {}
        for name in ("ca_file", "scheduler_key", "scheduler_cert", "worker_key", "worker_cert"):
            files[name] = os.path.join(folder, name)
            with open(files[name], "w") as file:
                file.write(getattr(self.security, f"tls_{name}"))
        prefix = "DASK_DISTRIBUTED__COMM__"
        return self.own(
            1,
            **{
                f"{prefix}DEFAULT_SCHEME": "tls",
                f"{prefix}REQUIRE_ENCRYPTION": "True",
                f"{prefix}TLS__CA_FILE": files.pop("ca_file"),
                **{f"{prefix}TLS__{name.upper().replace('_', '__')}": file for name, file in files.items()},
            },
        )

    async def test_tls(self) -> None:
        """
        With the certificates a job runs as anywhere; without them there is no connection.
        """
        backend = self.dask(security=self.security)
        self.assertEqual(await MapReduce(square).run(range(10), backend=backend), [x * x for x in range(10)])
        with open(self.cluster.file) as file:
            self.assertIn('"tls://127.0.0.1:', file.read())
        with self.assertRaisesRegex(BackendUnavailable, "no connection"):
            await MapReduce(square).run(range(10), backend=self.dask(timeout=2))


class LossTests(DaskCase):
    """
    Each test has a cluster of its own, since it does harm to it.
    """

    def make(self) -> clusters.Cluster:
        return self.own(2)

    async def test_workerKilled(self) -> None:
        """
        A worker is killed while it runs tasks: the others do them.
        """
        run = MapReduce(slow, reduce=operator.add, policy=Policy(chunksize=5)).start(range(200), backend=self.remote)
        await until(lambda: run.progress().chunks > 10)
        self.cluster.workers[0].kill()
        self.assertEqual(await run.result, sum(range(200)))

    async def test_partialsLost(self) -> None:
        """
        Partials that were on a worker which is killed are made again.
        """
        job = MapReduce(lambda x: [(slow(x), bytes(100))] * 50, reducer=lambda key, values: [(key, len(list(values)))])
        run = job.start(range(200), backend=self.remote)
        await until(lambda: run.progress().records > 100)
        self.cluster.workers[0].kill()
        self.assertEqual(await run.result, [(x, 50) for x in range(200)])

    async def test_schedulerKilled(self) -> None:
        """
        Without a scheduler there is one clear error.
        """
        run = MapReduce(slow, policy=Policy(chunksize=5)).start(range(5000), backend=self.remote)
        await until(lambda: run.progress().chunks > 10)
        self.cluster.scheduler.kill()
        with self.assertRaises(BackendUnavailable) as caught:
            await run.result
        self.assertIn("was lost", str(caught.exception))


class NoteTests(DaskCase):
    """
    One worker, whose nanny starts it again.
    """

    def make(self) -> clusters.Cluster:
        return self.own(1, ())

    async def test_notes(self) -> None:
        """
        What a worker was at is found by the one that comes after it, and the notes of the dead do not stay.
        """
        with self.assertRaises(WorkerDied) as caught:
            await MapReduce(deadly, policy=Policy(chunksize=100, retries=1)).run(range(1000), backend=self.remote)
        self.assertEqual((caught.exception.chunk, caught.exception.record), (5, 0))
        await MapReduce(square).run(range(10), backend=self.remote)
        await until(lambda: not glob.glob(f"{self.cluster.folder}/**/txmapreduce-note-*", recursive=True))


class WaitingTests(DaskCase):
    def make(self) -> clusters.Cluster:
        return self.own(0)

    async def test_noWorkers(self) -> None:
        """
        A cluster without workers is waited for, so long and no longer.
        """
        impatient = self.dask(timeout=1)
        with self.assertRaises(BackendUnavailable) as caught:
            await MapReduce(square).run(range(10), backend=impatient)
        self.assertIn("had no workers for 1 s", str(caught.exception))
        running = MapReduce(square).run(range(10), backend=self.remote)
        self.cluster.add()
        self.assertEqual(await running, [x * x for x in range(10)])


class VersionTests(SynchronousTestCase):
    if distributed is None:
        skip = "distributed is not installed"

    def test_compare(self) -> None:
        """
        What does not go together is told, with both versions, and what is missing, with the way to install it.
        """
        ours = versions.here()
        self.assertIsNone(versions.compare("there", ours))
        told = versions.compare("there", {**ours, "python": "2.7"})
        self.assertIn("there has Python 2.7", told or "")
        self.assertIn(ours["python"], told or "")
        told = versions.compare("there", {**ours, "txmapreduce": "0.0"})
        self.assertIn("there has txmapreduce 0.0", told or "")
        told = versions.compare("there", {**ours, "txmapreduce": "", "dill": ""})
        self.assertIn(f"pip install txmapreduce=={ours['txmapreduce']} dill=={ours['dill']}", told or "")

    def test_probe(self) -> None:
        """
        The expression that is evaluated on the cluster gives the versions.
        """
        self.assertEqual(eval(versions.PROBE), versions.here())


class ScriptTests(SynchronousTestCase):
    if distributed is None:
        skip = "distributed is not installed"

    def test_asyncio(self) -> None:
        """
        It works under asyncio's own loop, and under Twisted's asyncio reactor.
        """
        head = f"""if True:
            import asyncio
            from twisted.internet import asyncioreactor, defer
            from txmapreduce import Dask, MapReduce

            async def main():
                async with Dask({clusters.shared().file!r}) as cluster:
                    return await MapReduce(lambda x: x + 1).run_async(range(10), backend=cluster)
            """
        own = "print(sum(asyncio.run(main())))"
        twisted = """if True:
            asyncioreactor.install()
            from twisted.internet.task import react
            react(lambda _: defer.Deferred.fromCoroutine(main()).addCallback(lambda found: print(sum(found))))
            """
        for tail in (own, twisted):
            ended = python("-c", head + "\n" + tail)
            self.assertEqual(ended.stdout, "55\n", ended.stderr)

    def test_missing(self) -> None:
        """
        Without distributed the error names the extra.
        """
        ended = python(
            "-c",
            """if True:
            import sys
            sys.modules["distributed"] = None
            from txmapreduce import Dask, MapReduce
            try:
                MapReduce(abs).run_sync(range(3), backend=Dask("tcp://127.0.0.1:9"))
            except Exception as error:
                print(type(error).__name__, error)
            """,
        )
        self.assertIn("BackendUnavailable Dask needs distributed: pip install 'txmapreduce[dask]'", ended.stdout)


class OptionTests(SynchronousTestCase):
    def test_badInput(self) -> None:
        """
        What is no cluster is refused at once.
        """
        for bad in (None, "", 8786, b"tcp://host:1"):
            self.assertRaises(BadInput, Dask, bad)
        self.assertRaises(BadInput, Dask, "tcp://host:1", timeout=0)
        for files in ("module.py", ["no_such_module.py"], [os.__file__[:-3]]):
            self.assertRaises(BadInput, Dask, "tcp://host:1", files=files)
