"""
A run of several steps: one coordinator after the other, each on what the one before it gave.

That does not come here. For all steps but the last it is an output, L{Interim}: the coordinator gets splits, which the
tasks of the next step read. So the session of a step stays open until the next one has ended; L{_Relay} sees to that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from .._schedule.events import BadRecord, Handle, Progress
from .._shuffle.interim import Interim
from .._shuffle.spill import Spill
from .._tasks.runner import Program
from ..backends import Backend, Listener, PortableSession, checked
from ..inputs import Split
from ..job import Job
from ..outputs import Sink
from .coordinator import Coordinator
from .feeds import Input, Listed
from .finishing import Output
from .plan import StepCounts

__all__ = ["Steps"]

_log = Logger()


class Steps:
    """
    A run of two steps or more. It can be used as L{Coordinator} is.

    @ivar result: fires with the result of the last step, or fails. Cancel it to cancel the run.
    """

    def __init__(
        self,
        reactor: Any,
        jobs: Sequence[Job],
        source: Input,
        backend: Backend,
        *,
        streams: bool = False,
        in_order: bool = True,
        output: Sink | None = None,
    ) -> None:
        self._reactor = reactor
        self._jobs = jobs
        self._relay = _Relay(backend)
        self._streams = streams
        self._in_order = in_order
        self._output = None if output is None else Output(output, jobs[-1])
        self._steps: list[Coordinator] = []
        self._began = reactor.seconds()
        self._source = source
        self._ended: tuple[Any] | None = None
        self._reader: Deferred[None] | None = None
        self._closed: Deferred[Any] = Deferred()
        self.result: Deferred[Any] = Deferred(self._cancelled).addCallback(lambda _: self._closed)

    def start(self) -> None:
        """
        Begin. Errors that show at once fail L{result}, too: an output that can't be made is one of them.
        """
        if self._output is None:
            self._next(self._source)
        else:
            maybeDeferred(self._output.begin).addCallback(lambda _: self._next(self._source)).addErrback(self._end)

    def _next(self, source: Input) -> None:
        """
        Begin the next step.
        """
        if self._ended is not None:
            return
        number = len(self._steps)
        job, output = self._jobs[number], self._output
        last = number == len(self._jobs) - 1
        step = Coordinator(
            self._reactor,
            job,
            source,
            self._relay,
            streams=last and self._streams,
            in_order=self._in_order,
            output=output if last else Interim(number + 1, job.spill_folder),
        )
        self._steps.append(step)
        step.result.addCallbacks(self._end if last else self._stepped, self._end)
        step.start()
        self._tell_reader()

    def _stepped(self, splits: Sequence[Split]) -> None:
        """
        A step has ended, and nothing is needed any more of what lay before it.
        """
        self._relay.close(1)
        self._next(Listed(splits))

    def cancel(self) -> None:
        """
        Stop the run. Nothing happens when it is over already.
        """
        if self._steps:
            self._steps[-1].cancel()
        else:
            self._end(Failure(CancelledError("the run was cancelled")))

    def _cancelled(self, result: Deferred[Any]) -> None:
        self.cancel()
        if not result.called:
            result.callback(None)  # so that it waits until everything is closed, rather than fail at once

    # The reader of a stream

    def more(self) -> Deferred[Handle | None]:
        """
        The next result of a stream: see L{Coordinator.more}.
        """
        if self._is_last():
            return self._steps[-1].more()
        if self._closed.called:
            return self._outcome()
        self._reader = Deferred()
        return self._reader.addCallback(lambda _: self.more())

    def gather(self, handles: Sequence[Handle]) -> Deferred[Any]:
        """
        See L{Coordinator.gather}.
        """
        return self._steps[-1].gather(handles)

    def taken(self) -> None:
        """
        See L{Coordinator.taken}.
        """
        self._steps[-1].taken()

    def _tell_reader(self) -> None:
        if self._reader is not None and (self._is_last() or self._closed.called):
            reader, self._reader = self._reader, None
            reader.callback(None)

    def _is_last(self) -> bool:
        return len(self._steps) == len(self._jobs)

    # What is asked from outside

    def progress(self) -> Progress:
        """
        How far it has come. All steps count the same for the fraction that is done.
        """
        steps = [step.progress() for step in self._steps]
        last = steps[-1] if steps else None
        fraction = None if last is None or last.fraction is None else len(steps) - 1 + last.fraction
        return Progress(
            chunks=sum(step.chunks for step in steps),
            total=sum(step.total or 0 for step in steps) if last and last.total and self._is_last() else None,
            records=sum(step.records for step in steps),
            retried=sum(step.retried for step in steps),
            skipped=sum(step.skipped for step in steps),
            seconds=self._reactor.seconds() - self._began,
            fraction=None if fraction is None else fraction / len(self._jobs),
        )

    @property
    def steps(self) -> list[StepCounts]:
        """
        How much each step has had in hand that has begun.
        """
        return [counts for step in self._steps for counts in step.steps]

    @property
    def counters(self) -> Counter[tuple[str, str]]:
        """
        What committed attempts of all steps counted.
        """
        return sum((step.counters for step in self._steps), Counter())

    @property
    def skipped(self) -> list[BadRecord]:
        """
        The bad records that were left out, of all steps.
        """
        return [bad for step in self._steps for bad in step.skipped]

    def partial(self) -> Deferred[Any]:
        """
        The result so far: nothing before the last step has begun.
        """
        if self._is_last():
            return self._steps[-1].partial()
        return succeed(None) if self._ended is None else self._outcome()

    def _outcome(self) -> Deferred[Any]:
        assert self._ended is not None
        (value,) = self._ended
        return fail(value) if isinstance(value, Failure) else succeed(value)

    # The end

    def _end(self, value: Any) -> None:
        if self._ended is not None:
            return
        self._ended = (value,)
        if not self._steps:
            self._source.close()
        self._relay.close().addCallback(lambda _: self._finish()).addBoth(self._fire)

    def _finish(self) -> Any:
        """
        The last step ends the output; where it has not begun, there is one to be undone.
        """
        assert self._ended is not None
        (value,) = self._ended
        return value if self._output is None or self._is_last() else self._output.end(value)

    def _fire(self, value: Any) -> None:
        self._ended = (value,)
        self._closed.callback(value)
        if not self.result.called:
            self.result.callback(None)
        self._tell_reader()


class _Relay:
    """
    The backend of all steps. Each session gets to know the one before it.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.task_seconds = getattr(backend, "task_seconds", None)
        self._open: list[PortableSession] = []

    def open(
        self, program: Program, functions: Mapping[str, Any], listener: Listener, after: Any = None
    ) -> PortableSession:
        """
        Begin the next step. Each may have files: those that it writes for the next one, or reads.
        """
        if program.spill is None:
            folder = program.draft.folder if isinstance(program.draft, Interim) else None
            program = replace(program, spill=Spill(folder))
        session = checked(self._backend).open(program, functions, listener, self._open[-1] if self._open else None)
        self._open.append(session)
        return _Lasting(session)

    def close(self, but: int = 0) -> Deferred[None]:
        """
        Close the sessions, but the last C{but}.

        @return: fires when they are closed, whatever happens.
        """
        closing, self._open = self._open[: len(self._open) - but], self._open[len(self._open) - but :]
        closed: Deferred[None] = succeed(None)
        for session in reversed(closing):
            closed = closed.addCallback(_close, session)
        return closed


def _close(_: None, session: PortableSession) -> Deferred[None]:
    return maybeDeferred(session.close).addErrback(_not_closed)


def _not_closed(failure: Failure) -> None:
    _log.failure("the backend could not end a step", failure=failure)


class _Lasting:
    """
    A session that stays open when its step ends.
    """

    def __init__(self, session: PortableSession) -> None:
        self.workers = session.workers
        self.submit = session.submit
        self.kill = session.kill
        self.fetch = session.fetch
        self.export = session.export
        self.adopt = session.adopt

    def close(self) -> Deferred[None]:
        """
        The relay does that, later.
        """
        return succeed(None)
