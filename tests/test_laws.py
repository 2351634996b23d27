"""
The laws for classes of a script, and for numbers of workers. (The others are in L{tests.test_conformance}.)
"""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from tests.support import PoolCase, python, script
from txmapreduce import Processes
from txmapreduce.testing._reproducible import ReproducibleCases


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


class OneWorkerTests(ReproducibleCases, PoolCase):
    """
    One worker gives what any number does.
    """

    def backend(self) -> Processes:
        return self.processes(1)


class ThreeWorkersTests(ReproducibleCases, PoolCase):
    """
    So do three.
    """

    def backend(self) -> Processes:
        return self.processes(3)
