"""
Tests for L{txmapreduce._schedule.checked}: a schedule that is wrong is found out.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.support import python
from txmapreduce._schedule.checked import CheckedSchedule, schedule_of
from txmapreduce._schedule.events import Abort, Capacity, Finished, Got, Outcome, Plan
from txmapreduce._schedule.schedule import Schedule


class CheckedTests(SynchronousTestCase):
    def test_wrong(self) -> None:
        """
        Chunks that are counted twice, or forgotten at the end, end the run with an AssertionError.
        """
        for number in 5, -1:
            schedule = CheckedSchedule(Plan(True, False, chunksize=1), 0.0)
            schedule.handle(Capacity(1), 0.0)
            schedule.handle(Got(0, 1, True), 0.0)
            schedule.tally.chunks = number
            (end,) = schedule.handle(Finished(1, Outcome("h")), 0.1)
            assert isinstance(end, Abort)
            self.assertIsInstance(end.error, AssertionError)

    def test_right(self) -> None:
        """
        One that is right says the same as without checks.
        """
        events = [Capacity(1), Got(0, 1, True), Finished(1, Outcome("h"))]
        plan = Plan(True, False, chunksize=1)
        one, other = CheckedSchedule(plan, 0.0), Schedule(plan, 0.0)
        self.assertEqual([one.handle(event, 0.1) for event in events], [other.handle(event, 0.1) for event in events])

    def test_whenAskedFor(self) -> None:
        """
        Checks are made in Python's development mode only.
        """
        self.assertIs(type(schedule_of(Plan(True, False), 0.0)), Schedule)
        code = (
            "from txmapreduce._schedule.checked import schedule_of\n"
            "from txmapreduce._schedule.events import Plan\n"
            "print(type(schedule_of(Plan(True, False), 0.0)).__name__)"
        )
        self.assertEqual(python("-X", "dev", "-c", code).stdout, "CheckedSchedule\n")
