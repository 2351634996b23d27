"""
What can be wrong with a task that goes to a worker process, and with the process, as errors for people to read.
"""

from __future__ import annotations

from .._pool.process import Child, Death
from .._schedule.events import Attempt, MapAttempt
from .._wire.frames import MAX_FRAME
from .._wire.headers import MAX_BUFFERS
from .._wire.messages import Fold, Map
from ..errors import MapReduceError, NotSerializable, ProtocolError, TaskTimedOut, WorkerDied
from . import AttemptFailed

__all__ = ["broken", "check_size"]


def check_size(message: Map | Fold) -> None:
    """
    Whether a task can be sent in one message.

    @raise NotSerializable: it can't.
    """
    nbytes = sum(map(len, message.buffers))
    if nbytes <= MAX_FRAME and len(message.buffers) <= MAX_BUFFERS:
        return
    if isinstance(message, Map):
        raise NotSerializable(
            f"chunk {message.first} has {nbytes} bytes in {len(message.buffers)} buffers when it is serialised, "
            f"more than a message may have ({MAX_FRAME} and {MAX_BUFFERS}): make the chunks or the records smaller"
        )
    raise NotSerializable(
        f"the partial results to fold have {nbytes} bytes, more than a message may have ({MAX_FRAME}): "
        "this job's values are too large to be reduced through this process"
    )


def broken(attempt: Attempt, reason: MapReduceError | None, child: Child, death: Death) -> AttemptFailed:
    """
    What becomes of an attempt whose child has died, or was killed for a C{reason}.
    """
    chunk, record, place = None, None, ""
    if isinstance(attempt, MapAttempt):
        chunk = attempt.first if child.chunk is None else child.chunk
        if attempt.careful:
            record, text = child.record
            place = "" if record is None else f"{attempt.place(record)}: {text}"
    error = reason or _died(attempt, chunk, death)
    if record is not None and isinstance(error, (WorkerDied, TaskTimedOut)):
        error.at(record, place)
    memory = bool(death.out_of_memory)
    return AttemptFailed(error, retry=True, chunk=chunk, out_of_memory=memory, record=record)


def _died(attempt: Attempt, chunk: int | None, death: Death) -> MapReduceError:
    """
    The error that says how a worker ended.
    """
    where = "while it ran a reduce task" if chunk is None else f"while it ran chunk {chunk}"
    if death.garbage is not None:
        return ProtocolError(f"worker {death.pid} sent something that is no message {where}: {death.garbage}")
    how = "was ended by something outside this process's sight"
    if death.out_of_memory:
        how = death.out_of_memory
    elif death.signal is not None:
        how = f"was killed by signal {death.signal}"
    elif death.exit_code is not None:
        how = f"ended itself with exit code {death.exit_code}"
    return WorkerDied(
        f"worker {death.pid} {how} {where} (attempt {attempt.attempt})",
        chunk=chunk,
        attempt=attempt.attempt,
        pid=death.pid,
        exit_code=death.exit_code,
        signal=death.signal,
        stderr=death.stderr,
        out_of_memory=bool(death.out_of_memory),
    )
