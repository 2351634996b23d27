"""
The laws: what each kind of job means in plain Python, and that every backend gives exactly that.
"""

from __future__ import annotations

import json
import operator
import struct
from typing import Any

from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support import PoolCase, python, script
from txmapreduce import Inline, MapReduce, Policy, Processes
from txmapreduce.aggregates import Mean, Sample, Sum, Variance
from txmapreduce.testing.functions import (
    drawn,
    noisy,
    noisy_pairs,
    square,
)


class InlineLaws(LawCases, TestCase):
    """
    The laws in this process.
    """

    timeout = 60
    examples = 40

    def backend(self) -> Inline:
        return Inline()


class ProcessesLaws(LawCases, PoolCase):
    """
    The laws in worker processes.
    """

    examples = 12

    def backend(self) -> Processes:
        return self.pool


class MainTests(SynchronousTestCase):
    """
    Functions and classes of a script's own.
    """

    def test_classesOfTheScript(self) -> None:
        """
        Instances of classes defined in C{__main__} come back as instances of those very classes.
        """
        path = script(
            self.mktemp(),
            """
            import enum, json
            from collections import namedtuple
            from dataclasses import dataclass
            from txmapreduce import MapReduce, Policy
            from txmapreduce.aggregates import Aggregate

            @dataclass
            class Point:
                x: int
                def moved(self):
                    return Point(self.x + STEP)

            class Colour(enum.Enum):
                RED = 1
                BLUE = 2

            class Child(Point):
                pass

            Pair = namedtuple("Pair", "a b")
            STEP = 10

            class Longest(Aggregate):
                def zero(self):
                    return ""
                def add(self, acc, value):
                    return value if len(value) > len(acc) else acc
                merge = add

            class Oops(Exception):
                def __init__(self, a, b):
                    super().__init__(a, b)

            def helper(x):
                return x * STEP

            def uses_globals(x):
                return helper(x) + STEP

            def fails(x):
                raise Oops(x, "b")

            def main():
                policy = Policy(chunksize=2)
                points = MapReduce(lambda n: Point(n).moved(), policy=policy).run_sync(range(6))
                assert points == [Point(n + 10) for n in range(6)], points
                assert {type(p) for p in points} == {Point}
                back = MapReduce(Point.moved, policy=policy).run_sync(points)
                assert {type(p) for p in back} == {Point} and back[0].x == 20, back
                (child,) = MapReduce(lambda n: Child(n)).run_sync([1])
                assert type(child) is Child and isinstance(child, Point)
                colours = MapReduce(lambda n: Colour(n)).run_sync([1, 2])
                assert colours == [Colour.RED, Colour.BLUE] and colours[0] is Colour.RED
                (pair,) = MapReduce(lambda n: Pair(n, 2)).run_sync([1])
                assert type(pair) is Pair
                counts = MapReduce(lambda n: [(Colour(1 + n % 2), Point(1))],
                    reduce_by_key=lambda a, b: Point(a.x + b.x), policy=policy).run_sync(range(10))
                assert counts == {Colour.RED: Point(5), Colour.BLUE: Point(5)}, counts
                assert MapReduce(uses_globals).run_sync([1, 2]) == [20, 30]
                assert MapReduce(str, reduce=Longest()).run_sync([1, 100, 10]) == "100"
                assert MapReduce(lambda n: n, reduce=lambda a, b: a + b).run_sync([1, 2]) == 3
                try:
                    MapReduce(fails).run_sync([1])
                except Exception as error:
                    assert type(error.__cause__) is Oops, repr(error.__cause__)
                    assert error.__cause__.args == (1, "b")
                print(json.dumps("all is well"))

            if __name__ == "__main__":
                main()
            """,
        )
        done = python(str(path))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(json.loads(done.stdout), "all is well")


# Reproducible


def bits(value: Any) -> Any:
    """
    A float as its bits, which tell more than C{==}.
    """
    if isinstance(value, float):
        return struct.pack(">d", value).hex()
    if isinstance(value, dict):
        return {key: bits(number) for key, number in value.items()}
    return [bits(number) for number in value] if isinstance(value, list) else value


class ReproducibleTests(PoolCase):
    """
    C{reproducible} and C{seed}.
    """

    def setUp(self) -> None:
        self.backends = [self.processes(1), self.processes(2), self.processes(3), Inline()]

    async def test_floats(self) -> None:
        """
        With C{reproducible}, sums of floats are equal to the last bit for any number of workers, and in this process.
        """
        for chunksize in (None, 7):
            policy = Policy(reproducible=True, chunksize=chunksize)
            for mapper, options in (
                (noisy, {"reduce": operator.add}),
                (noisy, {"reduce": operator.add, "initial": 0.1}),
                (noisy, {"reduce": Sum()}),
                (noisy, {"reduce": Mean()}),
                (noisy, {"reduce": Variance()}),
                (noisy_pairs, {"reduce_by_key": operator.add}),
                (noisy_pairs, {"reduce_by_key": Mean()}),
            ):
                job = MapReduce(mapper, **options, policy=policy)  # type: ignore[arg-type]
                results = [bits(await job.run(range(900), backend=backend)) for backend in self.backends]
                self.assertEqual(results, results[:1] * len(results), f"{options} {chunksize}")

    async def test_random(self) -> None:
        """
        With a seed, C{current_task().random} depends on the seed and on the chunk's number alone.
        """
        for chunksize in (None, 10):
            job = MapReduce(drawn, policy=Policy(seed=5, chunksize=chunksize))
            results = [await job.run(range(2000), backend=backend) for backend in self.backends]
            self.assertEqual(results, results[:1] * len(results))
            firsts = dict(reversed(results[0]))
            self.assertEqual(sorted(firsts), list(range(2000 // (chunksize or 1000))))
            self.assertEqual(len(set(firsts.values())), len(firsts))
            other = await MapReduce(drawn, policy=Policy(seed=6, chunksize=chunksize)).run(
                range(2000), backend=self.backends[1]
            )
            self.assertNotEqual(other, results[0])

    async def test_sampleWithSeed(self) -> None:
        """
        With a seed a sample is the same for any number of workers.
        """
        job = MapReduce(square, reduce=Sample(5), policy=Policy(seed=3, chunksize=50))
        results = [await job.run(range(2000), backend=backend) for backend in self.backends]
        self.assertEqual(results, results[:1] * len(results))

    async def test_noSeed(self) -> None:
        """
        Without a seed each run draws other numbers.
        """
        job = MapReduce(drawn, policy=Policy(chunksize=10))
        for backend in self.backends:
            self.assertNotEqual(await job.run(range(30), backend=backend), await job.run(range(30), backend=backend))
