"""
How large the next task is: from the measured time per record towards a target time, and smaller towards the end.

A I{unit} is what the input is cut in: a record where the sizes are automatic, a chunk where the user fixed the number
of records in it. Splits of files have their size already.
"""

from __future__ import annotations

__all__ = ["Sizer"]

TARGET = 0.04
"""Seconds that a task should take: long against the 0.2 ms that one costs the coordinator, short for a person."""

SHORTEST = 0.002
"""Seconds under which a task is not made smaller towards the end: more tasks would cost more than they even out."""

GROWTH = 16
"""How many times as large as what has been measured the next task may be: one slow record in a new region then does
little harm."""

LARGEST = 65_536
"""Units of one task at the most, so that its results are decoded in some milliseconds."""

MOST_BYTES = 4 << 20
"""Bytes that a task should take in or give back at the most."""

_SMOOTHING = 0.4


class Sizer:
    """
    Says how many units the next task should have.
    """

    def __init__(self, workers: int, length: int | None) -> None:
        """
        @param length: how many units the input has, where that is known.
        """
        self.workers = workers
        self._left = length
        self._seconds: float | None = None
        self._bytes = 0.0
        self._measured = 0

    def next(self) -> int:
        """
        The number of units for the next task: at least 1.
        """
        if self._seconds is None:
            return 1
        size = min(TARGET / self._seconds, GROWTH * self._measured, LARGEST)
        if self._bytes:
            size = min(size, MOST_BYTES / self._bytes)
        if self._left is not None:
            share = self._left / (2 * self.workers)
            size = min(size, max(share, SHORTEST / self._seconds))
        return max(1, int(size))

    def taken(self, units: int) -> None:
        """
        C{units} have left the input.
        """
        if self._left is not None:
            self._left = max(0, self._left - units)

    def measured(self, units: int, seconds: float, nbytes: int) -> None:
        """
        A task of C{units} took C{seconds} of work; the larger of its input and its output had C{nbytes}.
        """
        if not units:
            return
        each = max(seconds / units, 1e-9)
        if self._seconds is None or units > 4 * self._measured:
            # What a few units say about many is mostly noise and first-time costs: a larger sample replaces it.
            self._seconds, self._bytes = each, nbytes / units
        else:
            self._seconds += _SMOOTHING * (each - self._seconds)
            self._bytes += _SMOOTHING * (nbytes / units - self._bytes)
        self._measured = max(self._measured, units)
