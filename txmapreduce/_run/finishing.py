"""
The coordinator's side of an output: begun before the first task, completed or undone when the run is over.

All of it waits for a disk, so it happens in threads.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import BadInput, MapReduceError, OutputFailed
from ..job import Job
from ..outputs import Draft, Sink

__all__ = ["Output"]

_log = Logger()


class Output:
    """
    One run's output.
    """

    def __init__(self, sink: Sink, job: Job) -> None:
        self.sink = sink
        self._job = job
        self._beginning: Deferred[Any] | None = None
        self._draft: Draft | None = None

    @classmethod
    def of(cls, output: Sink | Output | None, job: Job) -> Output | None:
        """
        What a run of C{job} is given as its output; it may have begun already.
        """
        return output if output is None or isinstance(output, Output) else cls(output, job)

    def begin(self) -> Deferred[Draft]:
        """
        Fires with the draft that goes to the workers, or fails with L{BadInput}.
        """
        if self._draft is not None:
            return succeed(self._draft)
        if isinstance(self.sink, type) or not callable(getattr(self.sink, "begin", None)):
            raise BadInput(f"output takes a PartFiles or another Sink, not {self.sink!r:.200}")
        if self._job.policy.checkpoint is not None:
            raise BadInput("output and checkpoint don't go together: the parts of a run that failed are removed")
        begun: Deferred[Draft] = Deferred()
        self._beginning = deferToThread(self.sink.begin).addBoth(self._begun, begun)
        return begun

    def _begun(self, result: Any, begun: Deferred[Draft]) -> None:
        self._beginning = None
        if not isinstance(result, Failure):
            self._draft = result
        begun.callback(result)

    def end(self, value: Any) -> Deferred[Any]:
        """
        The run is over, and no worker writes any more. Commit if C{value} are the receipts, undo it all if it is a
        Failure. Fires with what the run is to give.
        """
        if self._beginning is not None:
            return self._beginning.addCallback(lambda _: self.end(value))
        if self._draft is None:
            return succeed(value)
        if isinstance(value, Failure):
            return self._undo(self._draft, value)
        return deferToThread(self._draft.commit, value).addErrback(self._failed, self._draft)

    def _failed(self, failure: Failure, draft: Draft) -> Deferred[Any]:
        if not isinstance(failure.value, MapReduceError):
            error = OutputFailed(f"the output {self.sink!r:.200} could not be completed: {failure.value!r:.500}")
            error.__cause__ = failure.value
            failure = Failure(error)
        return self._undo(draft, failure)

    def _undo(self, draft: Draft, failure: Failure) -> Deferred[Any]:
        undone = deferToThread(draft.abort)
        undone.addErrback(lambda why: _log.failure("the output could not be removed", failure=why))
        return undone.addCallback(lambda _: failure)
