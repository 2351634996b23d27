"""
Tests for L{txmapreduce._run.checkpoint}: runs that go on from where another was killed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from tests import support
from txmapreduce import Inline, MapReduce, Policy, TextFiles, aggregates
from txmapreduce._run.checkpoint import JournalFile
from txmapreduce._run.journal import MAGIC, Commit, Identity
from txmapreduce.errors import BadInput, CheckpointFailed, NotSerializable
from txmapreduce.testing._case import until

INSTANTS = int(os.environ.get("CHECKPOINT_INSTANTS", "3"))
"""At how many instants a coordinator is killed."""

JOBS: dict[str, dict[str, Any]] = {
    "list": {},
    "reduce": {"reduce": lambda a, b: a + b},
    "aggregate": {"reduce": aggregates.Mean()},
}
KEYED: dict[str, dict[str, Any]] = {
    "by key": {"reduce_by_key": lambda a, b: a + b},
    "reducer": {"reducer": lambda key, values: [(key, sum(values))]},
}


def logged(path: str) -> Any:
    """
    A mapper that appends each record to a file.
    """

    def mapper(x: int) -> int:
        with open(path, "a") as log:
            log.write(f"{x}\n")
        return x * x

    return mapper


def lines(path: str) -> list[str]:
    return Path(path).read_text().split() if Path(path).exists() else []


class Case(support.PoolCase):
    def setUp(self) -> None:
        super().setUp()
        self.path, self.log = self.mktemp(), os.path.abspath(self.mktemp())
        self.policy = Policy(checkpoint=self.path, chunksize=3)


class ResumeTests(Case):
    async def again(self, job: MapReduce, data: Any, backend: Any) -> None:
        """
        The second run gives the same result, and maps nothing.
        """
        first = await job.run(data, backend=backend)
        count = len(lines(self.log))
        self.assertEqual(await job.run(data, backend=backend), first)
        self.assertEqual(len(lines(self.log)), count)
        Path(self.path).unlink()
        Path(self.log).unlink()

    async def test_everyKind(self) -> None:
        """
        Every kind of job gives the same result from its journal, on either backend, without mapping again; also where
        nothing is unpickled.
        """
        mapper, plain = logged(self.log), replace(self.policy, trust="data")
        for backend in (Inline(), self.pool):
            for options in JOBS.values():
                await self.again(MapReduce(mapper, policy=self.policy, **options), range(20), backend)
                await self.again(MapReduce(mapper, policy=plain, **options), range(20), backend)
            for options in KEYED.values():
                keyed = MapReduce(lambda x: [(x % 5, mapper(x))], policy=self.policy, **options)
                await self.again(keyed, range(20), backend)
            await self.again(MapReduce(lambda x: [mapper(x)] * 2, flat=True, policy=self.policy), range(20), backend)
            batched = MapReduce(lambda batch: [mapper(x) for x in batch], batched=True, policy=self.policy)
            await self.again(batched, range(20), backend)

    async def test_files(self) -> None:
        """
        So do text files; one that has changed is refused.
        """
        mapper, text = logged(self.log), Path(self.mktemp())
        text.write_text("1\n2\n3\n4\n")
        job = MapReduce(lambda line: mapper(int(line)), policy=Policy(checkpoint=self.path, blocksize=4))
        data = TextFiles(str(text))
        await self.again(job, data, self.pool)
        await job.run(data, backend=self.pool)
        text.write_text("1\n2\n3\n5\n6\n")
        with self.assertRaisesRegex(BadInput, "other input"):
            await job.run(data, backend=self.pool)

    async def test_stream(self) -> None:
        """
        A stream gives all its results again, in order.
        """
        job = MapReduce(logged(self.log), policy=self.policy)
        for _ in range(2):
            self.assertEqual([x async for x in job.stream(range(10), backend=self.pool)], [x * x for x in range(10)])
        self.assertEqual(len(lines(self.log)), 10)

    async def test_cutAnywhere(self) -> None:
        """
        However many bytes of a journal are left, the result is exact, and only chunks that it lacks are mapped.
        """
        job = MapReduce(logged(self.log), policy=self.policy)
        expected = await job.run(range(9), backend=Inline())
        whole = Path(self.path).read_bytes()
        mapped = []
        for size in range(len(whole) + 1):
            Path(self.path).write_bytes(whole[:size])
            Path(self.log).write_text("")
            self.assertEqual(await job.run(range(9), backend=Inline()), expected)
            mapped.append(len(lines(self.log)))
        self.assertEqual(mapped, sorted(mapped, reverse=True))
        self.assertEqual(set(mapped), {9, 6, 3, 0})

    async def test_counters(self) -> None:
        """
        What committed chunks counted, and the bad records that they skipped, come back.
        """

        def mapper(x: int) -> float:
            from txmapreduce import current_task

            current_task().counter("a", "b").increment()
            return 1 / x

        job = MapReduce(mapper, policy=Policy(checkpoint=self.path, chunksize=3, bad_records="skip"))
        seen = []
        for _ in range(2):
            run = job.start(range(-2, 5), backend=self.pool)
            seen.append((await run.result, run.counters, run.skipped))
        self.assertEqual(seen[0], seen[1])
        self.assertEqual(len(seen[0][2]), 1)


class CancelledTests(Case):
    async def test_cancelled(self) -> None:
        """
        A run that is cancelled lets go of the file, and the next one maps only what is not in there.
        """
        job = MapReduce(logged(self.log), policy=self.policy)
        run = job.start(range(300), backend=self.pool)
        await until(lambda: run.progress().chunks >= 3)
        done = 3 * run.progress().chunks
        run.cancel()
        with self.assertRaises(CancelledError):
            await run.result
        Path(self.log).write_text("")
        self.assertEqual(await job.run(range(300), backend=Inline()), [x * x for x in range(300)])
        self.assertLessEqual(len(lines(self.log)), 300 - done)


class RefusedTests(Case):
    async def test_others(self) -> None:
        """
        A journal of another job, other functions or other data is refused, and the message says which.
        """
        await MapReduce(lambda x: x + 1, policy=self.policy).run(range(9), backend=Inline())
        before = Path(self.path).read_bytes()
        for what, job, data in (
            ("other functions", MapReduce(lambda x: x + 2, policy=self.policy), range(9)),
            ("other job", MapReduce(lambda x: x + 1, flat=True, policy=self.policy), range(9)),
            ("other input", MapReduce(lambda x: x + 1, policy=self.policy), range(1, 10)),
        ):
            with self.assertRaisesRegex(BadInput, f"{what}.*delete the file"):
                await job.run(data, backend=Inline())
        self.assertEqual(Path(self.path).read_bytes(), before)

    async def test_noJournal(self) -> None:
        """
        A file that is no journal is refused, and stays as it is.
        """
        Path(self.path).write_text("my letters")
        with self.assertRaisesRegex(BadInput, "is no journal"):
            await MapReduce(str, policy=self.policy).run(range(9), backend=Inline())
        self.assertEqual(Path(self.path).read_text(), "my letters")

    async def test_inUse(self) -> None:
        """
        Two runs can't use one file at once.
        """
        file = JournalFile(self.path, Identity({}, {}))
        file.open()
        self.addCleanup(file.close)
        with self.assertRaisesRegex(BadInput, "in use"):
            await MapReduce(str, policy=self.policy).run(range(9), backend=Inline())


class UnfitTests(Case):
    async def test_result(self) -> None:
        """
        A result that can't be written down is an error that says so.
        """
        with self.assertRaisesRegex(NotSerializable, "checkpoint"):
            await MapReduce(lambda x: lambda: x, policy=self.policy).run([1], backend=Inline())

    async def test_record(self) -> None:
        """
        So is a record that can't be told from others.
        """
        with self.assertRaisesRegex(BadInput, "chunk 0 .*checkpoint"):
            await MapReduce(str, policy=self.policy).run([threading.Lock()], backend=Inline())


class FileTests(SynchronousTestCase):
    def test_private(self) -> None:
        """
        Nobody else may read it.
        """
        path = self.mktemp()
        file = JournalFile(path, Identity({}, {}))
        file.open()
        file.close()
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)

    def test_full(self) -> None:
        """
        A full disk is an error that names the file, which stays as it was.
        """
        import resource

        path = self.mktemp()
        file = JournalFile(path, Identity({}, {}))
        file.open()
        self.addCleanup(file.close)
        before = Path(path).read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
        try:
            with self.assertRaisesRegex(CheckpointFailed, path):
                file.append([Commit(0, b"", 1, 1, 1, b"", [1], [b"x" * 1000])])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
        self.assertEqual(Path(path).read_bytes(), before)
        self.assertTrue(before.startswith(MAGIC))


SCRIPT = """
    import os, sys, time
    from txmapreduce import MapReduce, Policy, Processes

    class Point:
        def __init__(self, x):
            self.x = x

    def mapper(x):
        time.sleep(0.002)
        fd = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, b"%d\\n" % x)
        os.close(fd)
        return Point(x)

    if __name__ == "__main__":
        job = MapReduce(mapper, policy=Policy(checkpoint=sys.argv[1], chunksize=5))
        points = job.run_sync(range(200), backend=Processes(2))
        assert all(type(point) is Point for point in points)
        print([point.x for point in points] == list(range(200)))
"""


class KilledTests(SynchronousTestCase):
    def committed(self, path: str) -> set[int]:
        """
        The records of the chunks that a journal has: what a run that is killed at once would not map again.
        """
        from txmapreduce._run.journal import records

        if not Path(path).exists():
            return set()
        with open(path, "rb") as file:
            file.read(len(MAGIC))
            bodies = [record.body for record in records(file.read, os.path.getsize(path))][1:]
        return {5 * Commit.decoded(body).chunk + n for body in bodies for n in range(5)}

    def test_killed(self) -> None:
        """
        A coordinator is killed, terminated or interrupted at random instants until one comes to its end: each goes on
        from where the last was, the result is exact, and no chunk that was committed is mapped again.
        """
        source = support.script(self.mktemp(), SCRIPT)
        path, log, kills, inside = self.mktemp(), self.mktemp(), 0, 0
        chance = random.Random(7)
        while kills < INSTANTS:
            done = self.committed(path)
            Path(log).write_text("")
            with support.interruptible():
                child = subprocess.Popen(
                    [sys.executable, source, os.path.abspath(path), os.path.abspath(log)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=support.environment(),
                )
            how = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
            timer = threading.Timer(chance.uniform(0.2, 1.0), child.send_signal, [how])
            timer.start()
            out, _ = child.communicate(timeout=60)
            timer.cancel()
            timer.join()
            self.assertEqual(done & set(map(int, lines(log))), set())
            if child.returncode == 0:
                self.assertEqual(out, "True\n")
                Path(path).unlink()
            else:
                self.assertIn(out, ("", "True\n"))  # it may be killed while it exits
                kills += 1
                inside += len(done) < len(self.committed(path)) < 200
        print(f"{kills} kills, {inside} between two commits", file=sys.stderr) if INSTANTS > 3 else None
