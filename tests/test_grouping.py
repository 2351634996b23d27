"""
Folds whose values have an order: whatever way their parts come together, the result is that of the input in its order.
"""

from __future__ import annotations

import copy
import itertools
import operator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._shuffle.grouping import Group, InOrder, Tag, in_order
from txmapreduce._shuffle.keys import ByKey, ByKeyAggregate
from txmapreduce._shuffle.ordering import HashOrder
from txmapreduce.aggregates import Collect
from txmapreduce.testing import functions

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers()), max_size=30)
cuts = st.lists(st.integers(0, 30), max_size=4)


def tables(aggregate: InOrder, values: list[tuple[int, int]], cuts: list[int]) -> list[dict[Any, Any]]:
    """
    The tables of tasks that map the pieces of C{values}.
    """
    inner, edges = aggregate.inner, [0, *sorted(cuts), len(values)]
    return [
        aggregate.file({}, inner.add_many(inner.zero(), values[start:end]), Tag(number))
        for number, (start, end) in enumerate(itertools.pairwise(edges))
    ]


def by_key(values: list[tuple[int, int]]) -> dict[int, list[int]]:
    """
    The values of each key in the order they came.
    """
    found: dict[int, list[int]] = {}
    for key, value in values:
        found.setdefault(key, []).append(value)
    return found


class InOrderTests(SynchronousTestCase):
    """
    L{InOrder}.
    """

    @given(pairs, cuts, st.randoms())
    def test_law(self, values: list[tuple[int, int]], cuts: list[int], random: Any) -> None:
        """
        However the pairs are cut, and in whatever order what came of the pieces is merged: each key has its values in
        input order, and a reducer gets the keys in ascending order.
        """
        groups = sorted(by_key(values).items())
        for aggregate, expected in (
            (in_order(Group(functions.joined)), groups),
            (in_order(Group(functions.joined, sort_values=operator.neg)), [(k, sorted(v)[::-1]) for k, v in groups]),
            (in_order(ByKeyAggregate(Collect())), dict(groups)),
            (in_order(ByKey(operator.sub)), None),
        ):
            parts = tables(aggregate, values, cuts)
            in_turn = aggregate.zero()
            for part in copy.deepcopy(parts):
                in_turn = aggregate.merge(in_turn, part)
            random.shuffle(parts)
            shuffled = aggregate.zero()
            for part in parts:
                shuffled = aggregate.merge(shuffled, part)
            result = aggregate.finish(in_turn)
            self.assertEqual(aggregate.finish(shuffled), result)
            if expected is not None:
                self.assertEqual(result, expected)

    @given(pairs, cuts)
    def test_combined(self, values: list[tuple[int, int]], cuts: list[int]) -> None:
        """
        A combiner stands in for the values of one task, and of several, unless the run has to be reproducible.
        """
        expected = sorted((key, sum(found)) for key, found in by_key(values).items())
        for reproducible in (False, True):
            aggregate = in_order(Group(functions.total_of, functions.total), reproducible)
            acc = aggregate.zero()
            for part in tables(aggregate, values, cuts):
                acc = aggregate.merge(acc, part)
            combined = aggregate.combined(copy.deepcopy(acc))
            if not reproducible:
                self.assertTrue(all(len(entry) == 2 for entry in combined.values()))
            else:
                self.assertEqual(combined, acc)
            self.assertEqual(aggregate.finish(combined), expected)

    def test_secondOperandStays(self) -> None:
        """
        Merging never changes the second operand, neither at once nor by what is done with the result.
        """
        aggregate = in_order(Group(functions.joined))
        (first,), (second,) = (tables(aggregate, [(1, n), (2, n)], []) for n in (1, 2))
        before = copy.deepcopy(second)
        acc = aggregate.merge(aggregate.merge(aggregate.zero(), first), second)
        aggregate.merge(acc, first)
        self.assertEqual(second, before)

    @given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(), min_size=1)), min_size=1), st.integers(1, 9))
    def test_slices(self, parts: list[tuple[int, list[int]]], count: int) -> None:
        """
        A long entry can be cut; its slices are in order, and together they are what it was.
        """
        aggregate = in_order(Group(functions.joined))
        entry = [item for tag, values in parts for item in (Tag(tag), *values)]
        slices = list(aggregate.slices(entry, count))
        tags = [item for part in slices for item in part if isinstance(item, Tag)]
        self.assertEqual(tags, sorted(tags))
        self.assertLessEqual(len(slices), count)
        whole = [item for part in slices for item in part]
        self.assertEqual(aggregate.finish({1: whole}), aggregate.finish({1: entry}))

    def test_notComparable(self) -> None:
        """
        Keys that can't be compared are refused in words that say what to do, and are taken with C{order_keys=False}.
        """
        table = {"a": [Tag(0), 1], None: [Tag(0), 2]}
        error = self.assertRaises(TypeError, in_order(Group(functions.joined)).finish, table)
        self.assertIn("order_keys=False", str(error))
        self.assertEqual(in_order(Group(functions.joined, order=HashOrder())).finish(table), [("a", [1]), (None, [2])])
