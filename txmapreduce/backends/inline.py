"""
The backend for a debugger: the same task code, in this process.

Each task runs in a turn of the reactor of its own, and the reactor waits for it. Nothing is serialised, so the
functions get and give the very objects; a C{task_timeout} is not enforced, since nothing can stop a function that runs
in one's own thread.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from .._schedule.events import Attempt, FoldAttempt, Handle, MapAttempt, Outcome
from .._shuffle.interim import Interim
from .._shuffle.tables import pieces, whole
from .._tasks.failures import class_names, error_text, failure_text, traceback_text
from .._tasks.folding import is_cut
from .._tasks.runner import WHOLE, MapTask, Program, Runner, TaskError
from .._values.codec import Buffer
from .._values.plain import dumps, loads
from .._wire.messages import NO_CHUNK
from .._worker.answers import size_of
from ..errors import MapReduceError, NotSerializable, TaskFailed
from . import AttemptFailed, Chunk, Listener

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime

__all__ = ["Inline"]


class _Value:
    """
    A result that stays where it is. C{parts}: of each partition, where it has been cut.
    """

    __slots__ = ("parts", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.parts: list[Any] = []


class Inline:
    """
    Runs a job's tasks in this process, one after the other.
    """

    def __init__(self, reactor: IReactorTime | None = None) -> None:
        """
        @param reactor: the clock that gives each task its turn. Default: the installed reactor.
        """
        self._reactor = reactor

    def open(
        self, program: Program, functions: Mapping[str, Any], listener: Listener, after: InlineSession | None = None
    ) -> InlineSession:
        """
        Begin a run.
        """
        reactor = self._reactor
        if reactor is None:
            from twisted.internet import reactor as installed

            reactor = installed
        assert reactor is not None
        return InlineSession(reactor, program)

    def __repr__(self) -> str:
        return "Inline()"


class InlineSession:
    """
    One run in this process.
    """

    workers = 1

    def __init__(self, reactor: IReactorTime, program: Program) -> None:
        self._reactor = reactor
        self._program = program
        self._runner = Runner(program)
        # What lies between steps stays here, so it may be anything.
        self._gives_plain = program.plain_result and not isinstance(program.draft, Interim)
        self._plain_maps = self._gives_plain and program.plain_maps
        self._nparts = program.npartitions or 1
        self._pending: dict[int, Deferred[Outcome]] = {}

    def submit(self, attempt: Attempt, chunk: Chunk) -> Deferred[Outcome]:
        """
        Run the attempt in the next turn of the reactor.
        """
        from twisted.internet.task import deferLater

        deferred = deferLater(self._reactor, 0, self._run, attempt, chunk)
        self._pending[attempt.id] = deferred
        return deferred

    def _run(self, attempt: Attempt, chunk: Chunk) -> Outcome:
        del self._pending[attempt.id]
        try:
            return self._map(attempt, chunk) if isinstance(attempt, MapAttempt) else self._fold(attempt)
        except TaskError as error:
            raise _failed(attempt, error, self._program.plain_result) from None

    def _map(self, attempt: MapAttempt, chunk: Chunk) -> Outcome:
        assert chunk is not None
        task = MapTask(attempt.attempt, attempt.first, attempt.count, attempt.chunksize, False, attempt.id)
        done = self._runner.map(task, chunk)
        return Outcome(
            handle=_Value(_plain(done.partial, attempt.first) if self._plain_maps else done.partial),
            records=done.records,
            size=done.size,
            seconds=done.seconds,
            counters=done.report.counters,
            skipped=done.report.skipped,
            counts=done.report.counts,
        )

    def _fold(self, attempt: FoldAttempt) -> Outcome:
        inputs = self._inputs(attempt)
        if attempt.keeps:
            inputs = map(deepcopy, inputs)  # the user's function may change what it is given
        partition = WHOLE if attempt.partition is None else (attempt.partition, self._nparts)
        value = whole(self._runner.fold(inputs, attempt.finish, attempt.attempt, partition=partition, id=attempt.id))
        if attempt.finish and self._gives_plain:
            value = _plain(value, NO_CHUNK)
        return Outcome(_Value(value), size=size_of(value), counts=self._runner.report().counts)

    def _inputs(self, attempt: FoldAttempt) -> Iterator[Any]:
        for handle in attempt.inputs:
            assert isinstance(handle, _Value)
            if attempt.partition is None or not is_cut(self._program.aggregate):
                yield handle.value
                continue
            handle.parts = handle.parts or self._runner.parts(handle.value, self._nparts)
            yield handle.parts[attempt.partition]

    def kill(self, id: int, error: MapReduceError) -> None:
        """
        Too late: when anybody can ask, the attempt has ended.
        """

    def fetch(self, handle: Handle) -> Deferred[Iterator[Any]]:
        """
        The result, which is here already.
        """
        from twisted.internet.defer import succeed

        assert isinstance(handle, _Value)
        return succeed(pieces(handle.value))

    def export(self, handle: Handle) -> Deferred[Sequence[Sequence[Buffer]]]:
        """
        The value, pickled.
        """
        from twisted.internet.defer import succeed

        assert isinstance(handle, _Value)
        try:
            return succeed([[pickle.dumps(handle.value, 5)]])
        except Exception as error:
            raise NotSerializable(f"what a chunk gave can't be written to the checkpoint: {error}") from error

    def adopt(self, parts: Sequence[Sequence[Buffer]], chunk: Chunk) -> _Value:
        """
        A value that another run has exported.
        """
        ((pickled,),) = parts
        return _Value(pickle.loads(pickled))

    def close(self) -> Deferred[None]:
        """
        Take back what has not begun.
        """
        from twisted.internet.defer import succeed

        for deferred in list(self._pending.values()):
            deferred.addErrback(lambda _: None)
            deferred.cancel()
        self._pending.clear()
        return succeed(None)


def _plain(value: Any, chunk: int) -> Any:
    """
    What comes of a value that has to be plain data, or the same refusal as with worker processes.
    """
    try:
        return loads(dumps(value))
    except NotSerializable as error:
        raise TaskError(chunk, NO_CHUNK, "result") from error


def _failed(attempt: Attempt, error: TaskError, plain: bool) -> AttemptFailed:
    cause = error.__cause__
    assert cause is not None
    text = failure_text(error.stage, error.chunk, error.record, attempt.attempt, None, error_text(cause) + error.detail)
    chunk = None if error.chunk == NO_CHUNK else error.chunk
    failed = TaskFailed(text, chunk=chunk, attempt=attempt.attempt, remote_traceback=traceback_text(cause))
    failed.__cause__ = None if plain else cause
    return AttemptFailed(failed, kinds=class_names(cause), chunk=chunk)
