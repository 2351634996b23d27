"""
What a session on worker processes has in hand: its tasks, and what they gave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from twisted.internet.defer import Deferred

from .._pool.memory import total_memory
from .._pool.slots import Client, Slot, Ticket
from .._schedule.events import Attempt, FoldAttempt, MapAttempt, Outcome
from .._shuffle.keys import by_key
from .._shuffle.spill import Spill
from .._tasks.failures import failure_text
from .._tasks.folding import is_cut
from .._tasks.runner import Program
from .._values.codec import Buffer
from .._values.plain import received
from .._wire.messages import NO_CHUNK, Done, Failed, Fold, Map, Report, cut
from ..errors import MapReduceError, ProtocolError, SpillFailed, TaskFailed
from . import Chunk

__all__ = [
    "Deadlines",
    "Partial",
    "Task",
    "answer_of",
    "failure_of",
    "fold_message",
    "map_message",
    "outcome_of",
    "partitions_of",
    "parts_to_send",
    "with_spill",
]


SHARES = 4
"""Partitions of a last fold for each worker: what is done is put together here while workers fold the rest."""

_SPILL_FAILED = f"{SpillFailed.__module__}.{SpillFailed.__qualname__}"


class Partial:
    """
    A handle: encoded parts, or a promise that C{slot} keeps them. A part without buffers is kept there for the last
    fold. C{asked}: into how many parts it was to be cut when it was asked for, and which of them was the first to
    stay.
    """

    __slots__ = ("asked", "parts", "since", "size", "slot", "taken_in")

    def __init__(self, slot: Slot | None, since: float, parts: Sequence[Sequence[Buffer]] | None) -> None:
        self.slot = slot
        self.parts = parts
        self.since = since
        self.taken_in = 0
        self.size = 0
        self.asked = (0, -1)


class Deadlines:
    """
    Ends children that don't hand over what they were asked for: that is work, so C{task_timeout} holds for it, from
    when the child has no task any more. A child that was stopped while it kept something is found by nothing else.
    """

    def __init__(self, reactor: Any, seconds: float | None, kill: Callable[[Slot], None]) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._kill = kill
        self._timers: dict[Partial, Any] = {}

    def begin(self, partial: Partial) -> None:
        """
        The child has been asked.
        """
        if self._seconds is not None:
            self._timers[partial] = self._reactor.callLater(self._seconds, self._over, partial)

    def end(self, partial: Partial) -> None:
        """
        It has answered, or is gone.
        """
        if partial in self._timers:
            self._timers.pop(partial).cancel()

    def close(self) -> None:
        """
        Nobody waits any more.
        """
        for partial in list(self._timers):
            self.end(partial)

    def _over(self, partial: Partial) -> None:
        del self._timers[partial]
        assert partial.slot is not None
        if partial.slot.queue:
            self.begin(partial)  # a task comes first, which has a limit of its own
        else:
            self._kill(partial.slot)


class Task(Ticket):
    """
    A ticket with what its session needs to know.
    """

    def __init__(self, attempt: Attempt, client: Client, chunk: Chunk) -> None:
        super().__init__(attempt.id, client)
        if isinstance(attempt, MapAttempt):
            self.fresh, self.first = attempt.alone, attempt.backup
        self.attempt = attempt
        self.chunk = chunk
        self.done: Deferred[Outcome] = Deferred()
        self.nbytes = 0
        self.reason: MapReduceError | None = None
        self.place: Slot | None = None  # whose child keeps a part of what this folds

    def gives_plain(self, program: Program) -> bool:
        """
        Whether what it gives goes to the user as plain data.
        """
        attempt = self.attempt
        return program.plain_result and attempt.finish if isinstance(attempt, FoldAttempt) else program.plain_maps


def with_spill(program: Program, folder: str, workers: int, memory_limit: int | None) -> Program:
    """
    The program with what a worker has to know of spilling, if it may: it does so at 40 % of its C{memory_limit}, since
    writing takes some memory, too. Without a limit half of the memory that there is counts as that of all workers.
    """
    if program.spill is None:
        return program
    limit = memory_limit or total_memory() // 2 // workers
    return replace(program, spill=Spill(folder, limit * 2 // 5))


def answer_of(message: Done, task: Task | None, program: Program, nparts: int) -> tuple[Report, list[Sequence[Buffer]]]:
    """
    What the task said on the side (the buffer behind those of its partial), and the parts of its partial.

    @param task: C{None}: nobody waits for it any more.
    @param nparts: how many parts there are where keys are cut into partitions.
    @raise ProtocolError: that is no answer to this task.
    """
    parts = cut(message.buffers, message.lengths)
    rest = message.buffers[sum(message.lengths) :]
    numbers = (message.records, message.size, message.seconds)
    if len(rest) > 1 or not all(0 <= number < math.inf for number in numbers) or not all(parts):
        raise ProtocolError(f"an answer with {len(rest)} buffers too many, parts without any, or numbers {numbers}")
    report = Report.decoded(rest[0]) if rest else Report()
    if task is None:
        return report, parts
    attempt = task.attempt
    if message.held and (isinstance(attempt, FoldAttempt) or not attempt.may_hold):
        raise ProtocolError("something was kept that nobody asked to keep")
    finish = isinstance(attempt, FoldAttempt) and attempt.finish
    expected = nparts if isinstance(attempt, FoldAttempt) else 1
    if not message.held and not finish and len(parts) != expected:
        raise ProtocolError(f"an answer in {len(parts)} parts, where {expected} were asked for")
    return report, received(parts) if task.gives_plain(program) else parts


def outcome_of(message: Done, task: Task, report: Report, partial: Partial, nparts: int) -> Outcome:
    """
    What the schedule has to know of an answer.
    """
    return Outcome(
        handle=partial,
        secure=not message.held,
        records=message.records,
        size=message.size,
        nparts=nparts,
        nbytes=max(task.nbytes, sum(map(len, message.buffers))),
        seconds=message.seconds,
        counters=report.counters,
        skipped=report.skipped,
        counts=report.counts,
    )


def failure_of(message: Failed, attempt: Attempt | None, pid: int) -> TaskFailed | SpillFailed:
    """
    What the user gets to see of it; its cause is not loaded yet.

    @raise ProtocolError: that is no failure of this attempt.
    """
    if (
        message.chunk != NO_CHUNK
        and isinstance(attempt, MapAttempt)
        and not attempt.first <= message.chunk < attempt.first + attempt.count
    ):
        raise ProtocolError(f"a failure in chunk {message.chunk}, which is not in this task")
    number = 1 if attempt is None else attempt.attempt
    chunk = None if message.chunk == NO_CHUNK else message.chunk
    text = failure_text(message.stage, message.chunk, message.record, number, pid, message.message)
    if message.kinds[:1] == (_SPILL_FAILED,):
        return SpillFailed(message.message.removeprefix("SpillFailed: "))
    return TaskFailed(text, chunk=chunk, attempt=number, pid=pid, remote_traceback=message.traceback)


def map_message(run: int, attempt: MapAttempt, buffers: tuple[Buffer, ...]) -> Map:
    """
    What makes a child run the attempt.
    """
    return Map(
        run=run,
        task=attempt.id,
        attempt=attempt.attempt,
        first=attempt.first,
        count=attempt.count,
        chunksize=attempt.chunksize,
        hold=attempt.may_hold,
        careful=attempt.careful,
        start=attempt.start,
        stop=-1 if attempt.stop is None else attempt.stop,
        buffers=buffers,
    )


def parts_to_send(task: Task, attempt: FoldAttempt) -> Iterator[Sequence[Buffer]]:
    """
    What a fold needs of its inputs: all but the part that is where it takes place.
    """
    for handle in attempt.inputs:
        assert isinstance(handle, Partial) and handle.parts is not None
        whole = attempt.partition is None or len(handle.parts) == 1
        for part in handle.parts if whole else [handle.parts[attempt.partition or 0]]:
            assert part or handle.slot is task.place
            if part:
                yield part


def fold_message(
    run: int, attempt: FoldAttempt, cuts: int, nparts: int, kept: bool, parts: Sequence[Sequence[Buffer]]
) -> Fold:
    """
    What makes a child fold C{parts}; C{kept}: to a part that it has. C{cuts}: how many parts a partial is cut in;
    C{nparts}: how many partitions a last fold has.
    """
    return Fold(
        run=run,
        task=attempt.id,
        attempt=attempt.attempt,
        finish=attempt.finish,
        partition=-1 if attempt.partition is None else attempt.partition,
        npartitions=nparts if attempt.finish else cuts,
        kept=kept,
        lengths=tuple(map(len, parts)),
        buffers=tuple(chain.from_iterable(parts)),
    )


def partitions_of(program: Program, workers: int) -> int:
    """
    In how many partitions the last fold takes place, where it is by key. Each is a part of an output.
    """
    if not by_key(program.aggregate):
        return 1
    return program.npartitions or (workers * SHARES if is_cut(program.aggregate) and program.draft is None else workers)
