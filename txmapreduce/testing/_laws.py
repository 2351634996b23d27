"""
The laws: what each kind of job means in plain Python, and that a backend gives exactly that.
"""

from __future__ import annotations

import functools
import operator
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from .._aggregate import Aggregate
from ..aggregates import Collect, Counts, Distinct, Max, Mean, Min, Sample, Sum, TopK, Variance
from ..errors import TaskFailed
from ..job import Policy
from ..mapreduce import MapReduce
from ._case import BackendCase, in_thread
from .functions import (
    Stopping,
    all_pairs,
    as_matrix,
    extended,
    joined,
    of_chunk,
    pairs,
    pairs_of_numbers,
    product,
    single,
    single_list,
    some,
    some_lazily,
    somes,
    square,
    squares,
    tens,
    total,
    total_of,
)

CHUNKSIZES = [None, 1, 2, 7, 1000]

records = st.lists(st.integers(-50, 50), max_size=60)
chunksizes = st.sampled_from(CHUNKSIZES)


# Plain Python


def cut(data: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def grouped(items: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for key, value in items:
        groups.setdefault(key, []).append(value)
    return groups


@dataclass(frozen=True)
class Law:
    """
    A job and its meaning.
    """

    mapper: Callable[..., Any]
    means: Callable[[list[int]], Any]
    options: dict[str, Any] = field(default_factory=dict)

    def job(self, chunksize: int | None) -> MapReduce:
        return MapReduce(self.mapper, **self.options, policy=Policy(chunksize=chunksize))


def reduced(mapper: Callable[[int], Any], op: Callable[[Any, Any], Any], *initial: Any) -> Callable[[list[int]], Any]:
    return lambda data: functools.reduce(op, map(mapper, data), *initial)


LAWS: dict[str, Law] = {
    "plain": Law(square, lambda data: [square(x) for x in data]),
    "flat": Law(some, lambda data: [y for x in data for y in some(x)], {"flat": True}),
    "flat, lazily": Law(some_lazily, lambda data: [y for x in data for y in some_lazily(x)], {"flat": True}),
    "batched": Law(squares, lambda data: [y for x in data for y in squares([x])], {"batched": True}),
    "batched and flat": Law(somes, lambda data: [y for x in data for y in some(x)], {"batched": True, "flat": True}),
    "reduce": Law(square, reduced(square, operator.add), {"reduce": operator.add}),
    "reduce text": Law(str, reduced(str, operator.add), {"reduce": operator.add}),
    "reduce tuples": Law(single, reduced(single, operator.add), {"reduce": operator.add}),
    "reduce matrices": Law(as_matrix, reduced(as_matrix, product), {"reduce": product}),
    "reduce in place": Law(single_list, reduced(single_list, extended), {"reduce": extended}),
    "reduce flat": Law(
        some,
        lambda data: functools.reduce(operator.sub, [y for x in data for y in some(x)], 0) * -1,
        {"reduce": operator.add, "flat": True, "initial": 0},
    ),
    "reduce batched": Law(squares, reduced(square, operator.add), {"reduce": operator.add, "batched": True}),
    "reduce batched and flat": Law(
        somes,
        lambda data: tuple(y for x in data for y in some(x)),
        {"reduce": Collect(), "batched": True, "flat": True},
    ),
    "initial": Law(square, reduced(square, operator.add, 1000), {"reduce": operator.add, "initial": 1000}),
    "initial text": Law(str, reduced(str, operator.add, "<"), {"reduce": operator.add, "initial": "<"}),
    "initial None": Law(
        square, reduced(square, lambda a, b: a or b, None), {"reduce": lambda a, b: a or b, "initial": None}
    ),
    "by key": Law(
        pairs,
        lambda data: {k: functools.reduce(operator.add, v) for k, v in grouped(all_pairs(data)).items()},
        {"reduce_by_key": operator.add},
    ),
    "by key, any function": Law(
        pairs, lambda data: {k: max(v) for k, v in grouped(all_pairs(data)).items()}, {"reduce_by_key": max}
    ),
    "by key batched": Law(
        all_pairs,
        lambda data: {k: sum(v) for k, v in grouped(all_pairs(data)).items()},
        {"reduce_by_key": operator.add, "batched": True},
    ),
    "reducer": Law(
        pairs_of_numbers,
        lambda data: sorted(grouped(p for x in data for p in pairs_of_numbers(x)).items()),
        {"reducer": joined},
    ),
    "reducer and combiner": Law(
        pairs_of_numbers,
        lambda data: sorted((k, sum(v)) for k, v in grouped(p for x in data for p in pairs_of_numbers(x)).items()),
        {"reducer": total_of, "combiner": total},
    ),
}
LAWS["reduce batched and flat"] = Law(
    somes, lambda data: [y for x in data for y in some(x)], {"reduce": Collect(), "batched": True, "flat": True}
)

AGGREGATES: dict[str, tuple[Aggregate, Callable[[list[int]], Any]]] = {
    "Counts": (Counts(), Counter),
    "Sum": (Sum(), sum),
    "Sum, start": (Sum(1000), lambda values: sum(values, 1000)),
    "Min": (Min(default=None), lambda values: min(values, default=None)),
    "Min, key": (Min(key=tens, default=None), lambda values: min(values, key=tens, default=None)),
    "Max": (Max(default=None), lambda values: max(values, default=None)),
    "Max, key": (Max(key=tens, default=None), lambda values: max(values, key=tens, default=None)),
    "TopK": (TopK(3), lambda values: sorted(values, reverse=True)[:3]),
    "TopK, key": (TopK(4, key=tens), lambda values: sorted(values, key=tens, reverse=True)[:4]),
    "Distinct": (Distinct(), set),
    "Collect": (Collect(), list),
}


def outcome(call: Callable[[], Any]) -> Any:
    """
    What a call gives, or which TypeError it raises.
    """
    try:
        return call()
    except TypeError as error:
        return type(error), str(error)


class LawCases(BackendCase):
    """
    The laws, for the backend that a subclass gives. Each is checked over many inputs in one job's worth of set-up.
    """

    def check(self, name: str) -> Deferred[None]:
        """
        Hold one law against many inputs, of any size, cut into chunks of any size.
        """
        law, backend = LAWS[name], self.backend()

        @settings(max_examples=self.examples, deadline=None, database=None)
        @given(records, chunksizes)
        def holds(data: list[int], chunksize: int | None) -> None:
            expected = outcome(lambda: law.means(data))
            got = outcome(lambda: law.job(chunksize).run_sync(data, backend=backend))
            self.assertEqual(got, expected)
            self.assertIs(type(got), type(expected))

        def also_at_the_edges() -> None:
            for data in ([], [7], [0]):
                for size in CHUNKSIZES:
                    expected = outcome(functools.partial(law.means, data))
                    got = outcome(functools.partial(law.job(size).run_sync, data, backend=backend))
                    self.assertEqual(got, expected, f"{name}: {data} in {size}")

        def both() -> None:
            also_at_the_edges()
            holds()

        return in_thread(both)

    def check_aggregate(self, name: str) -> Deferred[None]:
        """
        An aggregate gives what plain Python gives: of all values, and of each key's.
        """
        (aggregate, means), backend = AGGREGATES[name], self.backend()

        @settings(max_examples=self.examples, deadline=None, database=None)
        @given(records, chunksizes)
        def holds(data: list[int], chunksize: int | None) -> None:
            policy = Policy(chunksize=chunksize)
            whole = MapReduce(square, reduce=aggregate, policy=policy).run_sync(data, backend=backend)
            self.assertEqual(whole, means(list(map(square, data))))
            keyed = MapReduce(pairs, reduce_by_key=aggregate, policy=policy).run_sync(data, backend=backend)
            expected = {key: means(values) for key, values in grouped(all_pairs(data)).items()}
            self.assertEqual(keyed, expected)

        return in_thread(holds)

    async def test_plain(self) -> None:
        """
        Without a reduce the result is the list of what the mapper gives, flat or not, batched or not.
        """
        for name in ("plain", "flat", "flat, lazily", "batched", "batched and flat"):
            await self.check(name)

    async def test_reduce(self) -> None:
        """
        A reduce is C{functools.reduce}: associative is enough, the same TypeError for no values, C{initial} once.
        """
        for name in LAWS:
            if name.startswith(("reduce ", "initial")) or name == "reduce":
                await self.check(name)

    async def test_byKey(self) -> None:
        """
        A reduce by key gives one value per key, of each key's values alone.
        """
        for name in ("by key", "by key, any function", "by key batched"):
            await self.check(name)

    async def test_reducer(self) -> None:
        """
        A reducer gets each key's values in input order, the keys ascending; a combiner changes nothing in that.
        """
        for name in ("reducer", "reducer and combiner"):
            await self.check(name)

    async def test_aggregates(self) -> None:
        """
        Wherever an operator is taken an aggregate is, too.
        """
        for name in AGGREGATES:
            await self.check_aggregate(name)

    async def test_meanAndVariance(self) -> None:
        """
        Mean and Variance are those of C{statistics}; of too few values they are its error, too.
        """
        backend = self.backend()
        data = [random.Random(1).randrange(100) for _ in range(500)]
        for aggregate, law in ((Mean(), statistics.mean), (Variance(), statistics.variance)):
            for chunksize in CHUNKSIZES:
                got = await MapReduce(square, reduce=aggregate, policy=Policy(chunksize=chunksize)).run(
                    data, backend=backend
                )
                self.assertAlmostEqual(got, law(map(square, data)), places=6)
            with self.assertRaises(TaskFailed) as caught:
                await MapReduce(square, reduce=aggregate).run([], backend=backend)
            self.assertIsInstance(caught.exception.__cause__, statistics.StatisticsError)

    async def test_sample(self) -> None:
        """
        A sample has C{k} of the values, or all of them, and each no more often than the input has it.
        """
        backend = self.backend()
        for size in (0, 3, 10, 400):
            data = [n % 50 for n in range(size)]
            for chunksize in CHUNKSIZES:
                job = MapReduce(square, reduce=Sample(10), policy=Policy(chunksize=chunksize))
                got = await job.run(data, backend=backend)
                self.assertEqual(len(got), min(10, size))
                self.assertEqual(Counter(got) - Counter(map(square, data)), Counter())

    async def test_chunksOfAGivenSize(self) -> None:
        """
        A batched mapper gets lists of C{chunksize} records, the last may be shorter: from a list, a range, a generator.
        """
        backend = self.backend()
        for size in (1, 2, 7, 1000):
            for count in (0, 1, 7, 20, 21, 150):
                job = MapReduce(of_chunk, batched=True, policy=Policy(chunksize=size))
                numbers = list(range(count))
                expected = [y for chunk in cut(numbers, size) for y in of_chunk(chunk)]
                for data in (numbers, range(count), tuple(numbers), (n for n in numbers)):
                    got = await job.run(data, backend=backend)
                    self.assertEqual([(n if n == "sum" else "list", v) for n, v in got], expected)

    async def test_batchIsAList(self) -> None:
        """
        What a batched mapper gets is a list, whatever the records came in.
        """
        backend = self.backend()
        for data in ([1, 2], (1, 2), range(2), iter([1, 2])):
            got = await MapReduce(of_chunk, batched=True).run(data, backend=backend)
            self.assertEqual({name for name, _ in got}, {"list", "sum"})

    async def test_stopIteration(self) -> None:
        """
        A mapper that lets StopIteration out fails the run: it does not cut the input short.
        """
        backend = self.backend()
        for options in ({}, {"flat": True}, {"batched": True}, {"reduce": operator.add}, {"reduce_by_key": max}):
            for at, chunksize in ((0, None), (3, 2), (9, 100)):
                mapper = Stopping(at, options)
                job = MapReduce(mapper, **options, policy=Policy(chunksize=chunksize))
                with self.assertRaises(TaskFailed, msg=f"{options} {at} {chunksize}"):
                    await job.run(range(10), backend=backend)
