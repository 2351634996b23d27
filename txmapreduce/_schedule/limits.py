"""
The time that attempts have, the bad records that a run may have, and what is said where it is more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from ..errors import TaskFailed, TaskTimedOut
from .events import Attempt, BadRecord, MapAttempt

__all__ = ["HAIR", "Deadlines", "timed_out", "too_many"]

HAIR = 0.001
"""Seconds by which a clock may be early: what was added to the time does not come out of it to the last bit."""


class Deadlines:
    """
    When attempts have to have ended, all of which have the same time.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._at: dict[int, float] = {}  # in the order of their time

    def began(self, id: int, now: float) -> float | None:
        """
        The attempt begins to run. When it has to have ended.
        """
        if self._limit is None:
            return None
        self._at.pop(id, None)
        self._at[id] = now + self._limit
        return self._at[id]

    def ended(self, id: int) -> None:
        """
        The attempt has ended.
        """
        self._at.pop(id, None)

    def overrun(self, now: float) -> tuple[list[int], float | None]:
        """
        Take out the attempts whose time is over; and when to look again.
        """
        late = [id for id, _ in takewhile(lambda one: one[1] <= now + HAIR, self._at.items())]
        for id in late:
            del self._at[id]
        return late, next(iter(self._at.values()), None)


def timed_out(attempt: Attempt, limit: float | None) -> TaskTimedOut:
    """
    The error for an attempt that ran longer than the policy's C{task_timeout}.
    """
    chunk = attempt.first if isinstance(attempt, MapAttempt) else None
    what = "a reduce task" if chunk is None else f"chunk {chunk}"
    text = f"{what} ran longer than {limit:g} s (the policy's task_timeout) in attempt {attempt.attempt}"
    return TaskTimedOut(f"{text}; its worker was killed", chunk=chunk, attempt=attempt.attempt)


def too_many(bad: Sequence[BadRecord], limit: int | None, attempt: MapAttempt) -> TaskFailed | None:
    """
    The error for more bad records than the policy's C{max_bad_records}, where there are more.
    """
    if limit is None or len(bad) <= limit:
        return None
    text = f"more than {limit} bad records (the policy's max_bad_records); the last: {bad[-1].reason}"
    return TaskFailed(text, chunk=attempt.first, attempt=attempt.attempt)
