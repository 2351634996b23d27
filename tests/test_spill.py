"""
Folds that go through files: the same result as in memory, in bounded memory, and nothing left behind.
"""

from __future__ import annotations

import operator
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests import mappers
from tests.support import partition_of
from txmapreduce._shuffle import merge, runs, spill
from txmapreduce._shuffle.grouping import Group, Tag, in_order
from txmapreduce._shuffle.keys import ByKey, ByKeyAggregate
from txmapreduce._shuffle.ordering import ByPartition, HashOrder, KeyOrder
from txmapreduce._shuffle.runs import RunWriter
from txmapreduce._shuffle.spill import Pile, Spill, Spilled, Store
from txmapreduce._shuffle.tables import Partition, whole
from txmapreduce._tasks.folding import Folder
from txmapreduce._values.codec import Codec
from txmapreduce.aggregates import Collect, Counts
from txmapreduce.errors import SpillFailed
from txmapreduce.testing import functions

keys = st.integers(0, 40) | st.sampled_from([7])
tasks = st.lists(st.lists(st.tuples(keys, st.integers(0, 9)), max_size=40), max_size=8)


class Always(Store):
    """
    Spills whenever it looks.
    """

    def full(self) -> bool:
        """
        Always.
        """
        return True


def store(folder: str) -> Always:
    """
    A store in a folder that is there.
    """
    codec = Codec()
    return Always(Spill(folder, 0), codec.dumps, codec.loads, lambda: None)


class SpillTests(SynchronousTestCase):
    """
    L{Pile}, L{Store} and L{Folder} together.
    """

    def setUp(self) -> None:
        self.folder = self.mktemp()
        os.makedirs(self.folder)
        for module, name, value in (
            (spill, "BATCH", 8),
            (spill, "LOOK", 8),
            (spill, "FILED", 24),
            (runs, "BLOCK", 60),
            (merge, "FAN_IN", 3),
            (spill, "FAN_IN", 3),
            (spill, "SMALL", 10),
            (spill, "CACHED", 4),
            (spill, "JUDGED", 6),
            (spill, "MERGED", 30),
            (spill, "NEW", 0.5),
        ):
            patch = mock.patch.object(module, name, value)
            patch.start()
            self.addCleanup(patch.stop)

    def folded(self, aggregate: Any, tasks: list[list[Any]], npartitions: int, workers: int = 2) -> list[Any]:
        """
        The result of each partition, when workers have mapped the tasks in turn and handed over what they had.
        """
        place = store(self.folder)
        folder = Folder(aggregate, place)
        piles = [Pile(aggregate, place) for _ in range(workers)]
        for number, task in enumerate(tasks):
            pile = piles[number % workers].add(iter(task), Tag(number))
            pile.file(Tag(number))
        for pile in piles[1:]:
            pile.spill()
        cut = (lambda partial, n: [partial] * n) if folder.cuts_keys else folder.parts
        partials = [cut(pile.partial(), npartitions) for pile in piles]
        return [
            whole(folder.finish(folder.fold([parts[n] for parts in partials], (n, npartitions)), (n, npartitions)))
            for n in range(npartitions)
        ]

    @settings(max_examples=60)
    @given(tasks, st.integers(1, 4))
    def test_byKey(self, tasks: list[list[tuple[int, int]]], npartitions: int) -> None:
        """
        One value per key: each partition has the keys that are its own, with all their values.
        """
        expected: Counter[int] = Counter()
        for key, value in (pair for task in tasks for pair in task):
            expected[key] += value
        results = self.folded(ByKey(operator.add), tasks, npartitions)
        for number, result in enumerate(results):
            found = dict(result.items())
            owned = {key: value for key, value in expected.items() if partition_of(key, npartitions) == number}
            self.assertEqual(found, owned)

    @settings(max_examples=60)
    @given(tasks, st.integers(1, 4), st.sampled_from([1, 2, 7, 200]))
    def test_packed(self, tasks: list[list[tuple[int, int]]], workers: int, npartitions: int) -> None:
        """
        What is packed in memory gives the same as a dict, however many partitions it is cut in, and next to partials
        that are not packed: sums and counts.
        """
        sums: Counter[int] = Counter()
        for key, value in (pair for task in tasks for pair in task):
            sums[key] += value
        counts = Counter(pair for task in tasks for pair in task)
        for aggregate, expected in ((ByKey(operator.add), dict(sums)), (Counts(), counts)):
            folder = Folder(aggregate, None)
            piles = [Pile(aggregate, None) for _ in range(workers)]
            for number, task in enumerate(tasks):
                piles[number % workers].add(iter(task), Tag(number))
            partials = [folder.parts(pile.partial(), npartitions) for pile in piles]
            found = type(expected)()
            for n in range(npartitions):
                part = folder.fold([parts[n] for parts in partials], (n, npartitions))
                result = whole(folder.finish(part, (n, npartitions)))
                self.assertIs(type(result), type(expected))
                self.assertEqual({*result} & {*found}, set())
                dict.update(found, result)
            self.assertEqual(found, expected)

    @given(tasks, st.sampled_from([2, 7]))
    def test_notCut(self, tasks: list[list[tuple[int, int]]], npartitions: int) -> None:
        """
        Partials that were not cut, packed or not, are cut where a partition is folded; and those that were folded in
        between are as good as others.
        """
        sums: Counter[int] = Counter()
        for key, value in (pair for task in tasks for pair in task):
            sums[key] += value
        folder = Folder(ByKey(operator.add), None)
        partials = [Pile(ByKey(operator.add), None).add(task, Tag(n)).partial() for n, task in enumerate(tasks)]
        partials[:3] = [folder.relieved(folder.fold(partials[:3]))]
        found: dict[int, int] = {}
        for n in range(npartitions):
            result = whole(folder.finish(folder.fold(partials, (n, npartitions)), (n, npartitions)))
            self.assertEqual({partition_of(key, npartitions) for key in result} - {n}, set())
            found.update(result)
        self.assertEqual(found, sums)

    def test_whatIsPacked(self) -> None:
        """
        A table is packed when it outgrows the cache and most of its keys were new. Where keys come again and again, or
        keys or values are no plain data, it stays a dict.
        """
        for pairs, packs in (
            ([(n, n) for n in range(100)], True),
            ([(str(n), None) for n in range(100)], True),
            ([(n // 3, n) for n in range(300)], False),
            ([((n, n), n) for n in range(100)], False),
            ([(float(n), n) for n in range(100)], False),
            ([(n, [n]) for n in range(100)], False),
        ):
            partial = Pile(ByKey(operator.add), None).add(pairs, Tag(0)).partial()
            self.assertIs(type(partial), Partition if packs else dict, pairs[1])

    @settings(max_examples=60)
    @given(tasks, st.integers(1, 4), st.sampled_from([None, operator.neg, str]))
    def test_grouped(self, tasks: list[list[tuple[int, int]]], npartitions: int, sort_values: Any) -> None:
        """
        The classic form: keys in ascending order over all partitions, the values of each in input order or sorted,
        equal ones in input order.
        """
        groups: dict[int, list[int]] = {}
        for key, value in (pair for task in tasks for pair in task):
            groups.setdefault(key, []).append(value)
        expected = [
            (key, values if sort_values is None else sorted(values, key=sort_values))
            for key, values in sorted(groups.items())
        ]
        results = self.folded(in_order(Group(functions.joined, sort_values=sort_values)), tasks, npartitions)
        self.assertEqual([row for result in results for row in result], expected)

    @settings(max_examples=60)
    @given(tasks, st.integers(1, 4), st.sampled_from([None, operator.neg, str]))
    def test_partitioner(self, tasks: list[list[tuple[int, int]]], npartitions: int, sort_values: Any) -> None:
        """
        With a function that says where keys belong each partition has those keys, in ascending order, or one value for
        each.
        """
        groups: dict[int, list[int]] = {}
        for key, value in sorted((pair for task in tasks for pair in task), key=operator.itemgetter(0)):
            groups.setdefault(key, []).append(value)
        if sort_values is not None:
            groups = {key: sorted(values, key=sort_values) for key, values in groups.items()}
        order = ByPartition(KeyOrder(), mappers.by_tens, npartitions)
        results = self.folded(in_order(Group(functions.joined, None, sort_values, order)), tasks, npartitions)
        order = ByPartition(HashOrder(), mappers.by_tens, npartitions)
        sums = self.folded(ByKey(operator.add, order), tasks, npartitions)
        for number, (result, summed) in enumerate(zip(results, sums, strict=True)):
            owned = {key: values for key, values in groups.items() if mappers.by_tens(key, npartitions) == number}
            self.assertEqual(result, list(owned.items()))
            self.assertEqual(dict(summed.items()), {key: sum(values) for key, values in owned.items()})

    @settings(max_examples=30)
    @given(tasks, st.integers(1, 3))
    def test_otherFolds(self, tasks: list[list[tuple[int, int]]], npartitions: int) -> None:
        """
        A combiner, keys in no order, aggregates per key with and without an order, and counts.
        """
        in_memory: dict[int, list[int]] = {}
        for key, value in (pair for task in tasks for pair in task):
            in_memory.setdefault(key, []).append(value)
        sums = {key: sum(values) for key, values in in_memory.items()}
        combined = self.folded(in_order(Group(functions.total_of, functions.total)), tasks, npartitions)
        self.assertEqual([row for result in combined for row in result], sorted(sums.items()))
        loose = self.folded(in_order(Group(functions.joined, order=HashOrder())), tasks, npartitions)
        self.assertEqual(sorted(row for result in loose for row in result), sorted(in_memory.items()))
        listed = self.folded(in_order(ByKeyAggregate(Collect())), tasks, npartitions)
        self.assertEqual({key: row for result in listed for key, row in result.items()}, in_memory)
        counted = self.folded(Counts(), [[key for key, _ in task] for task in tasks], 1)
        self.assertEqual(dict(counted[0]), {key: len(values) for key, values in in_memory.items()})

    def test_longKey(self) -> None:
        """
        The values of a key that has more than a block takes are read as they are asked for, and no file is open when
        all have been read; a reducer that does not take them all does no harm.
        """
        pairs = [(n % 3, n) for n in range(3000)]
        tasks = [pairs[at : at + 100] for at in range(0, 3000, 100)]
        (result,) = self.folded(in_order(Group(functions.joined)), tasks, 1)
        self.assertEqual(result, [(key, list(range(key, 3000, 3))) for key in range(3)])
        (result,) = self.folded(in_order(Group(functions.joined, sort_values=operator.neg)), tasks, 1)
        self.assertEqual(result, [(key, list(range(2997 + key, -1, -3))) for key in range(3)])
        (firsts,) = self.folded(in_order(Group(_first)), tasks, 1)
        self.assertEqual(firsts, [(0, 0), (1, 1), (2, 2)])
        files = [Path(file.path) for file in psutil.Process().open_files()]
        self.assertEqual([path for path in files if Path(self.folder).resolve() in path.parents], [])

    def test_files(self) -> None:
        """
        Files are the user's alone. Damage is found, and so is a file that is gone.
        """
        pile = Pile(ByKey(operator.add), store(self.folder)).add([(n, n) for n in range(100)], Tag(0))
        pile.spill()
        spilled = pile.partial()
        assert isinstance(spilled, Spilled)
        run = spilled.runs[0]
        self.assertEqual(os.stat(run.path).st_mode & 0o777, 0o600)
        path = Path(run.path)
        data = path.read_bytes()
        folder = Folder(ByKey(operator.add), store(self.folder))
        for damaged in (data[:-1], data[:40] + bytes([data[40] ^ 1]) + data[41:], b""):
            path.write_bytes(damaged)
            self.assertRaises(SpillFailed, lambda: whole(folder.finish(spilled)))
        path.unlink()
        self.assertRaises(SpillFailed, lambda: whole(folder.finish(spilled)))

    def test_diskFull(self) -> None:
        """
        A run that can't be written leaves no file, and the error says where that was and how much room there is.
        """
        if not os.path.exists("/dev/full"):
            return
        codec = Codec()
        with mock.patch.object(runs.os, "open", partial(_open_full, os.open)):
            path = os.path.join(self.folder, "run")
            try:
                with RunWriter(path, codec.dumps, lambda entry, count: [entry]) as writer:
                    writer.write([1], [1], ["x" * 1_000_000])
                    writer.finish()
            except SpillFailed as error:
                self.assertIn(self.folder, str(error))
                self.assertIn("are free there", str(error))
            else:
                self.fail("nothing was raised")


def _first(key: Any, values: Any) -> Any:
    yield key, next(values)


def _open_full(real: Any, path: str, flags: int, mode: int = 0o777) -> int:
    os.close(real(path, flags, mode))
    return real("/dev/full", os.O_WRONLY)
