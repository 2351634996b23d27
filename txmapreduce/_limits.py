"""
What the schedule says of limits that were overrun.
"""

from __future__ import annotations

from ._events import Attempt, MapAttempt
from .errors import TaskTimedOut

__all__ = ["timed_out"]


def timed_out(attempt: Attempt, limit: float | None) -> TaskTimedOut:
    """
    The error for an attempt that ran longer than the policy's C{task_timeout}.
    """
    chunk = attempt.first if isinstance(attempt, MapAttempt) else None
    what = "a reduce task" if chunk is None else f"chunk {chunk}"
    text = f"{what} ran longer than {limit:g} s (the policy's task_timeout) in attempt {attempt.attempt}"
    return TaskTimedOut(f"{text}; its worker was killed", chunk=chunk, attempt=attempt.attempt)
