"""
The way through the input: what is read next, and how much.

A L{Sizer} says how large the next task is: from the measured time per record towards a target time, and smaller towards
the end. A L{Reading} numbers the chunks and knows which records may still be needed.

A I{unit} is what the input is cut in: a record where the sizes are automatic, a chunk where the user fixed the number
of records in it. Splits of files have their size already, but small ones that follow each other are read as one.
"""

from __future__ import annotations

from .delivery import Delivery
from .events import Drop, Got, MapAttempt, Outcome, Plan, Read

__all__ = ["LARGEST", "LARGEST_STREAMED", "TARGET", "Reading", "Sizer"]

TARGET = 0.08
"""Seconds that a task should take: long against the 0.5 ms that one costs a coordinator that was idle meanwhile, so
that it needs less than 1 % of the CPU of two workers; short for a person."""

SHORTEST = 0.002
"""Seconds under which a task is not made smaller towards the end: more tasks would cost more than they even out."""

GROWTH = 16
"""How many times as large as what has been measured the next task may be: one slow record in a new region then does
little harm."""

LARGEST = 16_384
"""Units of one task at the most, so that it is read, encoded and decoded in a few milliseconds."""

LARGEST_STREAMED = 4096
"""Records of one task at the most where results are taken one by one: what is read ahead of the reader are some such
tasks, and each still costs little beside its records."""

MOST_BYTES = 4 << 20
"""Bytes that a task should take in or give back at the most."""

_SMOOTHING = 0.4


class Sizer:
    """
    Says how many units the next task should have.
    """

    def __init__(self, workers: int, length: int | None, target: float = TARGET) -> None:
        """
        @param length: how many units the input has, where that is known.
        @param target: seconds that a task should take.
        """
        self.workers = workers
        self._target = target
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
        size = min(self._target / self._seconds, GROWTH * self._measured, LARGEST)
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

    def remain(self, units: int) -> None:
        """
        The input has C{units} more.
        """
        self._left = units

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


class Reading:
    """
    One run's way through its input.

    @ivar next_chunk: the number of the next chunk. C{ended}: there will be none.
    @ivar pending: a L{Read} has not been answered yet.
    """

    def __init__(self, plan: Plan) -> None:
        length, size = plan.length, plan.chunksize
        self._plan = plan
        units = length if length is None or size is None else -(-length // size)
        self._sizer = Sizer(1, units, plan.task_seconds)
        self._joined: dict[int, int] = {}  # of each lot, how many splits are one there
        self._next_lot = 0
        self._records_read = 0
        self._needed: dict[int, int] = {}  # of each lot, how many chunks have no result yet that is secure
        self.next_chunk = 0
        self.ended = False
        self.pending = False

    def resize(self, workers: int) -> None:
        """
        So many workers share what is left.
        """
        self._sizer.workers = max(1, workers)

    def measured(self, attempt: MapAttempt, outcome: Outcome) -> None:
        """
        What an attempt took.
        """
        units = outcome.records if self._plan.chunksize is None else attempt.count
        if self._plan.joins:
            units = self._joined.pop(attempt.lot, 0)
        self._sizer.measured(units, outcome.seconds, outcome.nbytes)

    def room(self, window: int, delivery: Delivery, accepted: int) -> int:
        """
        How many chunks may be read now.

        @param window: how many attempts may be under way.
        @param accepted: how many chunks have results that count.
        """
        streams, limit = self._plan.streams, self._plan.buffersize
        if self.ended or self.pending:
            return 0
        if limit is not None:
            return limit - self.next_chunk + (delivery.taken if streams else accepted)
        return 0 if streams and delivery.waiting >= window else LARGEST

    def ask(self, room: int) -> Read:
        """
        What to read next: C{room} chunks at the most.
        """
        self.pending = True
        self._next_lot += 1
        return Read(self._next_lot - 1, self._records(room))

    def _records(self, room: int) -> int:
        size = self._plan.chunksize
        if self._plan.splits:
            return self._sizer.next() if self._plan.joins else 1
        most = LARGEST_STREAMED if self._plan.streams else LARGEST
        if size is None:
            return min(self._sizer.next(), most)
        return size * (min(room, self._sizer.next(), max(1, most // size)) if self._plan.bundle else 1)

    def got(self, event: Got, id: int) -> MapAttempt | None:
        """
        Number the chunks of what came. The attempt that maps them, with this C{id}.
        """
        self.pending, self.ended = False, event.ended
        if not event.records:
            return None
        plan, first = self._plan, self.next_chunk
        size = plan.chunksize
        count = 1 if size is None or plan.splits else -(-event.records // size)
        self._sizer.taken(event.records if size is None else count)
        if plan.joins:
            self._joined[event.lot] = event.records
            if event.left is not None:
                self._sizer.remain(event.left)
        self._needed[event.lot] = count
        self.next_chunk += count
        whole = 0 if plan.splits else event.records
        hold = not plan.ordered and not plan.collects
        origin = event.name if plan.splits else self._records_read
        self._records_read += whole
        return MapAttempt(id, 1, event.lot, first, count, size or whole, hold, origin=origin)

    def release(self, attempt: MapAttempt) -> list[Drop]:
        """
        The records of C{attempt} are not needed again: nor is its lot, when that was the last of it.
        """
        self._needed[attempt.lot] -= attempt.count
        if self._needed[attempt.lot]:
            return []
        del self._needed[attempt.lot]
        return [Drop(attempt.lot)]
