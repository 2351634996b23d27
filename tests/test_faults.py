"""
What goes wrong in a run, injected on purpose into real ones: the result is exact all the same, or there is one typed
error, and nothing is left over.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

import psutil
from twisted.internet.defer import CancelledError

from txmapreduce import MapReduce, Policy, TextFiles
from txmapreduce._pool import process
from txmapreduce._pool.cgroup import OomKills
from txmapreduce._run.coordinator import Coordinator
from txmapreduce._schedule import schedule
from txmapreduce.aggregates import Counts
from txmapreduce.backends import _session
from txmapreduce.errors import (
    BackendUnavailable,
    BadInput,
    MapReduceError,
    ProtocolError,
    RunTimedOut,
    TaskFailed,
    TaskTimedOut,
    WorkerDied,
)
from txmapreduce.runs import Run

from . import naughty
from .leftovers import Host, alive, gone, turn
from .test_processes import PoolCase

ONE = Policy(chunksize=1)
"""A chunk for each record, so that chunk and record have one number."""

COUNTS = {key: len(range(key, 100, 7)) for key in range(7)}
"""How many of a hundred records L{naughty.kill_first_at} gives each key."""

WAYS = {3: "kill", 4: "crash", 17: "exit", 50: "raise", 51: "kill", 70: "hang", 80: "eat", 99: "sys.exit"}
"""Of a hundred records, those that are bad, and how."""


class FaultCase(PoolCase):
    """
    Runs with a log of their attempts.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.log = self.temporary()

    def attempts(self, chunk: int) -> list[int]:
        """
        The attempts that were made at a chunk.
        """
        return [attempt for index, attempt, _ in naughty.notes(self.log) if index == chunk]

    async def begun(self, path: str, count: int = 1) -> list[int]:
        """
        Wait until so many attempts have been written down. Returns the pids of those who made them.
        """
        while True:
            if os.path.exists(path) and len(found := naughty.notes(path)) >= count:
                return [pid for _, _, pid in found]
            await turn(0.01)


class DeathTests(FaultCase):
    """
    Workers that die.
    """

    async def test_once(self) -> None:
        """
        When a worker is killed the result is what it would have been, and the chunk that it ran had one more attempt.
        """
        mapper = partial(naughty.kill_at, self.log, 3, signal.SIGKILL, True)
        run = MapReduce(mapper, policy=ONE).start(range(10), backend=self.pool())
        self.assertEqual(await run.result, list(range(10)))
        self.assertEqual([self.attempts(chunk) for chunk in range(10)], [[1, 2] if n == 3 else [1] for n in range(10)])
        self.assertEqual(run.progress().retried, 1)

    async def test_always(self) -> None:
        """
        A chunk whose worker is killed each time is tried C{retries + 1} times. The error names signal, chunk, attempt
        and pid, and has the end of standard error.
        """
        policy = Policy(chunksize=1, retries=2)
        mapper = partial(naughty.kill_at, self.log, 3, signal.SIGTERM, False)
        run = MapReduce(mapper, policy=policy).run(range(10), backend=self.pool())
        error = await self.assertFailure(run, WorkerDied)
        self.assertEqual(self.attempts(3), [1, 2, 3])
        self.assertEqual((error.signal, error.exit_code, error.chunk, error.attempt), (signal.SIGTERM, None, 3, 3))
        self.assertIn(error.pid, [pid for chunk, _, pid in naughty.notes(self.log) if chunk == 3])
        self.assertIn("going down at 3", error.stderr)
        self.assertIn("going down at 3", str(error))

    async def test_no_retries(self) -> None:
        """
        With C{retries=0} the first death is the end.
        """
        mapper = partial(naughty.kill_at, self.log, 3, signal.SIGKILL, False)
        run = MapReduce(mapper, policy=Policy(chunksize=1, retries=0)).run(range(5), backend=self.pool(1))
        await self.assertFailure(run, WorkerDied)
        self.assertEqual(self.attempts(3), [1])

    async def test_exit(self) -> None:
        """
        A function that ends the process has not succeeded, whatever its exit code; the reducer never sees its chunk.
        """
        for code in (0, 5):
            policy = Policy(chunksize=1, retries=1)
            run = MapReduce(partial(naughty.exit_at, 2, code), policy=policy).run(range(5), backend=self.pool())
            error = await self.assertFailure(run, WorkerDied)
            self.assertEqual((error.exit_code, error.signal, error.chunk), (code, None, 2))

    async def test_crash(self) -> None:
        """
        So with a segmentation fault, whose Python traceback is in the error.
        """
        run = MapReduce(naughty.crash, policy=Policy(retries=0)).run([0], backend=self.pool(1))
        error = await self.assertFailure(run, WorkerDied)
        self.assertEqual((error.signal, error.chunk), (signal.SIGSEGV, 0))
        self.assertIn("in crash", str(error))

    async def test_which_chunk_of_many(self) -> None:
        """
        Of a task with many chunks only the one that ran is blamed.
        """
        policy = Policy(chunksize=2, retries=1)
        mapper = partial(naughty.kill_at, self.log, 77, signal.SIGKILL, False)
        run = MapReduce(mapper, policy=policy).run(range(100), backend=self.pool())
        error = await self.assertFailure(run, WorkerDied)
        self.assertEqual((error.chunk, error.attempt), (38, 2))
        self.assertEqual(max(attempt for chunk, attempt, _ in naughty.notes(self.log) if chunk != 38), 1)

    async def test_idle(self) -> None:
        """
        That an idle worker is killed nobody notices, not even a run that begins before this process can know of it.
        """
        pool = self.pool(1)
        job = MapReduce(naughty.pid_of, policy=Policy(retries=0))
        first = await job.run([0], backend=pool)
        for wait in (False, True):
            (pid,) = pool.pids
            os.kill(pid, signal.SIGKILL)
            self.assertEqual(gone([pid], 5), [])
            while wait and pool.pids:
                await turn(0.01)
            second = await job.run([0], backend=pool)
            self.assertNotEqual(first, second)
            first = second

    async def test_everybody_at_once(self) -> None:
        """
        When all workers are killed at once, again and again, the result is right as long as no chunk had too many.
        """
        pool = self.pool(2)
        mapper = partial(naughty.busy_at, self.log, -1)
        run = MapReduce(mapper, policy=Policy(chunksize=20, retries=100)).run(range(400), backend=pool)
        for _ in range(5):
            await turn(0.02)
            for pid in pool.pids:
                os.kill(pid, signal.SIGKILL)
        self.assertEqual(await run, list(range(400)))

    async def test_initializer(self) -> None:
        """
        Workers that end in their initializer, or whose initializer raises, are tried a few times, and then the run
        fails with their last words.
        """
        for initializer, words in ((naughty.die_at_start, "no license"), (naughty.fail_to_start, "no such model")):
            arguments = ("no such model",) if initializer is naughty.fail_to_start else ()
            pool = self.pool(1, initializer=initializer, initargs=arguments)
            error = await self.assertFailure(MapReduce(abs).run([1], backend=pool), BackendUnavailable)
            self.assertIn(words, str(error))

    async def test_grandchild(self) -> None:
        """
        A process that the user's code leaves behind, with all pipes, delays nothing and does not stay.
        """
        path = self.temporary()
        policy = Policy(retries=0, timeout=20)
        run = MapReduce(partial(naughty.fork_and_stay, path), policy=policy).run([0], backend=self.pool(1))
        await self.assertFailure(run, WorkerDied)
        with open(path) as file:
            self.assertEqual(gone([int(file.read())], 5), [])

    async def test_by_key(self) -> None:
        """
        Counts by key that workers keep from chunk to chunk are exact when a worker dies midway.
        """
        for record in (0, 50, 99):
            mapper = partial(naughty.kill_first_at, record)
            job = MapReduce(mapper, reduce_by_key=int.__add__, policy=ONE)
            self.assertEqual(await job.run(range(100), backend=self.pool()), COUNTS)

    async def test_aggregate(self) -> None:
        """
        And so are those of an aggregate, where the worker that dies had handed something over before.
        """
        self.patch(_session, "HOLD_SECONDS", 0.0)
        mapper = partial(naughty.kill_first_at, 60)
        job = MapReduce(mapper, flat=True, reduce=Counts(), policy=ONE)
        found = await job.run(range(100), backend=self.pool())
        self.assertEqual(found, {(key, 1): count for key, count in COUNTS.items()})

    async def test_killed_while_it_keeps(self) -> None:
        """
        The counters of a run count every chunk once, also those that had to be made again because the worker that kept
        them was killed.
        """
        pool = self.pool(2)
        job = MapReduce(partial(naughty.counted, self.log), reduce_by_key=int.__add__, policy=ONE)
        run = job.start(range(100), backend=pool)
        pids = await self.begun(self.log, 50)
        os.kill(pids[-1], signal.SIGKILL)
        self.assertEqual(await run.result, COUNTS)
        self.assertEqual(run.counters, {("test", "records"): 100})
        self.assertEqual(run.progress().records, 100)

    async def test_reducer(self) -> None:
        """
        A worker that dies of the reduce function is tried again as often, and the error says that it was a reduce task.
        """

        def deadly(a: int, b: int) -> int:
            os.kill(os.getpid(), signal.SIGKILL)
            return a + b

        job = MapReduce(abs, reduce=deadly, policy=Policy(chunksize=1, retries=1, task_timeout=60))
        error = await self.assertFailure(job.run(range(4), backend=self.pool()), WorkerDied)
        self.assertEqual((error.signal, error.attempt, error.chunk), (signal.SIGKILL, 2, None))
        self.assertIn("reduce task", str(error))

    async def test_in_the_last_fold(self) -> None:
        """
        A worker that dies in the last fold takes the part with it that it kept for that. The result is exact all the
        same, whether one worker folds all or each its partition.
        """
        expected: dict[str, int] = {}
        for record in range(60):
            for key, value in naughty.keys_of(record):
                expected[key] = expected.get(key, 0) + value
        for many in (5, 1000):
            self.patch(schedule, "MANY_KEYS", many)
            job = MapReduce(naughty.keys_of, reduce_by_key=naughty.SumThatDies(self.mktemp()), policy=ONE)
            run = job.start(range(60), backend=self.pool(2))
            self.assertEqual(await run.result, expected, f"{many}")
            self.assertGreater(run.progress().retried, 0)
            self.assertEqual(run.progress().records, 60)

    async def test_afterPartitionsWerePutTogether(self) -> None:
        """
        And so it is when partitions are done before a worker dies: what has been put together of them is dropped, since
        the next last fold makes all of them again.
        """
        self.patch(schedule, "MANY_KEYS", 5)
        drop, dropped = Coordinator._do_discard, []
        self.patch(Coordinator, "_do_discard", lambda run, what: (dropped.append(run._values), drop(run, what)))
        fold = naughty.SumThatDies(self.mktemp(), after=800)
        run = MapReduce(naughty.many_keys_of, reduce_by_key=fold, policy=ONE).start(range(20), backend=self.pool(2))
        self.assertEqual(await run.result, {key: 20 for key, _ in naughty.many_keys_of(0)})
        self.assertEqual(len(dropped), 1)
        self.assertGreater(len(dropped[0]), 0)
        self.assertGreater(run.progress().retried, 0)


class HangTests(FaultCase):
    """
    Workers that don't end.
    """

    async def test_once(self) -> None:
        """
        A task that hangs is killed after C{task_timeout}, though it ignores SIGTERM, and run again.
        """
        policy = Policy(chunksize=1, task_timeout=0.5)
        run = MapReduce(partial(naughty.hang_at, self.log, 2, True), policy=policy).run(range(5), backend=self.pool())
        self.assertEqual(await run, list(range(5)))
        self.assertEqual(self.attempts(2), [1, 2])

    async def test_always(self) -> None:
        """
        One that always hangs ends the run with TaskTimedOut after C{retries + 1} attempts.
        """
        policy = Policy(chunksize=1, task_timeout=0.3, retries=1)
        run = MapReduce(partial(naughty.hang_at, self.log, 2, False), policy=policy).run(range(5), backend=self.pool())
        error = await self.assertFailure(run, TaskTimedOut)
        self.assertEqual((self.attempts(2), error.chunk, error.attempt), ([1, 2], 2, 2))

    async def test_c_loop(self) -> None:
        """
        So does a loop in C that holds the GIL.
        """
        policy = Policy(task_timeout=0.3, retries=0)
        await self.assertFailure(
            MapReduce(naughty.hold_the_gil, policy=policy).run([0], backend=self.pool(1)), TaskTimedOut
        )

    async def test_stopped(self) -> None:
        """
        And a worker that was stopped by SIGSTOP.
        """
        policy = Policy(chunksize=1, task_timeout=0.5)
        mapper = partial(naughty.kill_at, self.log, 2, signal.SIGSTOP, True)
        run = MapReduce(mapper, policy=policy).run(range(5), backend=self.pool())
        self.assertEqual(await run, list(range(5)))

    async def test_stopped_while_it_keeps(self) -> None:
        """
        And one that is stopped when it has no task, but keeps values by key that are still to be handed over.
        """
        pool = self.pool(2)
        mapper = partial(naughty.stops_when_sent, self.log)
        policy = Policy(chunksize=1, task_timeout=0.5, timeout=30)
        run = MapReduce(mapper, reduce_by_key=naughty.left, policy=policy).start(range(100), backend=pool)
        self.assertEqual(await run.result, dict.fromkeys(range(7), 1))
        self.assertEqual(run.progress().records, 100)
        self.assertGreater(run.progress().retried, 0)

    async def test_run_timeout(self) -> None:
        """
        C{timeout} ends the run, whatever it does, and its workers.
        """
        pool = self.pool()
        await MapReduce(abs, policy=ONE).run(range(20), backend=pool)  # the time that workers take to start counts, too
        run = MapReduce(partial(naughty.hang_at, self.log, 2, False), policy=Policy(chunksize=1, timeout=1)).run(
            range(5), backend=pool
        )
        await self.assertFailure(run, RunTimedOut)
        pids = {pid for chunk, _, pid in naughty.notes(self.log) if chunk == 2}
        self.assertEqual(gone(list(pids), 1), [])


class StragglerTests(FaultCase):
    """
    Chunks that take much longer than the others, and workers that stand still.
    """

    async def test_backup(self) -> None:
        """
        A chunk that hangs is tried on a worker that is idle, and counts once. The worker that it hung in is replaced.
        """
        pool = self.pool()
        run = MapReduce(partial(naughty.hang_at, self.log, 2, True), policy=ONE).start(range(5), backend=pool)
        self.assertEqual(await run.result, list(range(5)))
        self.assertEqual((self.attempts(2), run.progress().records, run.progress().retried), ([1, 2], 5, 0))
        (hung,) = {pid for chunk, attempt, pid in naughty.notes(self.log) if (chunk, attempt) == (2, 1)}
        self.assertEqual(gone([hung], 1), [])
        self.assertEqual(await MapReduce(abs).run(range(3), backend=pool), [0, 1, 2])

    async def test_stopped(self) -> None:
        """
        A worker that is stopped holds up neither the chunk that it runs nor the one that waits in its pipe.
        """
        run = MapReduce(partial(naughty.stop_once_at, self.log, self.mktemp(), 0), policy=ONE)
        self.assertEqual(await run.run(range(20), backend=self.pool()), list(range(20)))
        self.assertEqual(self.attempts(0), [1, 2])

    async def test_notWanted(self) -> None:
        """
        With C{speculate=False} there is one attempt, however long it takes.
        """
        policy = Policy(chunksize=1, speculate=False, timeout=1.5)
        run = MapReduce(partial(naughty.hang_at, self.log, 2, True), policy=policy).run(range(5), backend=self.pool())
        await self.assertFailure(run, RunTimedOut)
        self.assertEqual(self.attempts(2), [1])


class MemoryTests(FaultCase):
    """
    Workers that take too much memory.
    """

    async def test_always(self) -> None:
        """
        A chunk whose worker takes more than C{memory_limit} each time, itself or by what it forks, is tried
        C{retries + 1} times; the error says what it had and what it might have. Other chunks are not charged.
        """
        for forks in (False, True):
            self.log = self.temporary()
            mapper = partial(naughty.eat_at, self.log, 3, False, forks)
            job = MapReduce(mapper, policy=Policy(chunksize=1, retries=1))
            error = await self.assertFailure(job.run(range(8), backend=self.pool(memory_limit="150MiB")), WorkerDied)
            self.assertEqual((error.out_of_memory, error.chunk, error.attempt), (True, 3, 2))
            self.assertIn(error.pid, [pid for chunk, _, pid in naughty.notes(self.log) if chunk == 3])
            text = f"worker {error.pid} was killed because it had [0-9.]+ MiB, more than its memory_limit of 150 MiB, "
            self.assertRegex(str(error), f"^{text}while it ran chunk 3 .attempt 2.")
            self.assertEqual(self.attempts(3), [1, 2])
            self.assertEqual({attempt for chunk, attempt, _ in naughty.notes(self.log) if chunk != 3}, {1})

    async def test_once(self) -> None:
        """
        The result is exact when that happens once; the chunk goes again on a worker that has run nothing before.
        """
        mapper = partial(naughty.eat_at, self.log, 3, True, False)
        policy = Policy(chunksize=1, speculate=False)  # a backup might come first
        run = MapReduce(mapper, policy=policy).start(range(20), backend=self.pool(memory_limit="150MiB"))
        self.assertEqual(await run.result, list(range(20)))
        self.assertEqual((self.attempts(3), run.progress().retried), ([1, 2], 1))
        (pid,) = [pid for chunk, attempt, pid in naughty.notes(self.log) if (chunk, attempt) == (3, 2)]
        self.assertEqual(next(chunk for chunk, _, other in naughty.notes(self.log) if other == pid), 3)

    async def test_what_it_keeps(self) -> None:
        """
        A worker that keeps more and more from chunk to chunk is asked for that before it has too much.
        """
        policy = Policy(chunksize=1, retries=0, task_timeout=60)
        run = MapReduce(abs, reduce=naughty.Hoard(), policy=policy).start(
            range(60), backend=self.pool(1, memory_limit="160MiB")
        )
        self.assertEqual((await run.result, run.progress().retried), (60, 0))

    async def test_initializer(self) -> None:
        """
        Where the initializer takes too much no worker can be started, and that is why.
        """
        pool = self.pool(1, memory_limit="100MiB", initializer=naughty.eat)
        error = await self.assertFailure(MapReduce(abs).run([1], backend=pool), BackendUnavailable)
        self.assertIn("memory_limit of 100 MiB, before it was ready", str(error))

    async def test_killed_by_the_kernel(self) -> None:
        """
        A worker that was killed while its control group counted one more kill for want of memory was killed for that.
        """
        path = Path(self.temporary())
        path.write_text("oom_kill 0\n")
        kills = OomKills(path)
        self.patch(process, "oom_kills", lambda: kills)
        job = MapReduce(partial(naughty.killed_by_kernel, str(path), 1), policy=Policy(chunksize=1, retries=0))
        error = await self.assertFailure(job.run(range(3), backend=self.pool(1)), WorkerDied)
        self.assertEqual((error.out_of_memory, error.signal, error.chunk), (True, signal.SIGKILL, 1))
        self.assertIn("was killed by the kernel: out of memory while it ran chunk 1", str(error))
        error = await self.assertFailure(job.run(range(3), backend=self.pool(1)), WorkerDied)
        self.assertEqual((error.out_of_memory, error.signal), (False, signal.SIGKILL))


class PoisonTests(FaultCase):
    """
    Records that kill whatever worker takes them up.
    """

    def skipping(self, **options: Any) -> Policy:
        return Policy(**{"bad_records": "skip", "task_timeout": 1.0, "retries": 0, **options})

    def assertSkipped(self, run: Run, offset: int = 0) -> None:
        """
        Exactly the bad ones were left out, each with its place and the reason.
        """
        reasons = {bad.place: bad.reason for bad in run.skipped}
        self.assertEqual(len(reasons), len(run.skipped))
        self.assertEqual(set(reasons), {f"record {record} of the input" for record in WAYS})
        for record, words in (3, "signal 9"), (17, "exit code 3"), (50, "ValueError"), (70, "TaskTimedOut"):
            self.assertIn(words, reasons[f"record {record} of the input"])
        self.assertIn("memory_limit", reasons["record 80 of the input"])
        self.assertIn("SystemExit", reasons["record 99 of the input"])

    async def test_exactly(self) -> None:
        """
        They are left out, and nothing else, whatever the sizes of chunks and whatever comes of the values; although
        C{retries} is 0.
        """
        mapper = partial(naughty.misbehave, WAYS)
        pool = self.pool(memory_limit="150MiB")
        for size in None, 100:
            run = MapReduce(mapper, policy=self.skipping(chunksize=size)).start(range(100), backend=pool)
            self.assertEqual(await run.result, [record for record in range(100) if record not in WAYS])
            self.assertSkipped(run)
            self.assertEqual(run.progress().records, 100)

    async def test_kinds(self) -> None:
        """
        So it is with mappers that take batches or give several values, with folds in order, by key, and held.
        """
        ways = {3: "kill", 17: "exit", 50: "raise"}
        good = [record for record in range(60) if record not in ways]

        def batch(records: list[int]) -> list[int]:
            return [naughty.misbehave(ways, record) for record in records]

        def several(record: int) -> Iterator[int]:
            yield naughty.misbehave(ways, record)

        def keyed(record: int) -> Iterator[tuple[int, int]]:
            yield naughty.misbehave(ways, record) % 7, 1

        one = partial(naughty.misbehave, ways)
        pool = self.pool()
        for options, expected in (
            ({"mapper": batch, "batched": True}, good),
            ({"mapper": several, "flat": True}, good),
            ({"mapper": one, "reduce": max}, max(good)),
            ({"mapper": one, "reduce": Counts()}, Counter(good)),
            ({"mapper": keyed, "reduce_by_key": add}, Counter(record % 7 for record in good)),
        ):
            policy = self.skipping(chunksize=15, task_timeout=None)
            run = MapReduce(**options, policy=policy).start(range(60), backend=pool)
            self.assertEqual(await run.result, expected)
            self.assertEqual(sorted((bad.chunk, bad.record) for bad in run.skipped), [(0, 3), (1, 2), (3, 5)])

    async def test_files(self) -> None:
        """
        In files, too: the place is the file and the number of the line in its part.
        """
        path = self.temporary()
        Path(path).write_text("".join(f"{record}\n" for record in range(50)))
        mapper = partial(naughty.misbehave, {"3": "kill", "17": "raise", "18": "exit"})
        run = MapReduce(mapper, policy=self.skipping()).start(TextFiles(path), backend=self.pool(1))
        self.assertEqual(await run.result, [f"{record}" for record in range(50) if record not in (3, 17, 18)])
        found = [(bad.place.partition(f" of {path}")[0], "'" in bad.reason) for bad in run.skipped]
        self.assertEqual(sorted(found), [("record 17", True), ("record 18", True), ("record 3", True)])

    async def test_stream(self) -> None:
        """
        A stream goes on behind chunks of which nothing is left.
        """
        mapper = partial(naughty.misbehave, dict.fromkeys(range(5), "kill"))
        policy = self.skipping(chunksize=1, buffersize=2)
        found = [value async for value in MapReduce(mapper, policy=policy).stream(range(20), backend=self.pool())]
        self.assertEqual(found, list(range(5, 20)))

    async def test_dead_letters(self) -> None:
        """
        What was left out stands in the file, whether the run succeeds or not.
        """
        path = self.temporary()
        for most in None, 2:
            policy = self.skipping(dead_letters=path, max_bad_records=most)
            run = MapReduce(partial(naughty.misbehave, {3: "kill", 5: "raise", 8: "exit"}), policy=policy)
            result = run.start(range(10), backend=self.pool(1)).result
            if most is None:
                self.assertEqual(await result, [0, 1, 2, 4, 6, 7, 9])
            else:
                error = await self.assertFailure(result, TaskFailed)
                self.assertIn("more than 2 bad records", str(error))
            letters = [json.loads(line) for line in Path(path).read_text().splitlines()]
            self.assertEqual({letter["place"] for letter in letters}, {f"record {n} of the input" for n in (3, 5, 8)})
            self.assertEqual(set(letters[0]), {"chunk", "record", "reason", "place"})

    async def test_dead_letters_that_can_not_be_written(self) -> None:
        """
        Nothing is started then.
        """
        policy = self.skipping(dead_letters=os.path.join(self.temporary(), "none", "letters"))
        error = await self.assertFailure(MapReduce(abs, policy=policy).run([1], backend=self.pool(1)), BadInput)
        self.assertIn("dead_letters", str(error))

    async def test_named(self) -> None:
        """
        Where bad records are not left out the error names the record, its place and its text, and one more death is
        enough for that; there are C{retries + 1} attempts.
        """
        pool = self.pool(memory_limit="150MiB")
        for way, kind in ("kill", WorkerDied), ("eat", WorkerDied), ("hang", TaskTimedOut):
            policy = Policy(chunksize=20, retries=1, task_timeout=2, speculate=False)
            run = MapReduce(partial(naughty.misbehave, {33: way}), policy=policy).start(range(100), backend=pool)
            error = await self.assertFailure(run.result, kind)
            self.assertEqual((error.chunk, error.record, error.attempt), (1, 13, 2))
            self.assertEqual(error.place, "record 33 of the input: 33")
            self.assertIn("at record 13 of the chunk (record 33 of the input: 33)", str(error))

    async def test_too_much_together(self) -> None:
        """
        A chunk that is merely too large for C{memory_limit} has success in pieces.
        """
        policy = Policy(chunksize=8, retries=5)
        run = MapReduce(naughty.ballast, reduce=naughty.Pile(), policy=policy)
        self.assertEqual(await run.run(range(16), backend=self.pool(1, memory_limit="150MiB")), 16)


class CancelTests(FaultCase):
    """
    Runs that are cancelled.
    """

    async def test_running(self) -> None:
        """
        The workers of a run that is cancelled use no processor within a second; another run on the pool goes on.
        """
        pool = self.pool(2)
        other = MapReduce(naughty.slow_pid_of, policy=ONE).run(range(40), backend=pool)
        doomed = MapReduce(partial(naughty.busy_at, self.log, 0), policy=ONE).run([0, 0, 0], backend=pool)
        (pid, *_) = await self.begun(self.log)
        self.assertTrue(alive(pid))
        doomed.cancel()
        await self.assertFailure(doomed, CancelledError)
        self.assertEqual(gone([pid], 1), [])
        self.assertEqual(len(await other), 40)

    async def test_while_workers_start(self) -> None:
        """
        Cancelled in the moment it began, again and again, a run leaves nothing, and the pool works.
        """
        pool = self.pool(1)
        for _ in range(8):
            run = MapReduce(abs).run([1], backend=pool)
            run.cancel()
            await self.assertFailure(run, CancelledError)
        self.assertEqual(await MapReduce(abs).run([-1], backend=pool), [1])

    async def test_queued(self) -> None:
        """
        A run that waits for others can be cancelled, and they don't suffer.
        """
        pool = self.pool(1)
        first = MapReduce(naughty.slow_pid_of, policy=ONE).run(range(10), backend=pool)
        second = MapReduce(partial(naughty.busy_at, self.log, -1), policy=ONE).run(range(10), backend=pool)
        second.cancel()
        await self.assertFailure(second, CancelledError)
        self.assertEqual(len(await first), 10)
        self.assertFalse(os.path.exists(self.log) and len(naughty.notes(self.log)) > 1)

    async def test_reducing(self) -> None:
        """
        A run can be cancelled in its last reduce.
        """
        path = self.log

        def slow(a: int, b: int) -> int:
            with open(path, "a") as file:
                file.write(f"0 1 {os.getpid()}\n")
            time.sleep(60)
            return a + b

        job = MapReduce(abs, reduce=slow, policy=Policy(chunksize=1, task_timeout=100))
        run = job.run(range(2), backend=self.pool())
        (pid, *_) = await self.begun(path)
        run.cancel()
        await self.assertFailure(run, CancelledError)
        self.assertEqual(gone([pid], 1), [])

    async def test_twice_and_late(self) -> None:
        """
        Cancelling a run that is over does nothing.
        """
        run = MapReduce(abs).start([-1], backend=self.pool(1))
        self.assertEqual(await run.result, [1])
        run.cancel()
        run.cancel()

    async def test_other_runs_never_noticed(self) -> None:
        """
        Runs that are cancelled while another one is under way cost that one none of its attempts.
        """
        pool = self.pool(2)
        policy = Policy(chunksize=1, retries=0)
        other = MapReduce(naughty.slow_pid_of, policy=policy).run(range(60), backend=pool)
        for _ in range(10):
            doomed = MapReduce(naughty.slow_pid_of, policy=policy).run(range(60), backend=pool)
            await turn(0.05)
            doomed.cancel()
            await self.assertFailure(doomed, CancelledError)
        self.assertEqual(len(await other), 60)


class MisbehaviourTests(FaultCase):
    """
    User code that does what it should not.
    """

    async def test_garbage(self) -> None:
        """
        A worker that writes garbage to the result pipe is replaced and its chunk is run again; if that happens each
        time, it ends in a ProtocolError.
        """
        policy = Policy(retries=1, timeout=30)
        pool = self.pool(1)
        self.assertEqual(await MapReduce(partial(naughty.garbage, True), policy=policy).run([5], backend=pool), [5])
        run = MapReduce(partial(naughty.garbage, False), policy=policy).run([5], backend=pool)
        error = await self.assertFailure(run, ProtocolError)
        self.assertIn("chunk 0", str(error))

    async def test_hand_over(self) -> None:
        """
        What a worker keeps can't be handed over: it dies of that, or hangs, each time. The run ends with the same error
        as if the mapper did that.
        """
        policy = Policy(retries=1, task_timeout=0.3, timeout=50)
        for act, expected in ((os._exit, WorkerDied), (time.sleep, TaskTimedOut)):
            job = MapReduce(partial(naughty.unsendable, act), reduce_by_key=add, policy=policy)
            error = await self.assertFailure(job.run(range(100), backend=self.pool(2)), expected)
            self.assertRegex(str(error), "chunk .* attempt 2|chunk .*.attempt 2.")

    async def test_changes_everything(self) -> None:
        """
        Working directory, environment, signal handlers, standard streams: the run goes on, and the worker can be ended.
        """
        pool = self.pool(1)
        found = await MapReduce(naughty.change_everything, policy=ONE).run(range(5), backend=pool)
        self.assertEqual(found, list(range(5)))
        run = MapReduce(partial(naughty.busy_at, self.log, 0)).run([0], backend=pool)
        (pid,) = await self.begun(self.log)
        run.cancel()
        await self.assertFailure(run, CancelledError)
        self.assertEqual(gone([pid], 1), [])

    async def test_input(self) -> None:
        """
        input() finds that there is no input.
        """
        self.assertEqual(await MapReduce(naughty.read_stdin).run([0], backend=self.pool(1)), ["end of file"])

    async def test_exits(self) -> None:
        """
        sys.exit and KeyboardInterrupt are failures of the user's function. The worker stays.
        """
        pool = self.pool(1)
        before = await MapReduce(naughty.pid_of).run([0], backend=pool)
        for kind in (SystemExit, KeyboardInterrupt):
            run = MapReduce(partial(naughty.raising, kind)).run([0], backend=pool)
            error = await self.assertFailure(run, TaskFailed)
            self.assertIsInstance(error.__cause__, kind)
        self.assertEqual(await MapReduce(naughty.pid_of).run([0], backend=pool), before)

    async def test_result_that_does_not_load(self) -> None:
        """
        A result whose loading raises here is one error of the run; the reactor goes on, and so does the pool.
        """
        pool = self.pool(1)
        await self.assertFailure(MapReduce(naughty.unloadable).run([0], backend=pool), MapReduceError)
        self.assertEqual(await MapReduce(abs).run([-1], backend=pool), [1])

    async def test_kept_value_that_can_not_be_sent(self) -> None:
        """
        Where what a worker keeps turns out to be unsendable the run fails. It never ends well without those values.
        """
        for seconds in (0.0, 10.0):  # asked for along the way, or at the end
            self.patch(_session, "HOLD_SECONDS", seconds)
            job = MapReduce(naughty.lock_first, reduce_by_key=naughty.left, policy=ONE)
            error = await self.assertFailure(job.run(range(40), backend=self.pool(1)), TaskFailed)
            self.assertIn("lock", str(error))

    async def test_input_that_raises(self) -> None:
        """
        An input that raises midway ends the run with its own exception.
        """

        def records() -> Iterator[int]:
            yield from range(100)
            raise LookupError("no more")

        await self.assertFailure(MapReduce(abs).run(records(), backend=self.pool(1)), LookupError)


HOST = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
from functools import partial
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from txmapreduce import MapReduce, Policy, Processes
from tests import naughty

class Never:
    def __aiter__(self):
        return self
    def __anext__(self):
        return Deferred()

pool = Processes(2)
mapper = {"loop": naughty.hold_the_gil, "abs": abs, "fork": partial(naughty.fork_and_loop, sys.argv[-1])}[sys.argv[1]]
data = Never() if "never" in sys.argv else [1, 2]

def begin():
    run = MapReduce(mapper, policy=Policy(chunksize=1)).run(data, backend=pool)
    run.addBoth(lambda result: print("ended", type(getattr(result, "value", result)).__name__))
    wait()

def wait():
    busy = [pid for pid in pool.pids if sum(os.times()[:2]) and open(f"/proc/{pid}/stat").read().split()[13] > "0"]
    running = [slot for slot in pool._pool._slots if slot.child.began != (0, 0)] if pool._pool else []
    if len(running) < 2 and "never" not in sys.argv:
        reactor.callLater(0.01, wait)
        return
    print("pids", *pool.pids)
    if "stop" in sys.argv:
        reactor.callLater(0.1, reactor.stop)

reactor.callWhenRunning(begin)
reactor.run()
print("stopped")
"""


DEAF = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
from functools import partial
from twisted.internet import reactor
from txmapreduce import MapReduce, Policy, Processes
from tests import naughty

pool = Processes(1)

def begin():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    job = MapReduce(partial(naughty.fork_and_stay, sys.argv[1]), policy=Policy(retries=0))
    run = job.run([0], backend=pool)
    run.addBoth(lambda failure: print(type(failure.value).__name__))
    run.addBoth(lambda _: reactor.stop())

reactor.callWhenRunning(begin)
reactor.run()
"""


class CoordinatorTests(FaultCase):
    """
    What becomes of the workers when the coordinator ends. Both workers are in a loop in C that holds the GIL.
    """

    def host(self, *arguments: str) -> tuple[Host, list[int]]:
        host = Host(self, HOST, *arguments)
        word, *pids = host.line().split()
        self.assertEqual(word, "pids")
        self.addCleanup(self.end, pids := [int(pid) for pid in pids])
        return host, pids

    def end(self, pids: list[int]) -> None:
        for pid in gone(pids, 0):
            psutil.Process(pid).kill()

    def test_killed(self) -> None:
        """
        One second after the coordinator was killed with SIGKILL there is no worker.
        """
        host, pids = self.host("loop")
        self.assertEqual((len(pids), all(map(alive, pids))), (2, True))
        host.process.kill()
        self.assertEqual(gone(pids, 1), [])

    def test_killed_with_grandchildren(self) -> None:
        """
        Nor is there any process that a worker forked, though it ignores SIGTERM and every worker is in a C loop.
        """
        path = self.temporary()
        host, pids = self.host("fork", path)
        until = time.monotonic() + 10
        while time.monotonic() < until and (not os.path.exists(path) or len(Path(path).read_text().split()) < 2):
            time.sleep(0.01)
        grandchildren = [int(pid) for pid in Path(path).read_text().split()]
        self.addCleanup(self.end, grandchildren)
        self.assertEqual((len(grandchildren), all(map(alive, grandchildren))), (2, True))
        host.process.kill()
        self.assertEqual(gone([*pids, *grandchildren], 1), [])

    def test_nobody_collects(self) -> None:
        """
        Where SIGCHLD is ignored, so that nobody collects a worker, what it forked ends with it all the same.
        """
        path = self.temporary()
        host = Host(self, DEAF, path)
        self.assertEqual(host.line(), "WorkerDied")
        self.assertEqual(gone([int(Path(path).read_text())], 5), [])

    def test_terminated(self) -> None:
        """
        Nor after SIGTERM; the reactor stops as usual.
        """
        host, pids = self.host("loop")
        host.process.terminate()
        self.assertIn("stopped", host.output())
        self.assertEqual(gone(pids, 0), [])

    def test_interrupted(self) -> None:
        """
        Nor after Ctrl-C, which the terminal sends to the coordinator's whole process group.
        """
        host, pids = self.host("loop")
        os.killpg(host.pid, signal.SIGINT)
        output = host.output()
        self.assertIn("ended BackendUnavailable", output)
        self.assertIn("stopped", output)
        self.assertNotIn("Traceback", output)
        self.assertEqual(gone(pids, 0), [])

    def test_stopped(self) -> None:
        """
        Nor after reactor.stop(), by which time the run has been told.
        """
        host, pids = self.host("loop", "stop")
        output = host.output()
        self.assertIn("ended BackendUnavailable", output)
        self.assertIn("stopped", output)
        self.assertEqual(gone(pids, 0), [])

    def test_stopped_while_it_waits_for_input(self) -> None:
        """
        The reactor stops, too, where a run has nothing to do since its input has nothing to give.
        """
        host, _ = self.host("abs", "never", "stop")
        self.assertIn("stopped", host.output(10))
