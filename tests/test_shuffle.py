"""
Keys: the partition that owns one is the same everywhere, and equal keys are one key.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import operator
import pickle
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.support import partition_of, python
from txmapreduce._shuffle import tables as _shuffle
from txmapreduce._shuffle.keys import ByKey, ByKeyAggregate
from txmapreduce._shuffle.tables import gathered, join, pieces, split
from txmapreduce.aggregates import Aggregate, Collect, Counts, Distinct, Max, Mean, Sum, TopK
from txmapreduce.testing import functions

atoms = (
    st.text()
    | st.binary()
    | st.integers()
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False)
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.frozensets(st.integers())
    | st.datetimes()
)
keys = st.recursive(atoms, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
texts = st.text() | st.text(st.sampled_from("a\ud800"))
tables = st.dictionaries(keys, st.integers()) | st.dictionaries(texts, st.integers())

PRINTS = """
import json
from decimal import Decimal
from txmapreduce._shuffle.partition import stable_hash
keys = ["", "a", "key\\ud800", b"a", 1, -1, 10**30, 1.5, float("inf"), True, None, (1, "a"), ("a", (b"b", None)), (),
    Decimal("1.5"), 2j, frozenset("abc")]
print(json.dumps([stable_hash(key) * 97 >> 32 for key in keys]))
"""


class PartitionTests(SynchronousTestCase):
    """
    The partition that owns a key.
    """

    def test_sameEverywhere(self) -> None:
        """
        The partition of a key does not depend on the process.
        """
        found = {python("-c", PRINTS, PYTHONHASHSEED=seed).stdout for seed in ("0", "1", "random")}
        self.assertEqual(len(found), 1)
        (text,) = found
        self.assertGreater(len(set(json.loads(text))), 8)

    @given(keys, keys, st.integers(1, 50))
    def test_equalKeys(self, one: Any, other: Any, npartitions: int) -> None:
        """
        It is one of the partitions, and equal keys have the same.
        """
        self.assertIn(partition_of(one, npartitions), range(npartitions))
        self.assertEqual(partition_of(one, npartitions), partition_of(copy.deepcopy(one), npartitions))
        if one == other:
            self.assertEqual(partition_of(one, npartitions), partition_of(other, npartitions))

    @given(st.integers(-(1 << 60), 1 << 60), st.integers(1, 50))
    def test_equalAcrossTypes(self, n: int, npartitions: int) -> None:
        """
        Equal numbers of different types are one key, also in tuples, and so are texts of a derived type.
        """
        number = int(float(n))
        same = [number, float(number), complex(number), Fraction(number), Decimal(number)]
        self.assertEqual(len({partition_of(key, npartitions) for key in same}), 1)
        self.assertEqual(len({partition_of(("a", key), npartitions) for key in same}), 1)
        self.assertEqual(partition_of(True, npartitions), partition_of(1, npartitions))

    def test_balance(self) -> None:
        """
        Keys of the usual types spread over all partitions.
        """
        for make in (str, int, float, lambda n: str(n).encode(), lambda n: (n, "x"), lambda n: 4096 * n, lambda n: -n):
            sizes = Counter(partition_of(make(n), 8) for n in range(8000))
            self.assertEqual(len(sizes), 8)
            self.assertLess(max(sizes.values()), 1500)

    @given(tables, st.integers(1, 9))
    def test_split(self, table: dict[Any, int], npartitions: int) -> None:
        """
        A table is split by the partition of its keys, and put together again.
        """
        parts = [part.tables() if npartitions > 1 else [part] for part in split(dict(table), npartitions)]
        self.assertEqual(len(parts), npartitions)
        whole: dict[Any, int] = {}
        for number, tables in enumerate(parts):
            for key, value in itertools.chain.from_iterable(table.items() for table in tables):
                self.assertEqual(partition_of(key, npartitions), number)
                self.assertNotIn(key, whole)
                whole[key] = value
        self.assertEqual(whole, table)

    @given(tables, tables, st.integers(2, 9))
    def test_buckets(self, one: dict[Any, int], other: dict[Any, int], npartitions: int) -> None:
        """
        Partitions that were sent are merged bucket by bucket: equal keys meet, and no key is lost.
        """
        ours, theirs = split(one, npartitions), pickle.loads(pickle.dumps(split(other, npartitions)))
        expected = {key: one.get(key, 0) + other.get(key, 0) for key in [*one, *other]}
        merge = ByKey(operator.add).merge
        found: dict[Any, int] = {}
        for mine, yours in zip(ours, theirs, strict=True):
            mine.add(yours)
            for piece in gathered(dict, (table for _, table in mine.folded(merge, dict))):
                self.assertEqual({*piece} & {*found}, set())
                found.update(piece.items())
        self.assertEqual(found, expected)


class PiecesTests(SynchronousTestCase):
    """
    Large results in pieces.
    """

    def test_inverse(self) -> None:
        """
        The pieces of a list, a dict or a Counter are it again when they are joined; anything else is one piece.
        """
        with mock.patch.object(_shuffle, "SLICE", 10):
            for size in (0, 1, 9, 10, 11, 100, 101):
                for value in (list(range(size)), {n: -n for n in range(size)}, Counter({n: -n for n in range(size)})):
                    cut = list(pieces(value))
                    self.assertEqual(len(cut), max(1, -(-size // 10)))
                    whole = functools.reduce(join, pickle.loads(pickle.dumps(cut)), None)
                    self.assertEqual((type(whole), whole, list(whole)), (type(value), value, list(value)))
            for value in ("x" * 100, set(range(100)), tuple(range(100)), None, functions.Place(1, 2)):
                self.assertEqual(list(pieces(value)), [value])


class Folding(SynchronousTestCase):
    """
    How the values of each key come together.
    """

    aggregates: ClassVar[list[Aggregate]] = [
        ByKey(operator.add),
        ByKey(max),
        *map(ByKeyAggregate, [Sum(), Counts(), Max(), Mean(), Collect(), Distinct(), TopK(2)]),
    ]

    @given(st.lists(st.tuples(st.integers(0, 4), st.integers()), max_size=30), st.lists(st.integers(0, 30), max_size=4))
    def test_law(self, pairs: list[tuple[int, int]], cuts: list[int]) -> None:
        """
        However the pairs are cut, merging what the parts were folded to gives what adding all of them gives.
        """
        edges = [0, *sorted(cuts), len(pairs)]
        for aggregate in self.aggregates:
            whole = aggregate.finish(aggregate.add_many(aggregate.zero(), pairs))
            acc = aggregate.zero()
            for start, end in itertools.pairwise(edges):
                acc = aggregate.merge(acc, aggregate.add_many(aggregate.zero(), iter(pairs[start:end])))
            self.assertEqual(aggregate.finish(acc), whole)
            one_by_one = aggregate.zero()
            for pair in pairs:
                one_by_one = aggregate.add(one_by_one, pair)
            self.assertEqual(aggregate.finish(one_by_one), whole)

    def test_secondOperandStays(self) -> None:
        """
        Merging never changes the second operand, neither at once nor by what is done with the result.
        """
        for aggregate in self.aggregates:
            for first in ([], [(1, 5)], [(2, 5)]):
                b = aggregate.add_many(aggregate.zero(), [(1, 2), (2, 3)])
                before = copy.deepcopy(b)
                acc = aggregate.merge(aggregate.add_many(aggregate.zero(), first), b)
                acc = aggregate.merge(acc, aggregate.add_many(aggregate.zero(), [(1, 7), (3, 1)]))
                acc = aggregate.add_many(acc, [(1, 7), (2, 1), (4, 4)])
                self.assertEqual(b, before, repr(aggregate))
