"""
The backend for Dask distributed, on a real scheduler and real workers.
"""

from __future__ import annotations

import glob
import operator
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import clusters
from tests.support import python
from txmapreduce import Dask, MapReduce, PartFiles, Policy, Processes, TextFiles, aggregates, broadcast, current_task
from txmapreduce.backends._dask import versions
from txmapreduce.errors import BackendUnavailable, BadInput, TaskFailed, TaskTimedOut, WorkerDied
from txmapreduce.testing._case import until
from txmapreduce.testing._laws import LAWS

try:
    import distributed
except ImportError:
    distributed = None


def square(x: int) -> int:
    return x * x


def remainder(x: int) -> Iterator[tuple[int, int]]:
    yield x % 7, x


def slow(x: int) -> int:
    time.sleep(0.02)
    return x


def refuse(x: int) -> int:
    if x == 500:
        raise ValueError(f"not {x}")
    return x


def deadly(x: int) -> int:
    if x == 500:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def deadly_once(x: int) -> int:
    if x == 500 and current_task().attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def endless_loop(x: int) -> int:
    while x == 5 and current_task().attempt == 1:
        pass
    return x


def counted(x: int) -> int:
    current_task().counter("seen", "even" if x % 2 == 0 else "odd").increment()
    return x


def drawn(x: int) -> float:
    return current_task().random.random()


class DaskCase(TestCase):
    """
    Tests with two workers, C{self.backend}.
    """

    timeout = 120

    if distributed is None:
        skip = "distributed is not installed"

    def setUp(self) -> None:
        self.cluster = self.make()
        self.backend = self.dask()

    def make(self) -> clusters.Cluster:
        return clusters.shared()

    def own(self, *args: Any) -> clusters.Cluster:
        """
        A cluster that ends with the test.
        """
        cluster = clusters.Cluster(*args)
        self.addCleanup(cluster.stop)
        return cluster

    def dask(self, **options: Any) -> Dask:
        backend = Dask(self.cluster.file, **options)
        self.addCleanup(backend.close)
        return backend


class RunTests(DaskCase):
    async def test_laws(self) -> None:
        """
        Each kind of job gives what it means in plain Python.
        """
        data = list(range(-40, 41))
        for name, law in LAWS.items():
            for size in (None, 7):
                result = await law.job(size).run(data, backend=self.backend)
                self.assertEqual(result, law.means(data), name)

    async def test_manyKeys(self) -> None:
        """
        Many keys are folded partition by partition, and the partials are cut where they are.
        """
        data = range(300_000)
        ones = await MapReduce(lambda x: [(x, 1)], reduce_by_key=operator.add).run(data, backend=self.backend)
        self.assertEqual(ones, dict.fromkeys(data, 1))
        rows = await MapReduce(lambda x: [(x, 1)], reducer=lambda key, values: [(key, sum(values))]).run(
            data, backend=self.backend
        )
        self.assertEqual(rows, [(x, 1) for x in data])

    async def test_classesFromHere(self) -> None:
        """
        Instances of classes that the workers can't import come back as instances of those classes.
        """

        class Pair:
            def __init__(self, x: int) -> None:
                self.x = x

        pairs = await MapReduce(Pair).run(range(5), backend=self.backend)
        self.assertEqual([type(pair) for pair in pairs], [Pair] * 5)

    async def test_broadcast(self) -> None:
        """
        What was broadcast is there in the tasks.
        """
        table = broadcast({x: -x for x in range(100)})
        found = await MapReduce(lambda x: table.value[x]).run(range(100), backend=self.backend)
        self.assertEqual(found, [-x for x in range(100)])

    async def test_files(self) -> None:
        """
        Splits are read where they are mapped, and parts are written where they are made.
        """
        folder = self.mktemp()
        os.mkdir(folder)
        path = os.path.join(folder, "text")
        with open(path, "w") as file:
            file.writelines(f"line {n % 10}\n" for n in range(10_000))
        job = MapReduce(lambda line: [(line, 1)], reduce_by_key=operator.add, policy=Policy(blocksize="8KiB"))
        result = await job.run(TextFiles(path), backend=self.backend)
        self.assertEqual(result, {f"line {n}": 1000 for n in range(10)})
        out = os.path.join(folder, "out")
        written = await job.run(TextFiles(path), backend=self.backend, output=PartFiles(out))
        self.assertEqual(written.records, 10)

    async def test_sameAsProcesses(self) -> None:
        """
        A seed gives the same numbers, and a reproducible sum the same bits, as with worker processes.
        """
        pool = Processes(2)
        self.addCleanup(pool.close)
        job = MapReduce(drawn, reduce=aggregates.Sum(), policy=Policy(seed=7, reproducible=True, chunksize=10))
        here = await job.run(range(1000), backend=self.backend)
        self.assertEqual(repr(here), repr(await job.run(range(1000), backend=pool)))

    async def test_counters(self) -> None:
        """
        Counters, skipped records and progress are those of the chunks.
        """
        run = MapReduce(counted, policy=Policy(chunksize=10)).start(range(100), backend=self.backend)
        await run.result
        self.assertEqual(run.counters, Counter({("seen", "even"): 50, ("seen", "odd"): 50}))
        run = MapReduce(refuse, reduce=operator.add, policy=Policy(bad_records="skip")).start(
            range(1000), backend=self.backend
        )
        self.assertEqual(await run.result, sum(range(1000)) - 500)
        self.assertEqual([bad.place for bad in run.skipped], ["record 500 of the input"])

    async def test_checkpoint(self) -> None:
        """
        A run goes on where another has ended, with chunks that are not mapped again.
        """
        policy = Policy(checkpoint=self.mktemp(), chunksize=50)
        job = MapReduce(square, policy=policy)
        self.assertEqual(await job.run(range(1000), backend=self.backend), [x * x for x in range(1000)])
        self.assertEqual(await job.run(range(1000), backend=self.backend), [x * x for x in range(1000)])

    async def test_steps(self) -> None:
        """
        What lies between steps stays on the workers, with instances of classes of this module among it.
        """

        class Weight:
            def __init__(self, grams: int) -> None:
                self.grams = grams

        def light(item: tuple[int, int]) -> list[tuple[int, Weight]]:
            return [(item[0] % 10, Weight(item[0]))]

        def heaviest(key: int, weights: Iterator[Weight]) -> Iterator[Weight]:
            yield max(weights, key=lambda weight: weight.grams)

        counts = MapReduce(lambda x: [(x, 1)], reduce_by_key=operator.add)
        job = counts.then(MapReduce(light, reducer=heaviest)).then(MapReduce(lambda weight: weight))
        run = job.start(range(50_000), backend=self.backend)
        weights = await run.result
        self.assertEqual({type(weight) for weight in weights}, {Weight})
        self.assertEqual([weight.grams for weight in weights], list(range(49_990, 50_000)))
        self.assertEqual([step.read for step in run.steps], [50_000, 50_000, 10])
        nothing = MapReduce(abs, reduce=operator.add).then(MapReduce(abs))
        self.assertEqual(await nothing.run([-1, 2], backend=self.backend), [3])
        await self.assertFailure(nothing.run([], backend=self.backend), TypeError)

    async def test_partial(self) -> None:
        """
        The result so far can be asked for while input goes on for ever, and cancelling ends the run at once.
        """
        run = MapReduce(square, reduce=operator.add).start(iter(int, 1), backend=self.backend)
        await until(lambda: run.progress().records > 1000)
        self.assertEqual(await run.partial(), 0)
        run.cancel()
        with self.assertRaises(CancelledError):
            await run.result

    def test_stream(self) -> Deferred[None]:
        """
        Results come one by one, in order.
        """

        def take() -> list[int]:
            stream = MapReduce(square).stream(iter(range(10**12)), backend=self.backend)
            taken = []
            for value in stream:
                taken.append(value)
                if len(taken) == 1000:
                    return taken
            return taken

        done: Deferred[Any] = deferToThread(take)
        return done.addCallback(self.assertEqual, [x * x for x in range(1000)])


class ErrorTests(DaskCase):
    async def test_taskFailed(self) -> None:
        """
        What the function raised is the cause, and where it did is told.
        """
        with self.assertRaises(TaskFailed) as caught:
            await MapReduce(refuse).run(range(1000), backend=self.backend)
        error = caught.exception
        self.assertIsInstance(error.__cause__, ValueError)
        self.assertIn("not 500", str(error))
        self.assertIn("in refuse", error.remote_traceback)

    async def test_timedOut(self) -> None:
        """
        What takes too long is stopped in its thread and tried again.
        """
        policy = Policy(task_timeout=1, chunksize=1)
        result = await MapReduce(endless_loop, policy=policy).run(range(10), backend=self.backend)
        self.assertEqual(result, list(range(10)))
        with self.assertRaises(TaskTimedOut):
            await MapReduce(endless_loop, policy=Policy(task_timeout=0.5, retries=0)).run(
                range(10), backend=self.backend
            )
        self.assertEqual(await MapReduce(square).run(range(10), backend=self.backend), [x * x for x in range(10)])

    async def test_trust(self) -> None:
        """
        Dask itself unpickles what workers send, so C{trust="data"} is refused.
        """
        with self.assertRaises(BadInput):
            await MapReduce(square, policy=Policy(trust="data")).run(range(10), backend=self.backend)

    async def test_notThere(self) -> None:
        """
        Where there is no scheduler the error says so.
        """
        backend = Dask("tcp://127.0.0.1:9", timeout=1)
        self.addCleanup(backend.close)
        with self.assertRaises(BackendUnavailable) as caught:
            await MapReduce(square).run(range(10), backend=backend)
        self.assertIn("tcp://127.0.0.1:9", str(caught.exception))

    async def test_closed(self) -> None:
        """
        A closed backend takes no runs.
        """
        await self.backend.close()
        with self.assertRaises(BackendUnavailable):
            await MapReduce(square).run(range(10), backend=self.backend)

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

    async def test_nothingIsLeft(self) -> None:
        """
        When a run has ended, its data is gone from the cluster.
        """
        await MapReduce(lambda x: [(x, 1)], reduce_by_key=operator.add).run(range(200_000), backend=self.backend)
        client = await deferToThread(distributed.Client, scheduler_file=self.cluster.file, set_as_default=False)
        self.addCleanup(deferToThread, client.close)
        while any((await deferToThread(client.has_what)).values()):
            await deferLater(reactor, 0.05)


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
        run = MapReduce(slow, reduce=operator.add, policy=Policy(chunksize=5)).start(range(500), backend=self.backend)
        await until(lambda: run.progress().chunks > 10)
        self.cluster.workers[0].kill()
        self.assertEqual(await run.result, sum(range(500)))

    async def test_partialsLost(self) -> None:
        """
        Partials that were on a worker which is killed are made again.
        """
        job = MapReduce(lambda x: [(slow(x), bytes(100))] * 50, reducer=lambda key, values: [(key, len(list(values)))])
        run = job.start(range(200), backend=self.backend)
        await until(lambda: run.progress().records > 100)
        self.cluster.workers[0].kill()
        self.assertEqual(await run.result, [(x, 50) for x in range(200)])

    async def test_schedulerKilled(self) -> None:
        """
        Without a scheduler there is one clear error.
        """
        run = MapReduce(slow, policy=Policy(chunksize=5)).start(range(5000), backend=self.backend)
        await until(lambda: run.progress().chunks > 10)
        self.cluster.scheduler.kill()
        with self.assertRaises(BackendUnavailable) as caught:
            await run.result
        self.assertIn("was lost", str(caught.exception))


class NannyTests(DaskCase):
    """
    Workers whose nannies start them again.
    """

    def make(self) -> clusters.Cluster:
        return self.own(2, ())

    async def test_killedByItsRecord(self) -> None:
        """
        A record that kills its worker once costs an attempt; one that does so always is told in the error.
        """
        result = await MapReduce(deadly_once, policy=Policy(chunksize=100)).run(range(1000), backend=self.backend)
        self.assertEqual(result, list(range(1000)))
        with self.assertRaises(WorkerDied) as caught:
            await MapReduce(deadly, policy=Policy(chunksize=100, retries=1)).run(range(1000), backend=self.backend)
        self.assertEqual(caught.exception.chunk, 5)
        self.assertEqual(caught.exception.record, 0)


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
            await MapReduce(deadly, policy=Policy(chunksize=100, retries=1)).run(range(1000), backend=self.backend)
        self.assertEqual((caught.exception.chunk, caught.exception.record), (5, 0))
        await MapReduce(square).run(range(10), backend=self.backend)
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
        running = MapReduce(square).run(range(10), backend=self.backend)
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
