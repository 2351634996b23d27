"""
Tests for L{txmapreduce._schedule.backups}: who is a straggler, and what comes of backups.
"""

from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tests.test_schedule import Case, broke, done, mapping
from txmapreduce._schedule.backups import FACTOR, LEAST, Backups, may_repeat
from txmapreduce._schedule.events import (
    Abort,
    Capacity,
    Conclude,
    Deliver,
    Drop,
    FoldAttempt,
    Got,
    Kill,
    MapAttempt,
    Read,
    Started,
    Submit,
    Tick,
    Wake,
)


def attempt(id: int, first: int = 0, count: int = 1) -> MapAttempt:
    return MapAttempt(id, 1, 0, first, count, 1, False)


class StragglerTests(SynchronousTestCase):
    """
    Attempts that take unusually long.
    """

    def backups(self, *usual: float) -> Backups:
        """
        What has seen attempts of C{usual} seconds, and three that began at 0, 1 and 2.
        """
        made = Backups()
        for id, seconds in enumerate(usual, 100):
            made.began(id, 0.0)
            made.ended(id, seconds, well=True)
        for id in range(3):
            made.began(id, float(id))
        return made

    def found(self, backups: Backups, now: float, most: int = 9) -> tuple[list[int], float | None]:
        slow, at = backups.stragglers({id: attempt(id) for id in (2, 1, 0)}, Counter(), 1, most, now)
        return [attempt.id for attempt in slow], at

    def test_nothingToCompareWith(self) -> None:
        """
        As long as none has ended well nobody knows what is unusual.
        """
        backups = self.backups()
        backups.ended(7, 9.0, well=False)
        backups.ended(8, 9.0, well=True)  # when that began nobody knows
        self.assertEqual(self.found(backups, 1000.0), ([], None))

    def test_short(self) -> None:
        """
        Where attempts are short, one has C{LEAST} seconds.
        """
        backups = self.backups(0.01, 0.02)
        self.assertEqual(self.found(backups, LEAST - 0.01), ([], LEAST))
        self.assertEqual(self.found(backups, LEAST), ([0], 1 + LEAST))

    def test_usual(self) -> None:
        """
        Otherwise it has C{FACTOR} times the median, and the slowest comes first.
        """
        backups = self.backups(1.0, 2.0, 90.0)
        self.assertEqual(self.found(backups, FACTOR * 2 - 0.01), ([], FACTOR * 2))
        self.assertEqual(self.found(backups, FACTOR * 2 + 1), ([0, 1], FACTOR * 2 + 2))
        self.assertEqual(self.found(backups, 1000.0), ([0, 1, 2], None))
        self.assertEqual(self.found(backups, 1000.0, 2), ([0, 1], None))
        backups.began(0, 3.0)
        self.assertEqual(self.found(backups, 1000.0, 2), ([1, 2], None))

    def test_twins(self) -> None:
        """
        An attempt and its backup have no other, as long as both run.
        """
        backups = self.backups(0.01)
        backups.pair(0, 1)
        self.assertEqual(self.found(backups, 1000.0), ([2], None))
        self.assertEqual(backups.ended(1, 5.0, well=False), 0)
        self.assertEqual(self.found(backups, 1000.0), ([0, 2], None))
        self.assertIs(backups.ended(0, 5.0, well=True), None)

    def test_budget(self) -> None:
        """
        A chunk that has broken before has no backup, nor has a fold, nor any where one attempt is all.
        """
        running = [attempt(1, 0, 3), attempt(2, 3), FoldAttempt(3, 1, (), None, False)]
        self.assertFalse(any(may_repeat(attempt, Counter(), retries=0) for attempt in running))
        for charges, expected in ({}, [1, 2]), ({2: 1}, [2]), ({3: 1}, [1]), ({1: 2, 3: 2}, []):
            found = [attempt.id for attempt in running if may_repeat(attempt, Counter(charges), retries=2)]
            self.assertEqual(found, expected, charges)


class RaceTests(Case):
    """
    A run with a straggler: chunk 1 of three, on two workers.
    """

    def race(self, **plan: object) -> None:
        """
        Until the backup, attempt 4, is submitted.
        """
        self.begin(**{"speculate": True, "retries": 1, **plan})
        self.tell(Capacity(2), Got(0, 1, False), Got(1, 1, False), Got(2, 1, True))
        self.tell(Started(1), Started(2))
        self.assertIn(Wake(LEAST), self.tell(done(1), now=0.01))  # attempt 3 does not run yet
        self.says(Started(3), done(3), then=[Drop(2)], now=0.02)
        self.says(Tick(), then=[mapping(4, 1, attempt=2, backup=True)], now=LEAST)
        self.tell(Started(4), now=LEAST)

    def test_backupWins(self) -> None:
        """
        The result of the backup counts, the other attempt is stopped, and nobody listens to it any more.
        """
        self.race()
        said = self.tell(done(4), now=0.6)
        self.assertEqual([type(one) for one in said], [Kill, Drop, Deliver, Deliver, Conclude])
        self.assertEqual(said[0].id, 2)  # type: ignore[union-attr]
        self.assertEqual(self.schedule.tally.chunks, 3)
        self.assertEqual(self.tell(done(2), broke(2, 1), now=0.7), [])

    def test_backupLoses(self) -> None:
        """
        So it is the other way round.
        """
        self.race()
        said = self.tell(done(2), now=0.6)
        self.assertEqual((type(said[0]), said[0].id), (Kill, 4))  # type: ignore[union-attr]
        self.assertEqual(self.schedule.tally.chunks, 3)

    def test_oneBreaks(self) -> None:
        """
        When one of the two breaks nothing is tried again, for the other is at it; when that breaks as well, the
        attempts of the chunk are used up.
        """
        for first, second in (2, 4), (4, 2):
            self.race()
            said = self.tell(broke(first, 1), now=0.6)
            self.assertTrue(all(isinstance(one, Wake) for one in said), said)
            said = self.tell(broke(second, 1), now=0.7)
            self.assertEqual([type(one) for one in said], [Abort])

    def test_notWanted(self) -> None:
        """
        There is no backup where the policy says so, where it would be one attempt too many, where a worker may keep
        what it folds, and as long as all workers are busy.
        """
        for plan in {"speculate": False}, {"retries": 0}, {"collects": False}:
            self.begin(**{"speculate": True, **plan})
            self.tell(Capacity(2), Got(0, 1, False), Got(1, 1, True), Started(1), Started(2))
            self.tell(done(1), now=0.01)
            said = self.tell(Tick(), now=9.0)
            self.assertEqual([one for one in said if isinstance(one, Submit)], [], plan)
        self.begin(speculate=True)
        self.tell(Capacity(1), Got(0, 1, False), Got(1, 1, True), Started(1))
        self.tell(done(1), Started(2), now=0.01)
        self.assertEqual([type(one) for one in self.tell(Tick(), now=9.0)], [])

    def test_behindTheStraggler(self) -> None:
        """
        An attempt that waits in the pipe of a straggler holds no worker, and is no straggler itself.
        """
        self.begin(speculate=True)
        self.tell(Capacity(2), Got(0, 1, False), Got(1, 1, False), Got(2, 1, True), Started(1), Started(2))
        self.tell(done(1), now=0.01)
        (backup,) = (one.attempt for one in self.tell(Tick(), now=9.0) if isinstance(one, Submit))
        self.assertEqual(backup, mapping(4, 1, attempt=2, backup=True).attempt)

    def test_moreToRead(self) -> None:
        """
        There is none as long as input may come.
        """
        self.begin(speculate=True)
        self.tell(Capacity(2), Got(0, 1, False), Got(1, 1, False), Started(1), Started(2))
        said = self.tell(done(1), Tick(), now=9.0)
        self.assertEqual({type(one) for one in said} - {Drop, Deliver, Read}, set())
