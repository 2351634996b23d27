"""
Tests for L{txmapreduce._schedule.pieces}: who is to blame, and chunks that are put together from pieces.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._schedule.events import BadRecord, Broke, MapAttempt, Outcome, Plan
from txmapreduce._schedule.pieces import Blame, Pieces
from txmapreduce.errors import TaskFailed, WorkerDied

DIED = WorkerDied("it died\nin two lines")


def attempt(first: int = 3, count: int = 1, size: int = 10, **more: object) -> MapAttempt:
    return MapAttempt(1, 1, 0, first, count, size, False, origin=first * size, **more)  # type: ignore[arg-type]


def broke(record: int | None = None, memory: bool = False, charge: bool = True) -> Broke:
    return Broke(1, DIED, True, charge, 3, memory, record)


class PiecesTests(SynchronousTestCase):
    """
    Pieces of chunks.
    """

    def test_together(self) -> None:
        """
        What pieces gave is there when the last is there, in input order; nothing where a record is left out.
        """
        pieces = Pieces()
        before, at, behind = pieces.cut(attempt(), 4)
        self.assertEqual([(piece.start, piece.stop) for piece in (before, at, behind)], [(0, 4), (4, 5), (5, None)])
        first, last = pieces.cut(behind, 5)
        self.assertEqual([(first.start, first.stop), (last.start, last.stop)], [(5, 6), (6, None)])
        one, two, three = map(Outcome, "abc")
        self.assertIs(pieces.put(last, three), None)
        self.assertIs(pieces.put(at, None), None)
        self.assertIs(pieces.put(before, one), None)
        self.assertEqual(pieces.put(first, two), [one, two, three])
        self.assertNotIn(first, pieces)

    def test_whole(self) -> None:
        """
        A chunk that was never cut is there at once.
        """
        self.assertEqual(Pieces().put(attempt(), Outcome("a")), [Outcome("a")])


class BlameTests(SynchronousTestCase):
    """
    What follows when an attempt breaks.
    """

    def judge(self, attempt: MapAttempt, event: Broke, **plan: object) -> list[MapAttempt] | BadRecord | None:
        blame = Blame(Plan(False, True, **plan), Pieces())  # type: ignore[arg-type]
        blame.charges[3] = attempt.attempt - 1
        return blame.judge(attempt, event)

    def test_carefully(self) -> None:
        """
        The chunk that killed its worker goes again carefully, unless that was its function's own exception.
        """
        self.assertEqual(self.judge(attempt(), broke()), self.again(2))
        event = Broke(1, TaskFailed("it raised"), True, True, 3)
        (again,) = self.judge(attempt(), event)  # type: ignore[union-attr, misc]
        self.assertFalse(again.careful)

    def again(self, number: int) -> list[MapAttempt]:
        return [MapAttempt(1, number, 0, 3, 1, 10, False, careful=True)]

    def test_used_up(self) -> None:
        """
        Where bad records are not left out there are C{retries + 1} attempts, careful ones among them. What was nobody's
        fault is made again even then.
        """
        careful = MapAttempt(1, 3, 0, 3, 1, 10, False, careful=True)
        self.assertIs(self.judge(careful, broke(5), retries=2), None)
        self.assertIs(self.judge(careful, broke(5, memory=True), retries=2), None)
        self.assertEqual(self.judge(careful, broke(charge=False), retries=0), self.again(3))

    def test_left_out(self) -> None:
        """
        Where they are, whatever C{retries} says: the record that was noted is put by itself, and left out when it
        kills again.
        """
        plan = {"retries": 0, "skips": True}
        self.assertEqual(self.judge(attempt(), broke(), **plan), self.again(2))
        (careful,) = self.again(2)
        pieces = self.judge(careful, broke(5), **plan)
        assert isinstance(pieces, list)
        self.assertEqual([(one.start, one.stop, one.attempt) for one in pieces], [(0, 5, 3), (5, 6, 3), (6, None, 3)])
        bad = self.judge(pieces[1], broke(5), **plan)
        self.assertEqual(bad, BadRecord(3, 5, "WorkerDied: it died", "record 5 of the input"))

    def test_nonsense(self) -> None:
        """
        A note of a record that was not in the piece says nothing: then attempts count as usual.
        """
        for record in (-5, 2, 6, 1 << 60):
            piece = MapAttempt(1, 1, 0, 3, 1, 10, False, careful=True, start=3, stop=6)
            self.assertIs(self.judge(piece, broke(record), retries=0, skips=True), None)

    def test_memory(self) -> None:
        """
        What ran out of memory goes on in pieces, each alone, unless its function needs all of a chunk at once.
        """
        (careful,) = self.again(2)
        pieces = self.judge(careful, broke(5, memory=True))
        assert isinstance(pieces, list)
        self.assertEqual([(one.start, one.alone) for one in pieces], [(0, True), (5, True), (6, True)])
        (whole,) = self.judge(careful, broke(5, memory=True), whole=True)  # type: ignore[union-attr, misc]
        self.assertEqual((whole.start, whole.stop, whole.alone), (0, None, True))
