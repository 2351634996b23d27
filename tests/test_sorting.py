"""
L{txmapreduce.sort}: what Python's own C{sorted} gives, in memory and through files.
"""

from __future__ import annotations

import json
import operator
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.mappers import spills_always
from tests.support import PoolCase
from txmapreduce import Inline, PartFiles, Policy, TextFiles, sort
from txmapreduce.errors import BadInput, TaskFailed
from txmapreduce.testing._case import in_thread
from txmapreduce.testing.functions import tens


class Word(str):
    """
    A text that can be told from others which it equals.
    """


def first(record: tuple[int, int]) -> int:
    return record[0]


texts = st.lists(st.text("abß", max_size=3), max_size=150)
numbers = st.lists(st.sampled_from([0, False, 0.0, -0.0, 1, True, 1.0, 7, -3]), max_size=80)
pairs = st.lists(st.integers(0, 5), max_size=150).map(lambda keys: [(key, n) for n, key in enumerate(keys)])
inputs = st.one_of(
    st.tuples(texts, st.none()),
    st.tuples(texts.map(lambda values: [value.encode() for value in values]), st.none()),
    st.tuples(texts.map(lambda values: list(map(Word, values))), st.none()),
    st.tuples(numbers, st.none()),
    st.tuples(numbers, st.just(operator.neg)),
    st.tuples(pairs, st.just(first)),
    st.tuples(st.lists(st.integers(0, 40), max_size=150), st.just(tens)),
)


class SortTests(PoolCase):
    def setUp(self) -> None:
        super().setUp()
        self.spilling = self.processes(2, initializer=spills_always)
        self.backends = [Inline(), self.pool, self.spilling]

    async def test_law(self) -> None:
        """
        The result is that of C{sorted}, equal records in the order of the input: in partitions or not, on every
        backend, through files.
        """

        @settings(max_examples=150, deadline=None, database=None)
        @given(
            st.sampled_from(self.backends),
            inputs,
            st.booleans(),
            st.sampled_from([None, 1, 2, 5]),
            st.builds(Policy, chunksize=st.sampled_from([None, 1, 7]), reproducible=st.booleans()),
        )
        def holds(backend: Any, given: tuple[list[Any], Any], reverse: bool, npartitions: Any, policy: Policy) -> None:
            data, key = given
            job = sort(data, key=key, reverse=reverse, npartitions=npartitions, policy=policy)
            expected = sorted(data, key=key, reverse=reverse)
            got = job.run_sync(backend=backend)
            self.assertEqual([(type(x), repr(x)) for x in got], [(type(x), repr(x)) for x in expected])

        await in_thread(holds)

    async def test_manyEqual(self) -> None:
        """
        Of equal records there may be more than a block has: they come in the order of the input.
        """
        data = [(n % 2, n) for n in range(4000)]
        for backend in self.backends:
            for reverse in (False, True):
                got = await sort(data, key=first, reverse=reverse, npartitions=3).run(backend=backend)
                self.assertEqual(got, sorted(data, key=first, reverse=reverse))
            self.assertEqual(await sort(["x"] * 3000).run(backend=backend), ["x"] * 3000)

    async def test_files(self) -> None:
        """
        Part files are in order, one after the other, as many as there are partitions; they are of one size.
        """
        path = Path(self.mktemp())
        lines = [f"{n * 7919 % 3001:05}" for n in range(3001)]
        path.write_text("".join(f"{line}\n" for line in lines))
        for backend in self.backends:
            job = sort(TextFiles(str(path), blocksize=1500), npartitions=4)
            written = await job.run(backend=backend, output=PartFiles(self.mktemp(), "text"))
            parts = [Path(part).read_text().splitlines() for part in written.parts]
            self.assertEqual([line for part in parts for line in part], sorted(lines))
            self.assertEqual(len(parts), 4)
            if backend is not self.spilling:  # a partition is cut at the first records of blocks, and its runs have one
                self.assertLess(max(map(len, parts)), 800)
            none = await sort([], npartitions=4).run(backend=backend, output=PartFiles(self.mktemp()))
            self.assertEqual((len(none.parts), none.records), (4, 0))

    async def test_ways(self) -> None:
        """
        It can be run in every way that jobs can: streamed, in asyncio, from an asynchronous iterable, with an output by
        key, as plain data, from a checkpoint.
        """
        data = [3, 1, 2, 1]
        self.assertEqual(await in_thread(lambda: list(sort(data).stream(backend=self.pool))), sorted(data))
        self.assertEqual([x async for x in sort(data, reverse=True).stream(backend=self.pool)], [3, 2, 1, 1])

        async def numbers() -> AsyncIterator[int]:
            for n in data:
                yield n

        self.assertEqual(await sort(numbers()).run_async(backend=self.pool), sorted(data))
        self.assertEqual(await sort(numbers()).start(backend=self.pool).result, sorted(data))
        self.assertEqual(repr(sort(data)), "<BoundJob sort>")
        plain = Policy(trust="data")
        self.assertEqual(await sort(data, key=operator.neg, policy=plain).run(backend=self.pool), [3, 2, 1, 1])
        written = await sort(data, key=str).run(backend=self.pool, output=PartFiles(self.mktemp()))
        text = "".join(Path(part).read_text() for part in written.parts)
        self.assertEqual(list(map(json.loads, text.split())), sorted(data))
        policy = Policy(checkpoint=self.mktemp(), chunksize=2)
        for _ in range(2):
            self.assertEqual(await sort(data, policy=policy).run(backend=self.pool), sorted(data))
        with self.assertRaisesRegex(BadInput, "functions"):
            await sort(data, reverse=True, policy=policy).run(backend=self.pool)

    async def test_errors(self) -> None:
        """
        Records that can't be compared are refused in words that say what to do; a key function that raises names the
        record, or leaves it out.
        """
        for backend in self.backends:
            for data in ([1, "a"] * 20, [1] * 60 + ["a"] * 60, [None, None]):
                with self.assertRaisesRegex(TaskFailed, "records can't be put in order.*key="):
                    await sort(data).run(backend=backend)
        with self.assertRaisesRegex(TaskFailed, "'b'"):
            await sort(["1", "b"], key=int).run(backend=self.pool)
        policy = Policy(bad_records="skip")
        self.assertEqual(await sort(["3", "b", "2"], key=int, policy=policy).run(backend=self.pool), ["2", "3"])


class ParameterTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """
        What can't be used is BadInput, which names it.
        """
        options: list[tuple[dict[str, Any], str]] = [
            ({"key": 5}, "key.*5"),
            ({"reverse": 1}, "reverse.*1"),
            ({"npartitions": 0}, "npartitions.*0"),
        ]
        for given_, words in options:
            self.assertRaisesRegex(BadInput, words, sort, [], **given_)
