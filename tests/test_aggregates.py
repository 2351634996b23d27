"""
Each aggregate gives what plain Python gives, however its values are cut into parts.
"""

from __future__ import annotations

import copy
import math
import pickle
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import reduce
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce import _context
from txmapreduce.aggregates import Aggregate, Collect, Counts, Distinct, Max, Mean, Min, Sample, Sum, TopK, Variance
from txmapreduce.errors import BadInput

numbers = st.integers(-50, 50)
"""Few different ones, so that there are ties."""

parts_of_numbers = st.lists(st.lists(numbers, max_size=8), max_size=6)


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """
    What the function returns, or the type of what it raises.
    """
    try:
        return function(*args)
    except (TypeError, ValueError) as error:
        return type(error)


def sequential(aggregate: Aggregate, values: Iterable[Any]) -> Any:
    """
    Fold one value after the other.
    """
    return outcome(aggregate.finish, reduce(aggregate.add, values, aggregate.zero()))


def in_parts(aggregate: Aggregate, parts: list[list[Any]]) -> Any:
    """
    Fold each part by itself, send the accumulators, and merge them in pairs, as a tree.
    """
    accs = [pickle.loads(pickle.dumps(aggregate.add_many(aggregate.zero(), iter(part)))) for part in parts]
    accs = accs or [aggregate.zero()]
    while len(accs) > 1:
        accs = [reduce(aggregate.merge, accs[at : at + 2]) for at in range(0, len(accs), 2)]
    return outcome(aggregate.finish, accs[0])


def last_digit(number: int) -> int:
    return number % 10


LAWS: list[tuple[Aggregate, Callable[[list[Any]], Any]]] = [
    (Counts(), Counter),
    (Sum(), sum),
    (Sum(1000), lambda values: sum(values, 1000)),
    (Min(), min),
    (Max(), max),
    (Min(last_digit), lambda values: min(values, key=last_digit)),
    (Max(last_digit), lambda values: max(values, key=last_digit)),
    (Min(default=None), lambda values: min(values, default=None)),
    (Max(last_digit, default=7), lambda values: max(values, key=last_digit, default=7)),
    (Mean(), statistics.mean),
    (TopK(3), lambda values: sorted(values, reverse=True)[:3]),
    (TopK(0), lambda values: []),
    (TopK(4, last_digit), lambda values: sorted(values, key=last_digit, reverse=True)[:4]),
    (Distinct(), set),
    (Collect(), list),
]
"""Aggregates whose result is exact, and what it has to be equal to."""

ALL = [aggregate for aggregate, _ in LAWS] + [Variance(), Variance(ddof=0), Sample(3)]


class LawTests(SynchronousTestCase):
    """
    What holds for all of them.
    """

    @given(parts_of_numbers)
    def test_sameAsPython(self, parts: list[list[int]]) -> None:
        """
        One value at a time, or in parts that are merged as a tree: the result is that of plain Python, as are errors.
        """
        values = [value for part in parts for value in part]
        for aggregate, plain in LAWS:
            expected = outcome(plain, values)
            self.assertEqual(sequential(aggregate, values), expected, aggregate)
            self.assertEqual(in_parts(aggregate, parts), expected, aggregate)

    @given(parts_of_numbers, st.randoms(use_true_random=False))
    def test_unordered(self, parts: list[list[int]], shuffler: random.Random) -> None:
        """
        Those that say that order does not matter to them give the same for parts in any order.
        """
        shuffled = shuffler.sample(parts, len(parts))
        for aggregate, _ in LAWS:
            if not aggregate.ordered:
                self.assertEqual(in_parts(aggregate, shuffled), in_parts(aggregate, parts), aggregate)

    def test_whichAreOrdered(self) -> None:
        """
        Order matters where values can be equal and yet different, and for lists.
        """
        ordered = [aggregate for aggregate in ALL if aggregate.ordered]
        names = [type(aggregate).__name__ for aggregate in ordered]
        self.assertEqual(names, ["Min", "Max", "Max", "TopK", "TopK", "TopK", "Collect"])
        self.assertTrue(Aggregate.ordered)

    @given(st.lists(numbers, max_size=12))
    def test_zero(self, values: list[int]) -> None:
        """
        Merging with the accumulator of no values changes nothing, on either side.
        """
        for aggregate in ALL:
            acc = aggregate.add_many(aggregate.zero(), values)
            expected = outcome(aggregate.finish, copy.deepcopy(acc))
            left = aggregate.merge(aggregate.zero(), copy.deepcopy(acc))
            right = aggregate.merge(copy.deepcopy(acc), aggregate.zero())
            self.assertEqual(outcome(aggregate.finish, left), expected, aggregate)
            self.assertEqual(outcome(aggregate.finish, right), expected, aggregate)

    @given(st.lists(numbers, max_size=12), st.lists(numbers, max_size=12), st.lists(numbers, min_size=1, max_size=12))
    def test_mergeKeepsTheSecond(self, one: list[int], two: list[int], more: list[int]) -> None:
        """
        Neither merging nor going on with the result changes what was merged in.
        """
        for aggregate in ALL:
            a, b = (aggregate.add_many(aggregate.zero(), values) for values in (one, two))
            before = copy.deepcopy(b)
            merged = aggregate.merge(a, b)
            merged = aggregate.add_many(merged, more)
            merged = aggregate.merge(merged, aggregate.add_many(aggregate.zero(), more))
            self.assertEqual(b, before, aggregate)

    def test_fresh(self) -> None:
        """
        Each accumulator starts empty, whatever was done to the ones before.
        """
        for aggregate in ALL:
            before = repr(aggregate.zero())
            aggregate.add_many(aggregate.zero(), [1, 2, 3])
            aggregate.add(aggregate.zero(), 4)
            self.assertEqual(repr(aggregate.zero()), before)

    def test_allValuesAreRead(self) -> None:
        """
        An iterator is gone through to its end, since mapping happens while it is.
        """
        for aggregate in [*ALL, Sample(0)]:
            values = iter(range(100))
            aggregate.add_many(aggregate.zero(), values)
            self.assertEqual(list(values), [], aggregate)

    def test_values(self) -> None:
        """
        Aggregates are values: they pickle to equal ones, can't be changed, and say how they were made.
        """
        for aggregate in ALL:
            again = pickle.loads(pickle.dumps(aggregate))
            self.assertEqual((again, again.ordered), (aggregate, aggregate.ordered))
            self.assertRaises(AttributeError, setattr, aggregate, "k", 1)
        shown = [repr(each) for each in (Counts(), Sum(), TopK(3), Variance(), Min(default=0))]
        expected = ["Counts()", "Sum(start=0)", "TopK(k=3, key=None)", "Variance(ddof=1)", "Min(key=None, default=0)"]
        self.assertEqual(shown, expected)

    def test_badK(self) -> None:
        """
        A k that is not a count is refused.
        """
        for kind in (TopK, Sample):
            for k in (-1, 1.5, "3", True, None):
                self.assertRaises(BadInput, kind, k)

    def test_badKey(self) -> None:
        """
        A key that is no function is refused.
        """
        for make in (Min, Max, lambda key: TopK(3, key)):
            self.assertRaises(BadInput, make, "size")


class Longest(Aggregate):
    """
    A user's own, with no more than is needed.
    """

    def zero(self) -> str:
        return ""

    def add(self, acc: str, value: str) -> str:
        return value if len(value) > len(acc) else acc

    merge = add


class OwnTests(SynchronousTestCase):
    """
    The base class is enough to build on.
    """

    def test_defaults(self) -> None:
        """
        Adding many is adding each, and the accumulator is the result.
        """
        self.assertEqual(in_parts(Longest(), [["a", "bcd"], [], ["efg", "h"]]), "bcd")

    def test_incomplete(self) -> None:
        """
        One that can't merge can't be made.
        """

        class Broken(Aggregate):
            def zero(self) -> int:
                return 0

            def add(self, acc: int, value: int) -> int:
                return acc + value

        self.assertRaises(TypeError, Broken)


class ParticularTests(SynchronousTestCase):
    """
    What is special to one of them.
    """

    def test_countsOfAMapping(self) -> None:
        """
        A mapping is counted by its keys, as any iterable; the result is a dict.
        """
        acc = Counts().add_many(Counts().zero(), {"a": 5, "b": 7})
        self.assertEqual(acc, {"a": 1, "b": 1})

    def test_sumOfMore(self) -> None:
        """
        Whatever can be added can be summed, and what sum refuses is refused.
        """
        self.assertEqual(in_parts(Sum([0]), [[[1]], [[2], [3]]]), [0, 1, 2, 3])
        self.assertEqual(in_parts(Sum(), [[Fraction(1, 3)], [Fraction(2, 3)]]), 1)
        self.assertEqual(in_parts(Sum(), [[2**200], [-(2**200), 1]]), 1)
        self.assertRaises(TypeError, Sum().add_many, [], ["a", "b"])

    def test_tiesKeepTheFirst(self) -> None:
        """
        Of values with equal keys, the first in input order counts.
        """
        parts = [["bb", "a"], ["c", "dd"]]
        self.assertEqual(in_parts(Min(len), parts), "a")
        self.assertEqual(in_parts(Max(len), parts), "bb")
        self.assertEqual(in_parts(TopK(3, len), parts), ["bb", "dd", "a"])

    def test_noneIsAValue(self) -> None:
        """
        None can be the smallest value, the default, or a key's result.
        """
        self.assertIsNone(in_parts(Min(str, default=1), [[None], []]))
        self.assertIsNone(in_parts(Min(default=None), [[]]))

    def test_meanIsExact(self) -> None:
        """
        Means of integers and fractions are exact, and those of floats as good as rounding once.
        """
        self.assertEqual(in_parts(Mean(), [[10**30], [1, -(10**30) + 2]]), 1)
        self.assertEqual(in_parts(Mean(), [[Fraction(1, 3)], [Fraction(1, 6)]]), Fraction(1, 4))
        self.assertEqual(in_parts(Mean(), [[1e16, 1.0, -1e16], []]), 1 / 3)
        self.assertEqual(in_parts(Mean(), [[1e308, 1e308]]), math.inf)
        self.assertTrue(math.isnan(in_parts(Mean(), [[math.inf, -math.inf]])))

    @given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=8), max_size=5))
    def test_floats(self, parts: list[list[float]]) -> None:
        """
        Means and variances of floats are those of the statistics module, but for rounding; so are its errors.
        """
        values = [value for part in parts for value in part]
        scale = max(map(abs, values), default=0) + 1e-3
        for aggregate, plain, tolerance in (
            (Mean(), statistics.mean, scale * 1e-12),
            (Variance(), statistics.variance, scale**2 * 1e-12),
            (Variance(ddof=0), statistics.pvariance, scale**2 * 1e-12),
        ):
            expected = outcome(plain, values)
            for found in (sequential(aggregate, values), in_parts(aggregate, parts)):
                if isinstance(expected, type):
                    self.assertEqual(found, expected)
                else:
                    self.assertTrue(abs(found - expected) <= tolerance, (aggregate, found, expected))

    def test_varianceFarFromZero(self) -> None:
        """
        A small variance of large numbers survives, also when values come one by one.
        """
        values = [1e9 + n % 5 for n in range(1000)]
        for found in (sequential(Variance(ddof=0), values), in_parts(Variance(ddof=0), [values[:300], values[300:]])):
            self.assertAlmostEqual(found, 2.0, places=6)

    def test_manyValues(self) -> None:
        """
        Values that come in more than one slice are all counted.
        """
        values = list(range(25_001))
        self.assertEqual(in_parts(Mean(), [values]), 12_500)
        self.assertAlmostEqual(in_parts(Variance(), [values]), statistics.variance(values), places=3)


class SampleTests(SynchronousTestCase):
    """
    Every value is as likely as any other to be in the sample.
    """

    def test_members(self) -> None:
        """
        A sample has k of the values, each at most once, or all of them.
        """
        found = in_parts(Sample(5), [list(range(40)), [], list(range(40, 100))])
        self.assertEqual(len(found), 5)
        self.assertEqual(len(set(found) & set(range(100))), 5)
        self.assertEqual(sorted(in_parts(Sample(9), [[1, 2], [3]])), [1, 2, 3])
        self.assertEqual(in_parts(Sample(0), [[1, 2], [3]]), [])

    def test_valuesAreNotCompared(self) -> None:
        """
        Values that have no order can be drawn.
        """
        self.assertEqual(len(in_parts(Sample(3), [[{}, None, 1j] * 20, [object] * 5])), 3)

    def uniformity(self, draw: Callable[[], list[int]], population: int, rounds: int) -> float:
        """
        The chi-squared statistic of how often each value is drawn, scaled to have a mean of 1.
        """
        counts = Counter(value for _ in range(rounds) for value in draw())
        expected = sum(counts.values()) / population
        return sum((counts[value] - expected) ** 2 / expected for value in range(population)) / (population - 1)

    def test_uniform(self) -> None:
        """
        In one go, one by one, or in parts of very different sizes: each value is drawn equally often, within chance
        (a task's seed fixes what is drawn, so this can't fail at random).
        """
        task = _context.Task(7)
        _context.enter(task)
        self.addCleanup(_context.leave)
        values, sample = list(range(50)), Sample(5)
        for draw in (
            lambda: in_parts(sample, [values]),
            lambda: sequential(sample, values),
            lambda: in_parts(sample, [values[:2], values[2:45], values[45:]]),
        ):
            # With 49 degrees of freedom, 1.8 is passed by chance less than once in a thousand times.
            self.assertTrue(0.4 < self.uniformity(draw, 50, 2000) < 1.8)

    def test_pairs(self) -> None:
        """
        Pairs of values are equally likely too: what is passed over does not tie neighbours together.
        """
        task = _context.Task(8)
        _context.enter(task)
        self.addCleanup(_context.leave)

        def draw() -> list[int]:
            one, two = sorted(in_parts(Sample(2), [[0, 1, 2], [3, 4, 5, 6]]))
            return [one * 7 + two]

        pairs = Counter(draw()[0] for _ in range(4200))
        self.assertEqual(len(pairs), 21)
        statistic = sum((count - 200) ** 2 / 200 for count in pairs.values()) / 20
        self.assertTrue(0.2 < statistic < 2.3, statistic)

    def test_seed(self) -> None:
        """
        In a task, the seed and the chunk's number decide what is drawn, not what was folded before.
        """

        def drawn(index: int, before: list[int]) -> list[Any]:
            task = _context.Task(1)
            task.index = index
            sample = Sample(3)
            acc = sample.add_many(sample.zero(), before)
            _context.enter(task)
            try:
                merged = sample.add_many(acc, range(100))
            finally:
                _context.leave()
            return [entry for entry in merged if isinstance(entry[2], int) and entry[2] >= 0]

        alone = drawn(4, [])
        self.assertEqual(drawn(4, []), alone)
        self.assertNotEqual(drawn(5, []), alone)
        self.assertTrue(set(drawn(4, [-1] * 50)) <= set(alone))

    def test_withoutATask(self) -> None:
        """
        Outside a task the random module's own generator is used.
        """
        state = random.getstate()
        self.addCleanup(random.setstate, state)
        random.seed(3)
        one = in_parts(Sample(4), [list(range(1000))])
        random.seed(3)
        self.assertEqual(in_parts(Sample(4), [list(range(1000))]), one)

    def test_passesOver(self) -> None:
        """
        Of many values, few cost a random number.
        """
        task = _context.Task(1)
        drawn: list[float] = []
        source = random.Random(1)

        class Counting(random.Random):
            def random(self) -> float:
                drawn.append(source.random())
                return drawn[-1]

        task._random = (0, Counting())
        _context.enter(task)
        self.addCleanup(_context.leave)
        Sample(10).add_many([], range(100_000))
        self.assertTrue(20 < len(drawn) < 1000, len(drawn))

    def test_order(self) -> None:
        """
        The sample comes in random order: the first value drawn is any of them.
        """
        task = _context.Task(9)
        _context.enter(task)
        self.addCleanup(_context.leave)
        firsts = Counter(in_parts(Sample(4), [[0, 1], [2, 3]])[0] for _ in range(400))
        self.assertTrue(min(firsts[value] for value in range(4)) > 60, firsts)


class SpeedTests(SynchronousTestCase):
    def test_counterInC(self) -> None:
        """
        Merging a small accumulator into a large one, or the other way round, does not go through the large one.
        """
        looked_up: list[Any] = []

        class Watching(Counter):  # type: ignore[type-arg]
            def get(self, key: Any, default: Any = None) -> Any:
                looked_up.append(key)
                return super().get(key, default)

        large, small = Watching(range(1000)), Watching(range(995, 1005))
        for a, b in ((large.copy(), small), (small.copy(), large)):
            looked_up.clear()
            self.assertEqual(Counts().merge(a, b), Counter(range(1000)) + Counter(range(995, 1005)))
            self.assertEqual(len(looked_up), 10)
