"""
Chunks that are mapped in pieces, because a record in them kills its worker or needs more memory than there is.

A chunk whose worker died goes again by itself, and carefully: the worker notes down each record before it takes it up.
When that dies as well, the record that was noted is put in a piece of its own, between what comes before it and what
comes behind. So a record is to blame only if it kills a worker that does nothing else; and what was merely too much
together has the memory and the time of three. What pieces gave counts when the last piece of the chunk is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from ..errors import TaskFailed
from .events import BadRecord, Broke, MapAttempt, Outcome, Plan

__all__ = ["Blame", "Pieces"]


class Pieces:
    """
    The pieces of a run's chunks, and what they gave.
    """

    def __init__(self) -> None:
        self._chunks: dict[int, dict[int, Outcome | None]] = {}  # of each chunk, by where the piece starts
        self._open: dict[int, int] = {}  # how many of its pieces have not been put back

    def __contains__(self, attempt: MapAttempt) -> bool:
        return attempt.first in self._chunks

    def cut(self, attempt: MapAttempt, record: int) -> list[MapAttempt]:
        """
        Up to three attempts in place of one.
        """
        edges = [(attempt.start, record), (record, record + 1), (record + 1, attempt.stop)]
        pieces = [replace(attempt, start=start, stop=stop) for start, stop in edges if start != stop]
        self._chunks.setdefault(attempt.first, {})
        self._open[attempt.first] = self._open.get(attempt.first, 1) + len(pieces) - 1
        return pieces

    def put(self, attempt: MapAttempt, outcome: Outcome | None) -> list[Outcome] | None:
        """
        What came of an attempt: C{None}, nothing, for its record is left out.

        @return: what came of the whole chunk, in input order, if that was the last piece.
        """
        pieces = self._chunks.setdefault(attempt.first, {})
        pieces[attempt.start] = outcome
        self._open[attempt.first] = self._open.get(attempt.first, 1) - 1
        if self._open[attempt.first]:
            return None
        del self._chunks[attempt.first], self._open[attempt.first]
        return [outcome for _, outcome in sorted(pieces.items(), key=_start) if outcome is not None]


def _start(item: tuple[int, Outcome | None]) -> int:
    return item[0]


class Blame:
    """
    Which chunk and which record is to blame when an attempt comes to nothing, and what follows.

    An attempt counts when it broke while it ran: because its worker died or was killed, whether for its time, its
    memory or what it sent, or because the function raised. What had not begun, or lost its inputs, does not count. Of a
    task with several chunks the one that ran is charged; the others go again for free.

    @ivar charges: the attempts of each chunk that have counted, since it was last known which record did it.
    """

    def __init__(self, plan: Plan, pieces: Pieces) -> None:
        self._plan = plan
        self._pieces = pieces
        self.charges: Counter[int] = Counter()

    def judge(self, attempt: MapAttempt, event: Broke) -> list[MapAttempt] | BadRecord | None:
        """
        What is to be mapped again (the ids are not new yet), or the record that is to be left out, or C{None}: that is
        the end of the run.
        """
        end = attempt.first + attempt.count
        guilty = event.chunk if event.chunk is not None and attempt.first <= event.chunk < end else attempt.first
        self.charges[guilty] += event.charge
        spent = not event.retry or (event.charge and self.charges[guilty] > self._plan.retries)
        killed = event.charge and not isinstance(event.error, TaskFailed)
        if killed and self._shows(attempt, event) and (self._plan.skips or not spent):
            return self._look(attempt, event)
        if spent and not (self._plan.skips and killed and not attempt.careful):
            return None
        return [
            replace(again, attempt=1 + self.charges[again.first] if again.count == 1 else 1)
            for again in _again(attempt, event, guilty, killed)
        ]

    def _shows(self, attempt: MapAttempt, event: Broke) -> bool:
        """
        Whether to look at the record that the worker noted down. What is merely too slow or crashes need not be found
        where it may not be left out; what had too little memory may have enough in pieces.
        """
        if event.record is None or not attempt.careful:
            return False
        end = attempt.stop if attempt.stop is not None else attempt.chunksize or event.record + 1
        smaller = event.out_of_memory and not self._plan.whole and not attempt.single
        return attempt.start <= event.record < end and (self._plan.skips or smaller)

    def _look(self, attempt: MapAttempt, event: Broke) -> list[MapAttempt] | BadRecord:
        assert event.record is not None
        if self._plan.skips:
            self.charges[attempt.first] = 0
        if attempt.single:
            line = str(event.error).partition("\n")[0]
            reason = f"{type(event.error).__name__}: {line}"
            return BadRecord(attempt.first, event.record, reason, attempt.place(event.record))
        again = replace(attempt, attempt=attempt.attempt + 1, alone=event.out_of_memory)
        return self._pieces.cut(again, event.record)


def _again(attempt: MapAttempt, event: Broke, guilty: int, killed: bool) -> Iterator[MapAttempt]:
    first, end = attempt.first, attempt.first + attempt.count
    ranges = [(first, guilty), (guilty, guilty + 1), (guilty + 1, end)] if event.charge else [(first, end)]
    for start, stop in ranges:
        if start < stop:
            part = attempt.of(start, stop - start)
            if event.charge and start == guilty:
                part = replace(part, careful=attempt.careful or killed, alone=event.out_of_memory)
            yield part
