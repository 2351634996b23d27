"""
What a session on Dask has in hand: its tasks, and what they gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from ..._schedule.events import Attempt, MapAttempt, Outcome
from ..._values.codec import Buffer
from ..._wire.messages import Fold, Report
from ..._worker.dask import Encoded
from ...errors import WorkerDied
from .. import AttemptFailed, Chunk

__all__ = ["Remote", "Task", "died", "fold_message", "in_task", "outcome_of"]


class Remote:
    """
    A handle: the future of what lies on a worker, or encoded parts that are here.

    The future is put in here in the client's thread, and is used there alone.
    """

    __slots__ = ("__weakref__", "future", "parts")

    def __init__(self, parts: Sequence[Sequence[Buffer]] | None = None) -> None:
        self.future: Any = None
        self.parts = parts


def in_task(handle: Any) -> Any:
    """
    What stands for a handle in what a task takes.
    """
    return handle.future if handle.parts is None else Encoded(handle.parts)


class Task:
    """
    An attempt under way.

    @ivar worker: the address of the worker on which it has begun. C{pid} and C{note}: the process, and the path of the
        note that it keeps.
    """

    def __init__(self, attempt: Attempt, chunk: Chunk) -> None:
        self.attempt = attempt
        self.chunk = chunk
        self.done: Deferred[Outcome] = Deferred()
        self.remote = Remote()
        self.nbytes = 0
        self.worker: str | None = None
        self.pid = 0
        self.note = ""
        self.silent = False


def fold_message(run: int, task: Task, cuts: int, nparts: int) -> Fold:
    """
    What makes a worker fold; what it folds goes beside it.
    """
    attempt = task.attempt
    assert not isinstance(attempt, MapAttempt)
    ranged = cuts == 1 < nparts  # it gets nothing but its partition then
    return Fold(
        run=run,
        task=attempt.id,
        attempt=attempt.attempt,
        finish=attempt.finish,
        partition=-1 if attempt.partition is None or ranged else attempt.partition,
        npartitions=nparts if attempt.finish else cuts,
        kept=False,
        lengths=(),
        buffers=(),
    )


def outcome_of(task: Task, nparts: int, rest: Sequence[Any]) -> Outcome:
    """
    What the schedule has to know of an attempt that ended well, of which a worker tells C{rest}.
    """
    records, size, seconds, nbytes, said, inline = rest
    report = Report.decoded(said[0]) if said else Report()
    if inline is not None:
        task.remote = Remote(inline)
    return Outcome(
        handle=task.remote,
        records=records,
        size=size,
        nparts=nparts,
        nbytes=max(task.nbytes, nbytes),
        seconds=seconds,
        counters=report.counters,
        skipped=report.skipped,
        counts=report.counts,
    )


def died(task: Task, note: tuple[int, int, str] | None) -> AttemptFailed:
    """
    What becomes of an attempt whose worker is gone, and has left a C{note} or not.
    """
    attempt = task.attempt
    chunk, record, place = None, None, ""
    if isinstance(attempt, MapAttempt):
        chunk, record, place = at(attempt, note)
    where = "while it ran a reduce task" if chunk is None else f"while it ran chunk {chunk}"
    error = WorkerDied(
        f"the Dask worker {task.worker} (process {task.pid}) was lost {where} (attempt {attempt.attempt})",
        chunk=chunk,
        attempt=attempt.attempt,
        pid=task.pid,
    )
    if record is not None:
        error.at(record, place)
    return AttemptFailed(error, retry=True, chunk=chunk, record=record)


def at(attempt: MapAttempt, note: tuple[int, int, str] | None) -> tuple[int, int | None, str]:
    """
    The chunk that was running, and the record, where that was noted.
    """
    if note is None:
        return attempt.first, None, ""
    chunk, record, text = note
    if not attempt.careful or record < 0:
        return chunk, None, ""
    return chunk, record, f"{attempt.place(record)}: {text}"
