"""
What a session on worker processes has in hand: its tasks, and what they gave.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from .._codec import Buffer
from .._events import Attempt, MapAttempt, Outcome
from .._messages import Done, Map, Report
from .._slots import Client, Slot, Ticket
from ..errors import MapReduceError
from . import Chunk

__all__ = ["Partial", "Task", "map_message", "report_of"]


class Partial:
    """
    A handle: encoded parts, or a promise that C{slot} keeps them. A part without buffers is kept there for the last
    fold. C{asked}: into how many parts it was to be cut when it was asked for, and which of them was to stay.
    """

    __slots__ = ("asked", "parts", "since", "size", "slot", "taken_in")

    def __init__(self, slot: Slot | None, since: float, parts: Sequence[Sequence[Buffer]] | None) -> None:
        self.slot = slot
        self.parts = parts
        self.since = since
        self.taken_in = 0
        self.size = 0
        self.asked = (0, -1)


class Task(Ticket):
    """
    A ticket with what its session needs to know.
    """

    def __init__(self, attempt: Attempt, client: Client, chunk: Chunk) -> None:
        super().__init__(attempt.id, client, fresh=isinstance(attempt, MapAttempt) and attempt.alone)
        self.attempt = attempt
        self.chunk = chunk
        self.done: Deferred[Outcome] = Deferred()
        self.nbytes = 0
        self.reason: MapReduceError | None = None
        self.place: Slot | None = None  # whose child keeps a part of what this folds


def map_message(run: int, attempt: MapAttempt, buffers: tuple[Buffer, ...]) -> Map:
    """
    The message that makes a child map the records in C{buffers}.
    """
    return Map(
        run=run,
        task=attempt.id,
        attempt=attempt.attempt,
        first=attempt.first,
        count=attempt.count,
        chunksize=attempt.chunksize,
        hold=attempt.hold and not attempt.alone,
        buffers=buffers,
    )


def report_of(message: Done) -> Report:
    """
    What the task said on the side: the buffer behind those of its partial.
    """
    rest = message.buffers[sum(message.lengths) :]
    return Report.decoded(rest[0]) if rest else Report()
