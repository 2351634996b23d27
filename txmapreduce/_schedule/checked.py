"""
A schedule that checks, after each event, that it keeps its promises: for the simulator, and for runs in Python's
development mode (C{python -X dev}, C{PYTHONDEVMODE=1}). What does not hold ends the run with an C{AssertionError}.
"""

from __future__ import annotations

import sys

from .events import Abort, Conclude, Event, Instruction, MapAttempt, Plan, Submit
from .schedule import Schedule

__all__ = ["CheckedSchedule", "schedule_of"]


def schedule_of(plan: Plan, now: float) -> Schedule:
    """
    The schedule of a run.
    """
    return CheckedSchedule(plan, now) if sys.flags.dev_mode else Schedule(plan, now)


class CheckedSchedule(Schedule):
    """
    The same, with assertions.
    """

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """
        See L{Schedule.handle}.
        """
        over = self.over
        out = super().handle(event, now)
        try:
            self._check_numbers()
            self._check_end(out, over)
            self._check_submits(out)
        except AssertionError as error:
            self.over = True
            return [Abort(error)]
        return out

    def _check_submits(self, out: list[Instruction]) -> None:
        for instruction in out:
            if isinstance(instruction, Submit):
                _need(instruction.attempt.id in self._running, f"{instruction} is not known to run")

    def _check_numbers(self) -> None:
        maps = sum(isinstance(attempt, MapAttempt) for attempt in self._running.values())
        _need(self._mapping == maps, f"{maps} maps run, not {self._mapping}")
        _need(0 <= self.tally.chunks <= self.next_chunk, f"{self.tally.chunks} chunks count of {self.next_chunk}")
        _need(self.tally.records >= 0, f"{self.tally.records} records count")

    def _check_end(self, out: list[Instruction], over: bool) -> None:
        _need(not (over and out), f"{out} after the end")
        ends = [instruction for instruction in out if isinstance(instruction, (Conclude, Abort))]
        _need(len(ends) == (self.over and not over), f"{ends}, and the run is {'over' if self.over else 'under way'}")
        if ends and isinstance(ends[0], Conclude):
            _need(self.tally.chunks == self.chunks_total, f"{self.tally.chunks} chunks of {self.chunks_total} count")
            _need(not self._waiting and not self._mapping, "it has ended, and chunks wait")


def _need(holds: bool, text: str) -> None:
    if not holds:
        raise AssertionError(text)
