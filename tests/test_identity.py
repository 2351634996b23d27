"""
Tests for L{txmapreduce._run.identity}.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests import support
from txmapreduce._run.identity import digest_of, digest_of_function

SCRIPT = """
    from txmapreduce._run.identity import digest_of, digest_of_function

    FACTOR = 3
    NAMES = {"b", "a", "c", "d", "e"}

    def helper(x):
        return x in {"x", "y", "z"}

    class Point:
        def norm(self):
            return helper(self) * FACTOR

    def make(n):
        return lambda x: Point().norm() + n

    def again(x):
        return again(x - 1) if x else NAMES

    for function in (helper, make(1), again, Point().norm, Point):
        print(digest_of_function(function).hex())
    print(digest_of([{"p", "q", "r", "s"}, ("x", 1.5)]).hex())
"""


def adder(n: Any) -> Any:
    return lambda x: x + n


class FunctionTests(SynchronousTestCase):
    def digests(self, source: str, seed: str) -> list[str]:
        path = support.script(self.mktemp(), source)
        done = support.python(str(path), PYTHONHASHSEED=seed)
        self.assertEqual(done.stderr, "")
        return done.stdout.split()

    def test_processes(self) -> None:
        """
        Functions of C{__main__}, closures and sets have the same digest in every process, from any folder and line.
        """
        first = self.digests(SCRIPT, "1")
        self.assertEqual(self.digests("\n\n    # moved" + SCRIPT, "2"), first)
        self.assertEqual(len(set(first)), len(first))

    def test_changes(self) -> None:
        """
        A changed constant, global, helper or method gives all functions that use it another digest, and no other.
        """
        first = self.digests(SCRIPT, "1")
        for old, new, kept in (
            ("FACTOR = 3", "FACTOR = 4", [0, 2, 5]),
            ('"x", "y", "z"', '"x", "y"', [2, 5]),
            ("make(1)", "make(2)", [0, 2, 3, 4, 5]),
            ('"d", "e"', '"d"', [0, 1, 3, 4, 5]),
        ):
            changed = self.digests(SCRIPT.replace(old, new), "1")
            self.assertEqual([n for n in range(6) if changed[n] == first[n]], kept, old)

    def test_closures(self) -> None:
        """
        What a function has closed over counts.
        """
        self.assertEqual(digest_of_function(adder(1)), digest_of_function(adder(1)))
        self.assertNotEqual(digest_of_function(adder(1)), digest_of_function(adder(1.0)))


class DataTests(SynchronousTestCase):
    def test_identity(self) -> None:
        """
        Equal data has one digest, whether or not it is one object; other data, or another type, has another.
        """
        a, b = "".join(["x", "y"]), "".join(["x", "y"])
        self.assertEqual(digest_of([a, a]), digest_of([a, b]))
        self.assertEqual(len({digest_of(value) for value in ([1], [1.0], [True], (1,), ["1"], {1}, frozenset({1}))}), 7)

    def test_cycle(self) -> None:
        """
        A list that contains itself has a digest, too.
        """
        loop: list[Any] = [1]
        loop.append(loop)
        self.assertEqual(digest_of(loop), digest_of(loop))
