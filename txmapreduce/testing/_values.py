"""
Functions and values of all kinds, to the workers and back.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import operator
from collections import Counter

import numpy

from ..job import Policy
from ..mapreduce import MapReduce
from ._case import BackendCase
from .functions import (
    Colour,
    Flags,
    Place,
    Point,
    extended,
    identity,
    key_itself,
    kinds_of_functions,
    kinds_of_operators,
    last,
    one_key,
    single_list,
    square,
)

VALUES = [
    (1, (2, [3])),
    1 << 199 | 1,
    -(1 << 199),
    {1, 2},
    frozenset({1}),
    Colour.RED,
    Flags.A | Flags.B,
    numpy.float32(1.5),
    numpy.int64(7),
    numpy.arange(6).reshape(2, 3),
    numpy.zeros(100_000),
    Point(1, 2.0),
    Place(1, 2),
    b"\x00\xff",
    b"long" * 50_000,
    bytearray(b"x"),
    "\ud800 text",
    decimal.Decimal("1.10"),
    datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
    datetime.timedelta(1),
    None,
    True,
    1.5,
    2j,
    float("inf"),
    Counter("aab"),
    {"a": [1], 2: (3,)},
    range(3),
    int,
]


class ValueCases(BackendCase):
    """
    Functions and values of all kinds.
    """

    async def test_anyIterable(self) -> None:
        """
        Input is whatever can be iterated.
        """
        backend = self.backend()
        for data, expected in (
            ("abc", ["a", "b", "c"]),
            (b"ab", [97, 98]),
            ({"x": 1, "y": 2}, ["x", "y"]),
            (map(abs, [-1, 2]), [1, 2]),
            (numpy.arange(3), [0, 1, 2]),
            (frozenset([5]), [5]),
        ):
            self.assertEqual(await MapReduce(identity).run(data, backend=backend), expected)

    async def test_kindsOfFunctions(self) -> None:
        """
        A mapper may be any kind of callable, and so may what it reduces with.
        """
        backend = self.backend()
        for name, mapper in kinds_of_functions().items():
            got = await MapReduce(mapper).run(range(12), backend=backend)
            self.assertEqual(got, [mapper(x) for x in range(12)], name)
        for name, op in kinds_of_operators().items():
            got = await MapReduce(square, reduce=op, policy=Policy(chunksize=2)).run(range(12), backend=backend)
            self.assertEqual(got, functools.reduce(op, map(square, range(12))), name)

    async def test_typesSurvive(self) -> None:
        """
        Values come back as what they were: from a mapper, from a reduce, as keys.
        """
        backend = self.backend()
        for value in VALUES:
            (mapped,) = await MapReduce(identity).run([value], backend=backend)
            reduced_ = await MapReduce(identity, reduce=last).run([0, value], backend=backend)
            (keyed,) = (await MapReduce(one_key, reduce_by_key=last).run([value], backend=backend)).values()
            for got in (mapped, reduced_, keyed):
                self.assertIs(type(got), type(value))
                same = numpy.array_equal(got, value) if isinstance(value, numpy.ndarray) else got == value
                self.assertTrue(same, f"{got!r} is not {value!r}")
        for key in VALUES:
            try:
                hash(key)
            except TypeError:
                continue
            counts = await MapReduce(key_itself, reduce_by_key=operator.add, policy=Policy(chunksize=1)).run(
                [key, key, key], backend=backend
            )
            self.assertEqual(counts, {key: 3})
            self.assertIs(type(next(iter(counts))), type(key))

    async def test_operandsStayWhole(self) -> None:
        """
        An operator that changes its first operand in place changes no C{initial}: the next run starts from the same.
        """
        backend = self.backend()
        initial = [-1]
        job = MapReduce(single_list, reduce=extended, initial=initial, policy=Policy(chunksize=2))
        for _ in range(2):
            self.assertEqual(await job.run(range(5), backend=backend), [-1, 0, 1, 2, 3, 4])
        self.assertEqual(initial, [-1])

    async def test_ownClasses(self) -> None:
        """
        Instances of classes that the workers can't import come back as instances of those classes.
        """

        class Pair:
            def __init__(self, x: int) -> None:
                self.x = x

        pairs = await MapReduce(Pair).run(range(5), backend=self.backend())
        self.assertEqual([(type(pair), pair.x) for pair in pairs], [(Pair, x) for x in range(5)])
        keyed = MapReduce(lambda x: [(x % 2, Pair(x))], reduce_by_key=lambda a, b: Pair(a.x + b.x))
        sums = await keyed.run(range(10), backend=self.backend())
        self.assertEqual({key: (type(pair), pair.x) for key, pair in sums.items()}, {0: (Pair, 20), 1: (Pair, 25)})
