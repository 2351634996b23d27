"""
Tests for L{txmapreduce.outputs} and L{txmapreduce._run.finishing}: where a run's records go when it does not give them.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import json
import operator
import os
import pickle
import random
import resource
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import mappers
from tests.support import PoolCase
from txmapreduce import Inline, MapReduce, PartFiles, Policy, TextFiles, outputs
from txmapreduce.errors import BadInput, OutputFailed, TaskFailed, WorkerDied
from txmapreduce.testing import failing, functions
from txmapreduce.testing._case import in_thread, until
from txmapreduce.testing._laws import LAWS, records

INSTANTS = int(os.environ.get("OUTPUT_INSTANTS", "4"))
"""At how many instants a worker is killed."""


def unpickled(path: str) -> Iterator[Any]:
    with open(path, "rb") as file:
        while file.peek(1):  # type: ignore[attr-defined]
            yield from pickle.load(file)


def read_back(written: outputs.Written) -> list[Any]:
    return [record for part in written.parts for record in unpickled(part)]


def expected_records(result: Any, options: dict[str, Any]) -> list[Any]:
    """
    The records of a result that came back.
    """
    if "reduce" in options:
        return [result]
    return sorted(result.items(), key=repr) if isinstance(result, dict) else result


class LawCases:
    """
    What is written is what would have come back, for each kind of job.
    """

    examples = 10

    def hold(self, names: Sequence[str]) -> None:
        folder = tempfile.mkdtemp(dir=".")
        backend = self.backend()  # type: ignore[attr-defined]

        @settings(max_examples=self.examples, deadline=None, database=None)
        @given(st.sampled_from(names), records, st.sampled_from([None, 1, 7]))
        def holds(name: str, data: list[int], chunksize: int | None) -> None:
            law = LAWS[name]
            output = PartFiles(f"{folder}/out", "pickle", overwrite=True)
            try:
                expected = expected_records(law.means(data), law.options)
            except TypeError as error:
                with self.assertRaisesRegex(TypeError, str(error).split("(")[0]):  # type: ignore[attr-defined]
                    law.job(chunksize).run_sync(data, backend=backend, output=output)
                return
            written = law.job(chunksize).run_sync(data, backend=backend, output=output)
            got = read_back(written)
            if "reduce_by_key" in law.options:
                got.sort(key=repr)
            self.assertEqual(got, expected)  # type: ignore[attr-defined]
            self.assertEqual(written.records, len(expected))  # type: ignore[attr-defined]
            self.assertEqual(os.listdir(folder), ["out"])  # type: ignore[attr-defined]

        holds()

    async def test_laws(self) -> None:
        """
        The parts, read in the order of their names, have the records that the job gives, in its order where it has one.
        """
        await in_thread(self.hold, sorted(LAWS))


class InlineLawTests(LawCases, TestCase):
    examples = 60

    def backend(self) -> Inline:
        return Inline()


class ProcessLawTests(LawCases, PoolCase):
    examples = 40

    def backend(self) -> Any:
        return self.pool


class FolderCase(PoolCase):
    def setUp(self) -> None:
        super().setUp()
        self.top = os.path.abspath(self.mktemp())
        os.mkdir(self.top)
        self.folder = f"{self.top}/out"

    def tree(self) -> list[str]:
        """
        All that is in the folder in which outputs are made.
        """
        return sorted(str(path.relative_to(self.top)) for path in Path(self.top).rglob("*"))

    def part_names(self, count: int, suffix: str = ".jsonl") -> list[str]:
        return ["out", "out/_SUCCESS", *(f"out/part-{n:06d}{suffix}" for n in range(count))]


class PartFilesTests(FolderCase):
    """
    Folders of part files.
    """

    async def test_folder(self) -> None:
        """
        There are the parts and the mark, and nothing else; the result says what there is.
        """
        job = MapReduce(functions.square, policy=Policy(chunksize=10, task_timeout=60))
        written = await job.run(range(40), backend=self.pool, output=PartFiles(self.folder))
        self.assertEqual(self.tree(), self.part_names(4))
        self.assertEqual(written.folder, self.folder)
        self.assertEqual([os.path.basename(part) for part in written.parts], [f"part-{n:06d}.jsonl" for n in range(4)])
        self.assertEqual(written.records, 40)
        self.assertEqual(written.nbytes, sum(map(os.path.getsize, written.parts)))
        text = "".join(Path(part).read_text() for part in written.parts)
        self.assertEqual(list(map(json.loads, text.splitlines())), [x * x for x in range(40)])

    async def test_partitions(self) -> None:
        """
        The partitions of a job by key are written by as many tasks, and no key is in two of them.
        """
        job = MapReduce(functions.key_itself, reduce_by_key=operator.add)
        written = await job.run(map(str, range(20000)), backend=self.pool, output=PartFiles(self.folder, "tsv"))
        parts = [[line.split("\t")[0] for line in Path(part).read_text().splitlines()] for part in written.parts]
        self.assertEqual(len(parts), 2)
        self.assertEqual(sorted(parts[0] + parts[1]), sorted(map(str, range(20000))))

    async def test_existing(self) -> None:
        """
        A folder that is there is refused, and stays as it is; C{overwrite} replaces all of it.
        """
        job, output = MapReduce(functions.square), PartFiles(self.folder)
        os.mkdir(self.folder)
        Path(self.folder, "mine").touch()
        with self.assertRaisesRegex(BadInput, "overwrite=True"):
            await job.run([1], backend=self.pool, output=output)
        self.assertEqual(self.tree(), ["out", "out/mine"])
        await job.run([1], backend=self.pool, output=PartFiles(self.folder, overwrite=True))
        self.assertEqual(self.tree(), self.part_names(1))

    async def test_replacedOnSuccessOnly(self) -> None:
        """
        With C{overwrite} a run that fails, or one that is cancelled, leaves the old folder as it was, and nothing else.
        """
        os.mkdir(self.folder)
        Path(self.folder, "mine").touch()
        output = PartFiles(self.folder, overwrite=True)
        with self.assertRaises(TaskFailed):
            await MapReduce(failing.fails_at_7).run(range(10), backend=self.pool, output=output)
        self.assertEqual(self.tree(), ["out", "out/mine"])
        running = MapReduce(slow_after(3)).start(range(10), backend=self.pool, output=output)
        await until(lambda: len(self.tree()) > 4)
        self.assertEqual(self.tree()[-2:], ["out", "out/mine"])
        running.cancel()
        with self.assertRaises(CancelledError):
            await running.result
        self.assertEqual(self.tree(), ["out", "out/mine"])

    async def test_nothingLeft(self) -> None:
        """
        When the Deferred of a run is cancelled it fires when all that was written is gone. So it is with a run whose
        time is up, and with one that was cancelled before it had begun.
        """
        for begun in (True, False):
            result = MapReduce(slow_after(3)).run(range(10), backend=self.pool, output=PartFiles(self.folder))
            await until(lambda begun=begun: not begun or len(self.tree()) > 3)
            result.cancel()
            with self.assertRaises(CancelledError):
                await result
            self.assertEqual(self.tree(), [])
        with self.assertRaises(Exception):  # noqa: B017
            job = MapReduce(slow_after(3), policy=Policy(timeout=0.3))
            await job.run(range(10), backend=self.pool, output=PartFiles(self.folder))
        self.assertEqual(self.tree(), [])

    async def test_notMade(self) -> None:
        """
        A folder that can't be made is an error that names it, before anything is mapped.
        """
        job = MapReduce(functions.square)
        with self.assertRaisesRegex(BadInput, "nowhere/out"):
            await job.run([1], backend=self.pool, output=PartFiles(f"{self.top}/nowhere/out"))
        Path(self.folder).touch()
        with self.assertRaisesRegex(BadInput, "can't be replaced"):
            await job.run([1], backend=self.pool, output=PartFiles(self.folder, overwrite=True))

    async def test_notWritable(self) -> None:
        """
        What the format has no place for is an error that shows it and says in which chunk. Nothing is left.
        """
        cases: list[tuple[Any, str, str]] = [
            ("jsonl", {1, 2}, "no JSON"),
            ("jsonl", float("nan"), "no JSON"),
            ("tsv", ("a\tb", 1), "no tab"),
            ("tsv", ("a\nb", 1), "no line end"),
            ("tsv", ("a", [1]), "text or a number"),
            ("text", 7, "has to be text"),
            ("text", "a\rb", "no line end"),
            ("pickle", lambda: 1, "can't be pickled"),
            ("parquet", {1: 2}, "column's name"),
        ]
        for format, record, message in cases:
            with self.assertRaisesRegex(TaskFailed, f"output could not be written in chunk 0.*{message}"):
                await MapReduce(functions.identity).run(
                    [record], backend=self.pool, output=PartFiles(self.folder, format)
                )
            self.assertEqual(self.tree(), [])

    async def test_userErrors(self) -> None:
        """
        What the user's functions raise is told as without an output.
        """
        for job, where in (
            (MapReduce(failing.fails_at_7), "the mapper raised in record 7 of chunk 0"),
            (MapReduce(functions.pairs_of_numbers, reducer=failing.reducer_that_fails), "the reduce function raised"),
        ):
            with self.assertRaisesRegex(TaskFailed, where):
                await MapReduce(**{**vars(job.job), "policy": Policy(chunksize=20)}).run(
                    range(20), backend=self.pool, output=PartFiles(self.folder)
                )
            self.assertEqual(self.tree(), [])

    async def test_noCheckpoint(self) -> None:
        """
        An output does not go with a checkpoint, nor is anything else than a sink an output.
        """
        job = MapReduce(functions.square, policy=Policy(checkpoint=f"{self.top}/journal"))
        with self.assertRaisesRegex(BadInput, "don't go together"):
            await job.run([1], backend=self.pool, output=PartFiles(self.folder))
        with self.assertRaisesRegex(BadInput, "PartFiles"):
            await MapReduce(functions.square).run([1], backend=self.pool, output=self.folder)  # type: ignore[arg-type]

    async def test_partial(self) -> None:
        """
        There is no result so far, and asking for it writes nothing.
        """
        job = MapReduce(functions.key_itself, reduce_by_key=operator.add)
        running = job.start(range(1000), backend=self.pool, output=PartFiles(self.folder))
        self.assertIs(await running.partial(), None)
        written = await running.result
        self.assertEqual(written.records, 1000)
        self.assertEqual(await running.partial(), written)

    async def test_plainData(self) -> None:
        """
        With C{trust="data"} records of any type may be written: they don't come here.
        """
        by_key = MapReduce(pair_of_complex, reduce_by_key=operator.add)
        for job in (MapReduce(complex), MapReduce(complex, reduce=operator.add), by_key):
            trusting = MapReduce(**{**vars(job.job), "policy": Policy(trust="data")})
            output = PartFiles(self.folder, "pickle", overwrite=True)
            written = await trusting.run([1, 1, 1], backend=self.pool, output=output)
            result = await job.run([1, 1, 1], backend=self.pool)
            self.assertEqual(read_back(written), expected_records(result, {"reduce": 1} if job.job.reduce else {}))

    async def test_fileLimit(self) -> None:
        """
        Where a file can't grow any more the error names the folder.
        """
        with self.assertRaisesRegex(TaskFailed, f"File too large: {self.folder}"):
            await MapReduce(limited).run(range(10), backend=self.pool, output=PartFiles(self.folder))
        self.assertEqual(self.tree(), [])

    def test_diskFull(self) -> None:
        """
        Where there is no more room the error says how much there is.
        """
        error = outputs._explained(OSError(errno.ENOSPC, "No space left on device"), self.folder)
        self.assertRegex(str(error), f"No space left on device: {self.folder} .[0-9.]+ MiB are free there")

    async def test_killed(self) -> None:
        """
        Whenever a worker is killed, each record is written once, and nothing else is there.
        """
        maps = MapReduce(mappers.slow_square, policy=Policy(chunksize=5, task_timeout=60, retries=50))
        keys = MapReduce(slow_pairs, reducer=slow_total, policy=Policy(chunksize=20, retries=50))
        by_key = MapReduce(slow_pairs, reduce_by_key=operator.add, policy=Policy(retries=50))
        for job, data, expected in (
            (maps, range(200), [x * x for x in range(200)]),
            (keys, range(200), [[k, sum(range(k, 200, 20))] for k in range(20)]),
            (by_key, range(200), [[k, sum(range(k, 200, 20))] for k in range(20)]),
        ):
            for _ in range(INSTANTS):
                with self.killing():
                    written = await job.run(data, backend=self.pool, output=PartFiles(self.folder, overwrite=True))
                text = "".join(Path(part).read_text() for part in written.parts)
                got = list(map(json.loads, text.splitlines()))
                self.assertEqual(sorted(got) if job is by_key else got, expected)
                self.assertEqual(self.tree(), self.part_names(len(written.parts)))

    def killing(self) -> Any:
        """
        While this lasts, workers are killed at random instants.
        """
        return Killing(self.pool)

    async def test_diesForever(self) -> None:
        """
        A run whose workers die until its retries are used up leaves nothing.
        """
        with self.assertRaises(WorkerDied):
            await MapReduce(dies, policy=Policy(retries=1)).run(
                range(4), backend=self.pool, output=PartFiles(self.folder)
            )
        self.assertEqual(self.tree(), [])


class Killing:
    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for _ in range(3):  # more in a row would look as if no worker could be started
            if self._ended.wait(random.uniform(0.01, 0.4)):
                return
            with contextlib.suppress(IndexError, ProcessLookupError):
                os.kill(random.choice(self._pool.pids), signal.SIGKILL)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()


def slow_after(n: int) -> Callable[[int], int]:
    def mapper(x: int) -> int:
        if x >= n:
            import time

            time.sleep(600)
        return x

    return mapper


def pair_of_complex(x: int) -> list[tuple[int, complex]]:
    return [(x, complex(x))]


def limited(x: int) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    return "x" * 100_000


def slow_pairs(x: int) -> list[tuple[int, int]]:
    import time

    time.sleep(0.001)
    return [(x % 20, x)]


def slow_total(key: int, values: Iterator[int]) -> Iterator[tuple[int, int]]:
    import time

    time.sleep(0.005)
    yield key, sum(values)


def dies(x: int) -> int:
    if x == 3:
        os._exit(1)
    return x


class FormatTests(SynchronousTestCase):
    """
    What is in the files.
    """

    def write(self, format: Any, records: list[Any], compression: str | None = None) -> bytes:
        folder = os.path.abspath(self.mktemp())
        draft = PartFiles(folder, format, compression).begin()
        written = draft.commit([draft.write(iter(records), 7)])
        self.assertEqual(written.records, len(records))
        return b"".join(Path(part).read_bytes() for part in written.parts)

    def test_jsonLines(self) -> None:
        """
        Each record is a line; characters stay themselves, but for halves of one.
        """
        found = self.write("jsonl", [("é", 1), {"a": [None, True]}, "\ud800", 1.5])
        self.assertEqual(found, '["é", 1]\n{"a": [null, true]}\n"\\ud800"\n1.5\n'.encode())

    def test_tabs(self) -> None:
        """
        Fields stand between tabs; a record that is no tuple or list is one field.
        """
        self.assertEqual(self.write("tsv", [("a", 1, 2.5), ["b", True], "c", 4]), b"a\t1\t2.5\nb\tTrue\nc\n4\n")
        self.assertEqual(self.write("tsv", [("a", 1, 2.5), ("b", 1 << 70)]), b"a\t1\t2.5\nb\t%d\n" % (1 << 70))
        self.assertEqual(self.write("tsv", [("a", ""), ()]), b"a\t\n\n")
        for bad in ([("a\tb", 1), ("a", 1)], [("a\tb",), ()], [("a", "b\t"), ["c"]]):
            self.assertRaises(ValueError, self.write, "tsv", bad)

    def test_text(self) -> None:
        """
        Each record is a line, an empty one too.
        """
        self.assertEqual(self.write("text", ["a", "", "ü"]), "a\n\nü\n".encode())

    def test_compressed(self) -> None:
        """
        Files are compressed under the suffix that says so, and each attempt gives the same bytes.
        """
        first = self.write("text", ["a", "b"], "gzip")
        self.assertEqual(gzip.decompress(first), b"a\nb\n")
        self.assertEqual(self.write("text", ["a", "b"], "gzip"), first)
        for compression, suffix in (("gzip", ".gz"), ("bz2", ".bz2"), ("xz", ".xz")):
            folder = os.path.abspath(self.mktemp())
            draft = PartFiles(folder, "text", compression).begin()
            written = draft.commit([draft.write(iter(["a", "b"]), 7)])
            self.assertEqual(written.parts, (f"{folder}/part-000000.txt{suffix}",))
            (split,) = TextFiles(folder).splits(1000)
            self.assertEqual(list(split.read()), ["a", "b"])

    def test_parquet(self) -> None:
        """
        Dicts have a column for each key, pairs two, other values one. What later rows lack is null.
        """
        for written, rows in (
            ([{"a": 1, "b": "x"}, {"a": 2}], [{"a": 1, "b": "x"}, {"a": 2, "b": None}]),
            ([("k", 1), ("l", 2)], [{"key": "k", "value": 1}, {"key": "l", "value": 2}]),
            ([1.5, 2.5], [{"value": 1.5}, {"value": 2.5}]),
        ):
            self.assertEqual(parquet.read_table(io.BytesIO(self.write("parquet", written))).to_pylist(), rows)
        self.assertEqual(self.write("parquet", []), b"")

    def test_parquetRowGroups(self) -> None:
        """
        Many rows are several row groups, of the same columns: one that is new in a later group is an error.
        """
        many = [{"a": n} for n in range(25_000)]
        self.assertEqual(parquet.ParquetFile(io.BytesIO(self.write("parquet", many))).num_row_groups, 2)
        with self.assertRaisesRegex(ValueError, "'b'"):
            self.write("parquet", [*many, {"b": 1}])

    def test_refused(self) -> None:
        """
        Values that mean nothing are refused.
        """
        for wrong in (
            {"format": "xml"},
            {"compression": "zip"},
            {"format": "parquet", "compression": "xz"},
            {"overwrite": 1},
            {"folder": ""},
            {"folder": 7},
        ):
            with self.assertRaises(BadInput):
                PartFiles(**{"folder": "x", **wrong})  # type: ignore[arg-type]


class DraftTests(SynchronousTestCase):
    """
    What becomes of attempts.
    """

    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        self.draft = PartFiles(self.folder, "text").begin()

    def test_unaccepted(self) -> None:
        """
        What other attempts have written goes, also half of a part.
        """
        receipts = [self.draft.write(iter([str(n)]), n) for n in range(4)]
        Path(self.draft._unfinished(9)).write_text("ha")
        written = self.draft.commit([receipts[3], receipts[1]])
        self.assertEqual([Path(part).read_text() for part in written.parts], ["3\n", "1\n"])
        self.assertEqual(sorted(os.listdir(self.folder)), ["_SUCCESS", "part-000000.txt", "part-000001.txt"])

    def test_unfinishedIsSkipped(self) -> None:
        """
        Readers see nothing of what is being written.
        """
        self.draft.write(iter(["a"]), 1)
        self.assertEqual(list(TextFiles(self.folder).splits(1000)), [])

    def test_failedAttempt(self) -> None:
        """
        An attempt that raises takes its file with it.
        """
        with self.assertRaises(ValueError):
            self.draft.write(iter(["a", 7]), 1)
        self.assertEqual(os.listdir(f"{self.folder}/_temporary"), [])

    def test_partIsGone(self) -> None:
        """
        A part that somebody has deleted is an error that names the folder.
        """
        receipt = self.draft.write(iter(["a"]), 1)
        os.unlink(self.draft._unfinished(1))
        with self.assertRaisesRegex(OutputFailed, self.folder):
            self.draft.commit([receipt])

    def test_lateWriter(self) -> None:
        """
        A worker that is just dying can't write into a folder that has been removed.
        """
        self.draft.abort()
        with self.assertRaises(FileNotFoundError):
            self.draft.write(iter(["a"]), 1)
        self.assertFalse(os.path.exists(self.folder))


@dataclass(frozen=True)
class OneFile:
    """
    A sink of a user's: all parts in one file.
    """

    path: str
    fails: bool = False

    def begin(self) -> OneFile:
        return self

    def write(self, records: Iterator[Any], attempt: int) -> str:
        with open(f"{self.path}.{attempt}", "w") as file:
            file.writelines(f"{record}\n" for record in records)
        return file.name

    def commit(self, receipts: Sequence[str]) -> str:
        if self.fails:
            raise ValueError("no")
        Path(self.path).write_text("".join(Path(receipt).read_text() for receipt in receipts))
        self.abort()
        return self.path

    def abort(self) -> None:
        for path in Path(self.path).parent.glob(f"{Path(self.path).name}.*"):
            path.unlink()


class SinkTests(FolderCase):
    """
    Sinks of a user's own.
    """

    async def test_ownSink(self) -> None:
        """
        Its receipts come in order, and what its C{commit} gives is the result.
        """
        job = MapReduce(functions.square, policy=Policy(chunksize=3, task_timeout=60))
        for backend in (self.pool, Inline()):
            self.assertEqual(await job.run(range(20), backend=backend, output=OneFile(self.folder)), self.folder)
            self.assertEqual(Path(self.folder).read_text().split(), [str(x * x) for x in range(20)])
            self.assertEqual(self.tree(), ["out"])

    async def test_commitRaises(self) -> None:
        """
        What its C{commit} raises fails the run, and its C{abort} is called.
        """
        with self.assertRaisesRegex(OutputFailed, "no"):
            await MapReduce(functions.square).run([1], backend=self.pool, output=OneFile(self.folder, fails=True))
        self.assertEqual(self.tree(), [])
