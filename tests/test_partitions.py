"""
In which partitions and in what order a job reduces its keys and their values: C{npartitions}, C{partitioner},
C{sort_values} and C{order_keys}.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mappers import by_tens, numbered, spills_always
from tests.support import PoolCase
from txmapreduce import Inline, MapReduce, PartFiles, Policy
from txmapreduce.aggregates import Collect, Sum
from txmapreduce.errors import BadInput, TaskFailed
from txmapreduce.testing._case import in_thread
from txmapreduce.testing.functions import joined, noisy_pairs, total, total_of

data = st.lists(st.tuples(st.integers(0, 40) | st.sampled_from([7]), st.integers(0, 9)), max_size=120)
options = st.fixed_dictionaries(
    {
        "npartitions": st.sampled_from([None, 1, 2, 3, 5]),
        "partitioner": st.sampled_from([None, by_tens]),
        "sort_values": st.sampled_from([None, True, operator.neg, str]),
        "order_keys": st.booleans(),
    }
)


def pair(record: tuple[int, int]) -> Iterable[tuple[int, int]]:
    return [record]


def grouped(pairs: Iterable[tuple[int, int]], sort_values: Any) -> list[tuple[int, list[int]]]:
    """
    The keys with their values, in ascending order.
    """
    groups: dict[int, list[int]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    key = None if sort_values is True else sort_values
    return [(k, v if sort_values is None else sorted(v, key=key)) for k, v in sorted(groups.items())]


def in_partitions(rows: list[tuple[int, Any]], npartitions: int) -> list[tuple[int, Any]]:
    """
    The same, one partition after the other.
    """
    return [row for number in range(npartitions) for row in rows if by_tens(row[0], npartitions) == number]


class LawTests(PoolCase):
    """
    The result is that of plain Python, on each backend, in memory and through files.
    """

    def setUp(self) -> None:
        super().setUp()
        self.backends = [Inline(), self.pool, self.processes(2, initializer=spills_always)]

    async def check(self, holds: Callable[..., None], *strategies: Any, examples: int = 40) -> None:
        given_ = given(st.sampled_from(self.backends), *strategies)(holds)
        await in_thread(settings(max_examples=examples, deadline=None, database=None)(given_))

    async def test_reducer(self) -> None:
        """
        Keys ascend over all partitions, or within each of a partitioner's; values have the order of the input, or are
        sorted, equal ones in that of the input.
        """

        def holds(backend: Any, records: list[tuple[int, int]], options: dict[str, Any], policy: Policy) -> None:
            if options["npartitions"] is None:
                options = {**options, "partitioner": None}
            got = MapReduce(pair, reducer=joined, policy=policy, **options).run_sync(records, backend=backend)
            expected = grouped(records, options["sort_values"])
            if options["partitioner"] is not None:
                expected = in_partitions(expected, options["npartitions"])
            if not options["order_keys"]:
                numbers = [by_tens(key, options["npartitions"]) for key, _ in got] if options["partitioner"] else []
                self.assertEqual(numbers, sorted(numbers))
                got, expected = sorted(got), sorted(expected)
            self.assertEqual(got, expected)

        policies = st.builds(
            Policy,
            chunksize=st.sampled_from([None, 1, 7]),
            trust=st.sampled_from(["objects", "data"]),
            reproducible=st.booleans(),
        )
        await self.check(holds, data, options, policies, examples=150)

    async def test_reduceByKey(self) -> None:
        """
        One value per key, the keys of each partition together; with aggregates that have an order, too.
        """

        def holds(backend: Any, records: list[tuple[int, int]], npartitions: int, fold: Any) -> None:
            job = MapReduce(pair, reduce_by_key=fold, npartitions=npartitions, partitioner=by_tens)
            got = job.run_sync(records, backend=backend)
            finish = list if isinstance(fold, Collect) else sum
            expected = {key: finish(values) for key, values in grouped(records, None)}
            self.assertEqual(got, expected)
            numbers = [by_tens(key, npartitions) for key in got]
            self.assertEqual(numbers, sorted(numbers))

        await self.check(holds, data, st.integers(1, 5), st.sampled_from([operator.add, Sum(), Collect()]))

    async def test_combiner(self) -> None:
        """
        A combiner changes nothing in that.
        """

        def holds(backend: Any, records: list[tuple[int, int]], options: dict[str, Any]) -> None:
            if options["npartitions"] is None:
                options = {**options, "partitioner": None}
            job = MapReduce(pair, reducer=total_of, combiner=total, **options)
            got = dict(job.run_sync(records, backend=backend))
            self.assertEqual(got, {key: sum(values) for key, values in grouped(records, None)})

        await self.check(holds, data, options)

    async def test_floats(self) -> None:
        """
        With C{reproducible} the result is the same to the last bit, whatever the number of partitions.
        """
        results = []
        for npartitions in (None, 1, 3):
            job = MapReduce(
                noisy_pairs, reduce_by_key=operator.add, npartitions=npartitions, policy=Policy(reproducible=True)
            )
            for backend in (Inline(), self.pool, self.processes(1)):
                result = await job.run(range(900), backend=backend)
                results.append(sorted((key, value.hex()) for key, value in result.items()))
        self.assertEqual(results, results[:1] * len(results))


class OutputTests(PoolCase):
    """
    Part files.
    """

    async def parts_of(self, job: MapReduce, records: Iterable[Any], backend: Any) -> list[list[Any]]:
        written = await job.run(records, backend=backend, output=PartFiles(self.mktemp()))
        return [[json.loads(line) for line in Path(part).read_text().splitlines()] for part in written.parts]

    async def test_files(self) -> None:
        """
        There are so many files as there are partitions, also without any record; they are in the order of the keys.
        """
        pool = self.processes(2, initializer=spills_always)
        expected = [[key, values] for key, values in grouped((p for n in range(500) for p in numbered(n)), None)]
        for backend in (Inline(), self.pool, pool):
            for npartitions in (1, 3, 40):
                job = MapReduce(numbered, reducer=joined, npartitions=npartitions)
                parts = await self.parts_of(job, range(500), backend)
                self.assertEqual(len(parts), npartitions)
                self.assertEqual([row for part in parts for row in part], expected)
                self.assertEqual(await self.parts_of(job, [], backend), [[]] * npartitions)
                summed = MapReduce(numbered, reduce_by_key=operator.add, npartitions=npartitions)
                parts = await self.parts_of(summed, range(500), backend)
                self.assertEqual(len(parts), npartitions)
                self.assertEqual(sorted(row for part in parts for row in part), [[k, sum(v)] for k, v in expected])

    async def test_partitioner(self) -> None:
        """
        Each file has the keys that the partitioner gives to it.
        """
        for backend in (Inline(), self.pool, self.processes(2, initializer=spills_always)):
            for how in ({"reducer": total_of}, {"reduce_by_key": operator.add}):
                job = MapReduce(numbered, **how, npartitions=3, partitioner=by_tens)  # type: ignore[arg-type]
                parts = await self.parts_of(job, range(500), backend)
                keys = [sorted(key for key, _ in part) for part in parts]
                self.assertEqual(keys, [[*range(10), 30], [*range(10, 20)], [*range(20, 30)]])


class ErrorTests(PoolCase):
    """
    What goes wrong in the user's functions, and values without an order.
    """

    async def test_partitioner(self) -> None:
        """
        A partitioner that gives something else than a partition's number, or raises, is said so with the key.
        """
        pool = self.processes(1, initializer=spills_always)
        for partitioner, words in (
            (lambda key, n: n, "a number from 0 to 2, and gave 3 for the key 5"),
            (lambda key, n: -1, "gave -1"),
            (lambda key, n: 1.0, "gave 1.0"),
            (lambda key, n: None, "gave None"),
            (lambda key, n: 1 // 0, "ZeroDivisionError"),
        ):
            for how in ({"reducer": total_of}, {"reduce_by_key": operator.add}):
                job = MapReduce(pair, **how, npartitions=3, partitioner=partitioner)  # type: ignore[arg-type]
                for backend in (Inline(), self.pool, pool):
                    with self.assertRaisesRegex(TaskFailed, words):
                        await job.run([(5, 1)] * 40, backend=backend)

    async def test_values(self) -> None:
        """
        Values that can't be sorted are refused in words that say what to do.
        """
        pool = self.processes(1, initializer=spills_always)
        job = MapReduce(pair, reducer=joined, sort_values=True)
        for backend in (Inline(), self.pool, pool):
            with self.assertRaisesRegex(TaskFailed, "values of a key can't be put in order.*sort_values="):
                await job.run([(1, None), (1, 2)] * 50, backend=backend)

    async def test_keys(self) -> None:
        """
        With C{order_keys=False} keys need not be comparable.
        """
        records: list[tuple[Any, int]] = [("a", 1), (None, 2), (3, 4), ("a", 5)]
        for backend in (Inline(), self.pool):
            job = MapReduce(pair, reducer=joined, order_keys=False, npartitions=3)
            got = await job.run(records, backend=backend)
            self.assertEqual(dict(got), {"a": [1, 5], None: [2], 3: [4]})


class CheckpointTests(PoolCase):
    """
    Runs that can be gone on with.
    """

    async def test_options(self) -> None:
        """
        A checkpoint is that of one way to cut and to sort: the same job goes on from it, others are refused.
        """
        path = self.mktemp()
        policy = Policy(checkpoint=path, chunksize=10)
        chosen = {"npartitions": 3, "partitioner": by_tens, "sort_values": True, "order_keys": True}
        expected = in_partitions(grouped((p for n in range(100) for p in numbered(n)), True), 3)
        for backend in (self.pool, Inline()):
            for _ in range(2):
                job = MapReduce(numbered, reducer=joined, policy=policy, **chosen)  # type: ignore[arg-type]
                self.assertEqual(await job.run(range(100), backend=backend), expected)
            others: list[tuple[str, Any]] = [
                ("npartitions", 2),
                ("partitioner", lambda key, n: 0),
                ("sort_values", operator.neg),
                ("sort_values", None),
                ("order_keys", False),
            ]
            for name, value in others:
                other = MapReduce(numbered, reducer=joined, policy=policy, **{**chosen, name: value})  # type: ignore
                with self.assertRaisesRegex(BadInput, name):
                    await other.run(range(100), backend=backend)
            os.unlink(path)
