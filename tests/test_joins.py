"""
Joins and cogroups: their laws, whatever the inputs are and whichever side is broadcast.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support import python, script
from txmapreduce import Inline, PartFiles, Policy, Processes, TextFiles, cogroup, join
from txmapreduce._run import sides as module
from txmapreduce._run.feeds import Input, Records
from txmapreduce._run.sides import SidesInput
from txmapreduce._shuffle.sides import LEFT, RIGHT, Groups, RecordsSplit, Rows, Sides, SideSplit
from txmapreduce.errors import BadInput, TaskFailed
from txmapreduce.inputs import records_of
from txmapreduce.testing._case import in_thread

HOW = ["inner", "left", "right", "outer"]
BIG = (1 << 60, 1 << 60)
NOT_SMALL = (-1, -1)

Pairs = list[tuple[Any, Any]]

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers()), max_size=25)
words = st.lists(st.tuples(st.text("ab", max_size=2), st.none() | st.text(max_size=3)), max_size=12)
both = st.tuples(pairs, pairs) | st.tuples(words, words)


# Plain Python


def grouped(records: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for key, value in records:
        groups.setdefault(key, []).append(value)
    return groups


def joined(left: Pairs, right: Pairs, how: str) -> list[Any]:
    a, b = grouped(left), grouped(right)
    keys = {"inner": a.keys() & b.keys(), "left": a.keys(), "right": b.keys(), "outer": a.keys() | b.keys()}[how]
    return [(key, (one, other)) for key in sorted(keys) for one in a.get(key, [None]) for other in b.get(key, [None])]


def cogrouped(*inputs: Pairs) -> list[Any]:
    groups = list(map(grouped, inputs))
    return [(key, tuple(group.get(key, []) for group in groups)) for key in sorted(set().union(*groups))]


# Inputs


def of_line(line: str) -> Any:
    return json.loads(line)[0]


def second(record: Any) -> Any:
    return record[1]


async def slowly(records: Pairs) -> AsyncIterator[Any]:
    for record in records:
        await asyncio.sleep(0)
        yield record


class JoinCase(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.pool = Processes(2)
        self.addCleanup(self.pool.close)
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)

    def lines(self, records: Pairs, name: str = "") -> TextFiles:
        """
        A source of the records, as lines of JSON, in two files.
        """
        name = name or f"{len(os.listdir(self.folder))}"
        for part, some in enumerate((records[::2], records[1::2])):
            text = "".join(json.dumps(record) + "\n" for record in some)
            (self.folder / f"{name}.{part}").write_text(text, "utf-8")
        return TextFiles([self.folder / f"{name}.{part}" for part in range(2)])


def sizes(small: tuple[int, int]) -> Any:
    return mock.patch.multiple(module, SMALL_BYTES=small[0], SMALL_RECORDS=small[1])


class LawTests(JoinCase):
    """
    What a join means in plain Python.
    """

    def law(self, make: Callable[[Pairs], Any], other: Callable[[Pairs], Any]) -> Deferred[None]:
        @settings(max_examples=20, deadline=None)
        @given(both, st.sampled_from(HOW), st.sampled_from([None, 1, 3]), st.sampled_from([BIG, NOT_SMALL]))
        def holds(sides: tuple[Pairs, Pairs], how: Any, chunksize: int | None, small: tuple[int, int]) -> None:
            left, right = sides
            for backend in (Inline(), self.pool):
                with sizes(small):
                    job = join(make(left), other(right), how=how, policy=Policy(chunksize=chunksize))
                    self.assertEqual(job.run_sync(backend=backend), joined(left, right, how))

        return in_thread(holds)

    def test_lists(self) -> Deferred[None]:
        """
        Of two lists.
        """
        return self.law(list, list)

    def test_iterators(self) -> Deferred[None]:
        """
        Of two iterators.
        """
        return self.law(iter, iter)

    def test_listAndIterator(self) -> Deferred[None]:
        """
        Of a list and an iterator.
        """
        return self.law(tuple, iter)

    def test_cogroup(self) -> Deferred[None]:
        """
        A cogroup of any number of inputs.
        """

        @settings(max_examples=20, deadline=None)
        @given(st.lists(pairs, min_size=2, max_size=4), st.sampled_from([None, 1, 3]))
        def holds(inputs: list[Pairs], chunksize: int | None) -> None:
            for backend in (Inline(), self.pool):
                job = cogroup(*map(iter, inputs), policy=Policy(chunksize=chunksize))
                self.assertEqual(job.run_sync(backend=backend), cogrouped(*inputs))

        return in_thread(holds)

    def test_sources(self) -> Deferred[None]:
        """
        A source and a list, two sources, a source and an iterator.
        """

        @settings(max_examples=12, deadline=None)
        @given(pairs, pairs, st.sampled_from(HOW), st.sampled_from([None, 2]), st.sampled_from([BIG, NOT_SMALL]))
        def holds(left: Pairs, right: Pairs, how: Any, chunksize: int | None, small: tuple[int, int]) -> None:
            policy = Policy(chunksize=chunksize)
            for other, key in ((right, None), (iter(right), None), (self.lines(right, "right"), of_line)):
                with sizes(small):
                    job = join(self.lines(left, "left"), other, how=how, key=(of_line, key), policy=policy)
                    result = job.run_sync(backend=self.pool)
                in_files = left[::2] + left[1::2]
                of_other = right if key is None else right[::2] + right[1::2]
                expected = joined(in_files, of_other, how)
                self.assertEqual([(k, (value(a), b if key is None else value(b))) for k, (a, b) in result], expected)

        def value(line: str | None) -> Any:
            return None if line is None else json.loads(line)[1]

        return in_thread(holds)


class WayTests(JoinCase):
    """
    The ways to run a join.
    """

    def setUp(self) -> None:
        super().setUp()
        self.left: Pairs = [(n % 50, n) for n in range(3000)]
        self.right: Pairs = [(n, str(n)) for n in range(0, 60, 2)]

    async def test_ways(self) -> None:
        """
        They are those of other jobs.
        """
        expected = joined(self.left, self.right, "left")
        job = join(self.left, self.right, how="left")
        self.assertEqual(await job.run(backend=self.pool), expected)
        run = job.start(backend=self.pool)
        self.assertEqual(await run.result, expected)
        self.assertEqual((run.progress().records, run.progress().fraction), (3000, 1.0))
        self.assertEqual([row async for row in job.stream(backend=self.pool)], expected)
        self.assertEqual(await in_thread(lambda: job.run_sync(backend=Inline())), expected)
        self.assertEqual(repr(job), "<BoundJob join>")

    async def test_output(self) -> None:
        """
        The rows are written by the workers, too.
        """
        written = await join(self.left, self.right).run(backend=self.pool, output=PartFiles(self.folder / "rows"))
        lines = [line for part in written.parts for line in Path(part).read_text().splitlines()]
        expected = [[key, list(values)] for key, values in joined(self.left, self.right, "inner")]
        self.assertEqual(sorted(map(json.loads, lines)), sorted(expected))

    def test_asyncio(self) -> None:
        """
        Under asyncio, with sides that are asynchronous.
        """
        path = script(
            self.mktemp(),
            """
            import asyncio
            from txmapreduce import Processes, join

            async def slowly(pairs):
                for pair in pairs:
                    await asyncio.sleep(0)
                    yield pair

            async def main():
                async with Processes(1) as pool:
                    left, right = [(1, "a"), (2, "b")], [(2, "c"), (2, "d")]
                    print(await join(slowly(left), slowly(right)).run_async(backend=pool))

            asyncio.run(main())
            """,
        )
        done = python(str(path))
        self.assertEqual((done.stdout, done.stderr), ("[(2, ('b', 'c')), (2, ('b', 'd'))]\n", ""))

    async def test_asynchronous(self) -> None:
        """
        An asynchronous side next to a source.
        """

        async def later() -> AsyncIterator[Any]:
            for record in self.right:
                yield record

        job = join(self.lines(self.left), later(), key=(of_line, None), how="inner")
        rows = await job.run(backend=self.pool)
        in_files = self.left[::2] + self.left[1::2]
        self.assertEqual([(k, (json.loads(a)[1], b)) for k, (a, b) in rows], joined(in_files, self.right, "inner"))

    async def test_key(self) -> None:
        """
        One key function for all sides; the records are the values.
        """
        left, right = [("a", 1), ("b", 2)], [("x", 2), ("y", 2)]
        job = join(left, right, key=second)
        self.assertEqual(await job.run(backend=self.pool), [(2, (("b", 2), record)) for record in right])
        job = cogroup(left, right, key=lambda record: record[1] % 2)
        self.assertEqual(await job.run(backend=self.pool), [(0, ([left[1]], right)), (1, ([left[0]], []))])

    async def test_checkpoint(self) -> None:
        """
        A join with a checkpoint gives its result again; one of other data is refused.
        """
        policy = Policy(checkpoint=self.folder / "journal")
        for _ in range(2):
            rows = await join(self.left, self.right, policy=policy).run(backend=self.pool)
            self.assertEqual(rows, joined(self.left, self.right, "inner"))
        with self.assertRaisesRegex(BadInput, "chunk 0"):
            await join(self.left, self.right[1:], policy=policy).run(backend=self.pool)

    async def test_trust(self) -> None:
        """
        With C{trust="data"}.
        """
        rows = await join(self.left, self.right, policy=Policy(trust="data")).run(backend=self.pool)
        self.assertEqual(rows, joined(self.left, self.right, "inner"))

    async def test_notSerializable(self) -> None:
        """
        Inline, nothing has to be sent.
        """
        lock = threading.Lock()
        self.assertEqual(await join([(1, lock)], [(1, lock)]).run(backend=Inline()), [(1, (lock, lock))])


class ErrorTests(JoinCase):
    """
    What can't be used.
    """

    def test_parameters(self) -> None:
        """
        Bad parameters are refused at once, and the message says what they should be.
        """
        for call, words in (
            (lambda: join([], [], how="cross"), "how is one of 'inner', 'left', 'right', 'outer', not 'cross'"),
            (lambda: join([], [], key="id"), "key is a function .* or a list of 2 of them, not 'id'"),
            (lambda: join([], [], key=[len]), "a list of 2 of them"),
            (lambda: cogroup([], [], [], key=[len, 1, None]), "a list of 3 of them"),
            (lambda: cogroup([]), "two inputs or more, not 1"),
            (lambda: join([], [], policy="fast"), "policy has to be a Policy"),
        ):
            self.assertRegex(str(self.assertRaises(BadInput, call)), words)

    async def test_records(self) -> None:
        """
        A record that is no pair, on either side.
        """
        for left, right in (([5], [(1, 2)]), ([(1, 2)], [{"id": 1, "name": 2}]), (["ab"], [])):
            with self.assertRaisesRegex(TaskFailed, r"has to be a \(key, value\) pair, not .* key="):
                await join(left, right).run(backend=Inline())

    async def test_inputs(self) -> None:
        """
        An input that can't be read.
        """
        for left, right in ((5, []), ([], TextFiles("missing")), (TextFiles, [])):
            with self.assertRaisesRegex(BadInput, "iterate over|missing"):
                await join(left, right).run(backend=self.pool)

    async def test_bad_records(self) -> None:
        """
        Bad records are skipped on each side, and told.
        """
        run = join([(1, 2), 3], [4, (1, 5)], policy=Policy(bad_records="skip")).start(backend=self.pool)
        self.assertEqual(await run.result, [(1, (2, 5))])
        self.assertEqual(len(run.skipped), 2)


class BroadcastTests(JoinCase):
    """
    Which side is broadcast.
    """

    def input(self, left: Any, right: Any, small: tuple[int, ...] = (RIGHT, LEFT), **policy: Any) -> SidesInput:
        def records(data: Any) -> Input:
            return Records(records_of(data))

        return SidesInput(Sides((left, right), (RIGHT, LEFT), small), Policy(**policy), records)

    async def read(self, source: SidesInput) -> list[Any]:
        found: list[Any] = []
        while taken := await self.taken(source):
            found += taken
        self.addCleanup(source.close)
        return found

    async def taken(self, source: SidesInput) -> Any:
        taken = source.take(2)
        return await taken if isinstance(taken, Deferred) else taken

    async def test_small(self) -> None:
        """
        A list that is short, and a source that has few bytes, of the sides that may be.
        """
        many = [(n, n) for n in range(5)]
        with sizes((100, 3)):
            for left, right, read in (
                (many, many[:3], LEFT),
                (many[:3], many, RIGHT),
                (many[:3], iter(many), RIGHT),
                (many, self.lines(many[:2]), LEFT),
                (self.lines(many), many[:3], LEFT),
            ):
                tagged = await self.read(self.input(left, right))
                sides = {(each.side, each.small) if isinstance(each, SideSplit) else each[:2] for each in tagged}
                ((side, handle),) = sides
                self.assertEqual(side, read)
                self.assertIsNotNone(handle)

    async def test_notSmall(self) -> None:
        """
        Not what is large or what C{how} does not allow, and not where bad records are skipped or there is a checkpoint.
        """
        few, many = [(1, 1)], [(n, n) for n in range(5)]
        with sizes((10, 3)):
            for source in (
                self.input(many, many),
                self.input(iter(few), iter(few)),
                self.input(many, few, ()),
                self.input(many, few, (LEFT,)),
                self.input(many, self.lines(many)),
                self.input(many, few, bad_records="skip"),
                self.input(many, few, checkpoint="journal"),
            ):
                tagged = await self.read(source)
                splits = [each for each in tagged if isinstance(each, SideSplit)]
                records = [record for split in splits for record in split.read()] or tagged
                sides = [side for side, _, _ in records]
                self.assertEqual(sides, sorted(sides, reverse=True))  # the right side comes first
                self.assertEqual({handle for _, handle, _ in records}, {None})
                self.assertEqual(set(sides), {LEFT, RIGHT})

    async def test_cut(self) -> None:
        """
        Next to a source, other sides are cut into splits that are not too large, whatever the size of their records.
        """
        with sizes(NOT_SMALL):
            for size, most in ((10, 1000), (1 << 20, 4)):
                records = [(n, bytes(size)) for n in range(2500 * most // 1000)]
                tagged = await self.read(self.input(iter(records), self.lines([(1, 1)])))
                cut = [each.split.records for each in tagged if isinstance(each.split, RecordsSplit)]
                self.assertEqual([record for part in cut for record in part], records)
                self.assertLessEqual(max(map(len, cut)), most)

    def test_close(self) -> None:
        """
        An input that is closed before it was read closes its iterators, and keeps quiet about a source that is missing.
        """
        iterator = (n for n in range(3))
        next(iterator)
        source = self.input(iterator, TextFiles("missing"))
        source.close()
        self.assertEqual(list(iterator), [])


class RowsTests(SynchronousTestCase):
    """
    The reducers.
    """

    def test_lazy(self) -> None:
        """
        The values of the left side are not kept: rows come as they do.
        """

        def values() -> Iterator[Any]:
            yield from ((RIGHT, value, None) for value in "ab")
            yield from ((LEFT, value, None) for value in count())

        rows = islice(Rows("inner")(1, values()), 4)
        self.assertEqual(list(rows), [(1, (0, "a")), (1, (0, "b")), (1, (1, "a")), (1, (1, "b"))])

    def test_groups(self) -> None:
        """
        A group is put together in input order.
        """
        values = [(0, "a", None), (2, "b", None), (0, "c", None)]
        self.assertEqual(list(Groups(3)(1, iter(values))), [(1, (["a", "c"], [], ["b"]))])
