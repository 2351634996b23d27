"""
Tests for L{txmapreduce._schedule.partials}.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._schedule import partials as _partials
from txmapreduce._schedule.events import BadRecord, MapAttempt, Outcome
from txmapreduce._schedule.partials import Bag, Fold, Last, Tally, Tree
from txmapreduce._wire.messages import Counts


def attempt(first: int, count: int = 1, chunksize: int = 10) -> MapAttempt:
    return MapAttempt(first + 100, 1, first, first, count, chunksize, True)


def handles(partials: Tree | Bag) -> list[Any]:
    return [outcome.handle for outcome in partials.all()]


class TallyTests(SynchronousTestCase):
    """
    Sums over chunks.
    """

    def outcome(self, *skipped: int) -> Outcome:
        return Outcome("h", records=25, counters=(("g", "n", 3),), skipped=tuple((at, "bad") for at in skipped))

    def test_positions(self) -> None:
        """
        A bad record of a bundle is told with its chunk and its place there.
        """
        tally = Tally.of(attempt(4, 3), self.outcome(0, 9, 10, 24))
        places = [(4, 0, 0), (4, 9, 9), (5, 0, 10), (6, 4, 24)]
        expected = [BadRecord(chunk, n, "bad", f"record {at} of the input") for chunk, n, at in places]
        self.assertEqual(tally.skipped, expected)
        self.assertEqual((tally.chunks, tally.records, tally.counters), (3, 25, Counter({("g", "n"): 3})))

    def test_positionsInOneChunk(self) -> None:
        """
        In one chunk, which may be a split of any length, it is its place in the task.
        """
        for size in (0, 5, 10):
            tally = Tally.of(attempt(4, 1, size), self.outcome(24))
            self.assertEqual(tally.skipped, [BadRecord(4, 24, "bad", "record 24 of the input")])

    def test_takeBack(self) -> None:
        """
        What was added and taken back leaves no trace.
        """
        total, one, other = Tally(), Tally.of(attempt(0), self.outcome(3)), Tally.of(attempt(1), self.outcome(3, 4))
        total.add(one)
        total.add(other)
        total.take_back(one)
        self.assertEqual((total.chunks, total.records, total.skipped), (1, 25, other.skipped))
        self.assertEqual(+total.counters, other.counters)


class TreeTests(SynchronousTestCase):
    """
    Partials in input order.
    """

    def setUp(self) -> None:
        self.patch(_partials, "FAN_IN", 3)

    def test_neighbours(self) -> None:
        """
        Neighbours are folded as soon as there are enough, once.
        """
        tree = Tree()
        for handle in "ab":
            tree.add(Outcome(handle))
        self.assertEqual(list(tree.due()), [])
        tree.add(Outcome("c"))
        tree.add(Outcome("d"))
        (fold,) = tree.due()
        self.assertEqual(fold.inputs, ("a", "b", "c"))
        self.assertEqual(list(tree.due()), [])
        self.assertEqual(handles(tree), ["a", "b", "c", "d"])
        tree.put(fold.place, Outcome("abc"))
        self.assertEqual(handles(tree), ["abc", "d"])

    def test_waitsForNeighbours(self) -> None:
        """
        What is folded first waits for what comes before it.
        """
        tree = Tree()
        for handle in "abcdefghi":
            tree.add(Outcome(handle))
        first, second, third = tree.due()
        tree.put(third.place, Outcome("ghi"))
        tree.put(second.place, Outcome("def"))
        self.assertEqual(list(tree.due()), [])
        self.assertEqual(handles(tree), ["a", "b", "c", "def", "ghi"])
        tree.put(first.place, Outcome("abc"))
        (top,) = tree.due()
        self.assertEqual(top.inputs, ("abc", "def", "ghi"))
        tree.put(top.place, Outcome("all"))
        self.assertEqual(handles(tree), ["all"])

    @given(st.integers(0, 60), st.integers(), st.integers(2, 5))
    def test_shape(self, count: int, seed: int, fan_in: int) -> None:
        """
        The shape depends on the count alone, in whatever order folds end; input order is kept.
        """
        self.patch(_partials, "FAN_IN", fan_in)
        shapes = {self.shape(count, random.Random(seed)), self.shape(count, None)}
        self.assertEqual(len(shapes), 1)
        plain = [int(number) for number in shapes.pop().translate({ord(sign): " " for sign in "(),"}).split()]
        self.assertEqual(plain, list(range(count)))

    def shape(self, count: int, rng: random.Random | None) -> str:
        """
        How so many partials are folded: at once, or where C{rng} says in any order.
        """
        tree = Tree()
        under_way: list[Fold] = []
        for number in range(count):
            tree.add(Outcome(str(number)))
            under_way += tree.due()
            while under_way and (rng is None or rng.random() < 0.3):
                under_way += self.end_one(tree, under_way, rng)
        while under_way:
            under_way += self.end_one(tree, under_way, rng)
        return ",".join(handles(tree))

    def end_one(self, tree: Tree, under_way: list[Fold], rng: random.Random | None) -> list[Fold]:
        fold = under_way.pop(0 if rng is None else rng.randrange(len(under_way)))
        tree.put(fold.place, Outcome(f"({','.join(map(str, fold.inputs))})"))
        return list(tree.due())


class BagTests(SynchronousTestCase):
    """
    Partials in any order, which workers may keep.
    """

    def setUp(self) -> None:
        self.patch(_partials, "FAN_IN", 3)
        self.bag = Bag()

    def add(self, handle: str, first: int) -> None:
        outcome = Outcome(handle, secure=False, records=10)
        self.bag.add(attempt(first), outcome, Tally.of(attempt(first), outcome))

    def test_secured(self) -> None:
        """
        A handle covers more and more, until it is secure: then it covers nothing that is still needed.
        """
        self.add("a", 1)
        self.add("a", 2)
        self.assertEqual(handles(self.bag), ["a"])
        self.assertEqual(self.bag.secure("a"), [attempt(1), attempt(2)])
        self.assertEqual(self.bag.secure("a"), [])
        self.assertEqual(self.bag.lose("a"), ([], Tally()))
        self.assertEqual(handles(self.bag), ["a"])

    def test_lost(self) -> None:
        """
        What is lost has to be made again, and is no longer counted.
        """
        self.add("a", 1)
        self.add("b", 2)
        self.add("a", 3)
        attempts, tally = self.bag.lose("a")
        self.assertEqual(attempts, [attempt(1), attempt(3)])
        self.assertEqual((tally.chunks, tally.records), (2, 20))
        self.assertEqual(handles(self.bag), ["b"])
        self.assertEqual(self.bag.lose("a"), ([], Tally()))

    def test_unknown(self) -> None:
        """
        Of a handle that never was there is nothing to say.
        """
        self.assertEqual((self.bag.secure("x"), self.bag.lose("x")), ([], ([], Tally())))

    def test_folded(self) -> None:
        """
        Only what is secure is folded, when that is much. It is part of what there is all the while.
        """
        for number, handle in enumerate("abcd"):
            self.add(handle, number)
        for handle in "abc":
            self.assertEqual(list(self.bag.due()), [])
            self.bag.secure(handle)
        (fold,) = self.bag.due()
        self.assertEqual(fold.inputs, ("a", "b", "c"))
        self.assertEqual(list(self.bag.due()), [])
        self.assertEqual(sorted(handles(self.bag)), ["a", "b", "c", "d"])
        self.bag.put(fold.place, Outcome("abc"))
        self.assertEqual(sorted(handles(self.bag)), ["abc", "d"])


class LastTests(SynchronousTestCase):
    """
    The last fold.
    """

    def test_inOrder(self) -> None:
        """
        What comes of its attempts is put in their order, and one may take another's place. What they counted adds up.
        """
        last = Last([5, 6, 7], [Outcome("x", size=4), Outcome("y", size=3)])
        self.assertEqual(last.combined, 7)
        given = list(last.put(7, Outcome("c", counts=Counts(groups=2))))
        last.again(5, 9)
        self.assertEqual([id in last for id in (5, 6, 7, 9)], [False, True, False, True])
        given += last.put(6, Outcome("b", counts=Counts(groups=1, spilled=5)))
        self.assertFalse(last.ended)
        given += last.put(9, Outcome("a", counts=Counts(spilled=6)))
        self.assertTrue(last.ended)
        self.assertEqual((given, last.given), ([], 0))
        self.assertEqual(list(last.ready()), ["a", "b", "c"])
        self.assertEqual((last.groups, last.spilled), (3, 11))

    def test_early(self) -> None:
        """
        Before the end it may give away what is done, in the order of partitions, each once; what ends it is left.
        """
        last = Last([1, 2, 3, 4], [], early=True)
        self.assertEqual(list(last.put(2, Outcome("b"))), [])
        self.assertEqual(list(last.put(1, Outcome("a"))), ["a", "b"])
        self.assertEqual(last.given, 2)
        self.assertEqual(list(last.put(4, Outcome("d"))), [])
        self.assertEqual(list(last.put(3, Outcome("c"))), [])
        self.assertEqual(list(last.ready()), ["c", "d"])
