"""
Tests for L{txmapreduce._shuffle.ranges}: partials are cut into ranges that nobody knew before.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._shuffle.grouping import Group, InOrder, Tag, in_order
from txmapreduce._shuffle.ranges import ranges, sample
from txmapreduce._shuffle.rows import Sorted
from txmapreduce.testing.functions import joined

tables = st.lists(st.dictionaries(st.integers(0, 99), st.lists(st.integers(), min_size=1)), max_size=5)
tasks = st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers())), max_size=5)


def partitions(partials: list[Any], aggregate: Any, npartitions: int, ranks: int) -> list[list[Any]]:
    """
    The parts of each partition.
    """
    samples = list(chain.from_iterable(sample(partial, aggregate, ranks) for partial in partials))
    parts = [ranges(partial, aggregate, samples, npartitions) for partial in partials]
    return [[each[number] for each in parts] for number in range(npartitions)]


def folded(parts: list[Any], aggregate: Any) -> Any:
    acc = aggregate.zero()
    for part in parts:
        acc = aggregate.merge(acc, part)
    return aggregate.finish(acc)


class RangesTests(SynchronousTestCase):
    """
    Folding the parts of each partition gives, one after the other, what folding the partials gives.
    """

    @given(tables, st.integers(1, 6), st.integers(1, 5))
    def test_keys(self, groups: list[dict[int, list[int]]], npartitions: int, ranks: int) -> None:
        """
        Of groups: each key with all of its values, in ascending order.
        """
        aggregate: InOrder = in_order(Group(joined))
        partials = [{key: [Tag(n), *values] for key, values in group.items()} for n, group in enumerate(groups)]
        expected = folded([dict(partial) for partial in partials], aggregate)
        found = [folded(parts, aggregate) for parts in partitions(partials, aggregate, npartitions, ranks)]
        self.assertEqual(list(chain.from_iterable(found)), expected)

    @given(tasks, st.booleans(), st.integers(1, 6), st.integers(1, 5))
    def test_rows(self, given: list[list[tuple[int, int]]], reverse: bool, npartitions: int, ranks: int) -> None:
        """
        Of records that are sorted: those that compare as equal keep their order, also in reverse.
        """
        aggregate = Sorted(keyed=True, reverse=reverse)
        partials = [aggregate.file(aggregate.zero(), list(pairs), n) for n, pairs in enumerate(given)]
        found = [folded(parts, aggregate) for parts in partitions(partials, aggregate, npartitions, ranks)]
        pairs = sorted(chain.from_iterable(given), key=lambda pair: pair[0], reverse=reverse)
        self.assertEqual(list(chain.from_iterable(found)), [record for _, record in pairs])

    def test_evenly(self) -> None:
        """
        Where each partial has other keys, partitions are about equally large, though few keys say where they begin.
        """
        aggregate = in_order(Group(joined))
        partials: list[Any] = [{key: [Tag(n), 1] for key in range(n, 10_000, 10)} for n in range(10)]
        parts = partitions(partials, aggregate, 8, 100)
        sizes = [sum(map(len, each)) for each in parts]
        self.assertEqual(sum(sizes), 10_000)
        self.assertLess(max(sizes), 1.1 * 10_000 / 8)

    def test_sampleIsSmall(self) -> None:
        """
        A sample has at most as many ranks as it may, from all of the range.
        """
        for size in (0, 1, 9, 10, 11, 1000):
            table = {key: [Tag(0), 1] for key in range(size)}
            ranks = sample(table, in_order(Group(joined)), 10)
            self.assertLessEqual(len(ranks), 10)
            self.assertEqual(ranks, sorted(ranks))
            self.assertEqual(bool(ranks), bool(size))

    def test_noOrder(self) -> None:
        """
        Ranks that can't be compared are refused in words that say what to do: in one partial, or in two.
        """
        aggregate = in_order(Group(joined))
        numbers, text = {1: [Tag(0), 1]}, {"a": [Tag(1), 1]}
        self.assertRaisesRegex(TypeError, "order_keys=False", sample, {**numbers, **text}, aggregate, 10)
        self.assertRaisesRegex(TypeError, "order_keys=False", ranges, numbers, aggregate, [1, "a"], 2)
        self.assertRaisesRegex(TypeError, "order_keys=False", ranges, text, aggregate, [1, 2], 2)
