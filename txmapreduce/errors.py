"""
Every exception that a user of txmapreduce can catch.

All of them derive from L{MapReduceError}. Their messages are written for the person who reads them at a terminal.
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailable",
    "BadInput",
    "CheckpointFailed",
    "MapReduceError",
    "NotSerializable",
    "OutputFailed",
    "ProtocolError",
    "RunTimedOut",
    "SpillFailed",
    "TaskFailed",
    "TaskTimedOut",
    "WorkerDied",
]


class MapReduceError(Exception):
    """
    Something went wrong in a run. Catch this to catch every error of this package.
    """


class TaskFailed(MapReduceError):
    """
    Your function raised an exception.

    The exception itself is this error's C{__cause__} where it could be rebuilt in this process. The traceback from the
    worker is always part of the message.

    @ivar chunk: the number of the chunk, counted from 0 in input order, or C{None} when it was a reduce task.
    @ivar attempt: which try of the chunk this was, counted from 1.
    @ivar pid: the process that ran it.
    @ivar remote_traceback: the traceback text, as the worker saw it.
    """

    def __init__(
        self,
        message: str,
        *,
        chunk: int | None = None,
        attempt: int = 1,
        pid: int | None = None,
        remote_traceback: str = "",
    ) -> None:
        super().__init__(message)
        self.chunk = chunk
        self.attempt = attempt
        self.pid = pid
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n\n{self.remote_traceback.rstrip()}" if self.remote_traceback else message


class _AtRecord(MapReduceError):
    """
    An error that may know the record.
    """

    record: int | None = None
    place: str = ""

    def at(self, record: int, place: str) -> None:
        """
        It was at this record.
        """
        self.record, self.place = record, place
        self.args = (f"{self.args[0]}, at record {record} of the chunk ({place})", *self.args[1:])


class WorkerDied(_AtRecord):
    """
    A worker process ended while it ran a chunk, as often as the policy's C{retries} allow.

    After its first death a chunk is run carefully, so that the record is known that it was at.

    @ivar chunk: the number of the chunk it was running, or C{None} when it was a reduce task or none.
    @ivar attempt: which try of the chunk this was, counted from 1.
    @ivar pid: the process that died.
    @ivar exit_code: its exit code, or C{None} when a signal ended it or the system did not tell.
    @ivar signal: the number of the signal that ended it, or C{None}.
    @ivar stderr: the last lines that it wrote to its standard error.
    @ivar out_of_memory: whether it was killed because it took more memory than the pool's C{memory_limit}, or by the
        kernel because there was no more. C{False} also where the system does not tell why it was killed.
    @ivar record: the number in its chunk, from 0, of the record that it was at, or C{None} where that is not known.
    @ivar place: where that record is in the input, and its text.
    """

    def __init__(
        self,
        message: str,
        *,
        chunk: int | None = None,
        attempt: int = 1,
        pid: int | None = None,
        exit_code: int | None = None,
        signal: int | None = None,
        stderr: str = "",
        out_of_memory: bool = False,
    ) -> None:
        super().__init__(message)
        self.chunk = chunk
        self.attempt = attempt
        self.pid = pid
        self.exit_code = exit_code
        self.signal = signal
        self.stderr = stderr
        self.out_of_memory = out_of_memory

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\nThe end of its standard error:\n{self.stderr.rstrip()}" if self.stderr else message


class TaskTimedOut(_AtRecord):
    """
    A chunk ran longer than the policy's C{task_timeout}, as often as its C{retries} allow.

    @ivar chunk: the number of the chunk, or C{None} when it was a reduce task.
    @ivar attempt: which try of the chunk this was, counted from 1.
    @ivar pid: the process that ran it and was killed.
    @ivar record: the number in its chunk, from 0, of the record that it was at, or C{None} where that is not known.
    @ivar place: where that record is in the input, and its text.
    """

    def __init__(self, message: str, *, chunk: int | None = None, attempt: int = 1, pid: int | None = None) -> None:
        super().__init__(message)
        self.chunk = chunk
        self.attempt = attempt
        self.pid = pid


class RunTimedOut(MapReduceError):
    """
    The whole run took longer than the policy's C{timeout}.
    """


class NotSerializable(MapReduceError):
    """
    A function, a record or a result can't be sent between processes. The message names the part that can't.
    """


class ProtocolError(MapReduceError):
    """
    A worker sent something that is not a message, or more than the limits allow.
    """


class BadInput(MapReduceError):
    """
    The input or an option can't be used: a file that is not there, a size that is not a size. Nothing has been started.
    """


class CheckpointFailed(MapReduceError):
    """
    The file that the policy's C{checkpoint} names can't be read or written: the disk is full, say. What was written
    before is still good: make room, and run the job again.
    """


class OutputFailed(MapReduceError):
    """
    The parts of an C{output} were written, and it could not be made of them. It was removed.
    """


class BackendUnavailable(MapReduceError):
    """
    No worker could be started or reached, or the backend has been closed.
    """


class SpillFailed(MapReduceError):
    """
    What did not fit into memory could not be written to the spill folder, or read from it again: the disk is full, or
    the folder is gone or may not be written to. The message names it and says how much room there is. Choose another
    one with C{Policy(spill_folder=...)}, or make room.
    """
