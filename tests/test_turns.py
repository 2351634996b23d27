"""
Tests for L{txmapreduce._run.turns}, with a clock.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._run.turns import LEAST, SLICE, Turns


class TurnsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)

    def length(self) -> float:
        """
        How long the next slice is.
        """
        over, began = self.turns.begin(), self.clock.seconds()
        while not over():
            self.clock.rightNow += SLICE / 1000  # time goes by, the reactor does not turn
        return self.clock.seconds() - began

    def after(self, others: float) -> float:
        """
        How long a slice is that comes after others have worked for so many seconds.
        """
        lengths: list[float] = []
        self.turns.later(lambda: lengths.append(self.length()))
        self.clock.rightNow += others
        self.clock.advance(0)
        (length,) = lengths
        return length

    def test_alone(self) -> None:
        """
        Where nothing else wants the reactor, slices have their full length.
        """
        self.assertAlmostEqual(self.length(), SLICE, 4)
        self.assertAlmostEqual(self.after(0), SLICE, 4)

    def test_busy(self) -> None:
        """
        The longer others work, the shorter is the slice that comes then; but something is always done.
        """
        self.assertAlmostEqual(self.after(SLICE), SLICE / 2, 4)
        self.assertAlmostEqual(self.after(4 * SLICE), SLICE / 5, 4)
        self.assertAlmostEqual(self.after(1000), LEAST, 4)

    def test_free_again(self) -> None:
        """
        When the others have less to do, slices grow again.
        """
        self.after(1)
        self.assertAlmostEqual(self.after(0), SLICE, 4)

    def test_cancelled(self) -> None:
        """
        What was to go on later can be taken back.
        """
        calls: list[Callable[[], object]] = []
        self.turns.later(lambda: calls.append(self.length)).cancel()
        self.clock.advance(1)
        self.assertEqual(calls, [])
