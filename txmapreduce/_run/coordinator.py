"""
Drives one run: carries out the schedule's instructions on a backend's session, and feeds back what happens.

The coordinator never runs user code but the input's own iterator. Whatever else it does with a user's data, which is to
decode results and put them side by side, it does in slices (L{Turns}) and lets the reactor turn in between.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from .._files.joining import joined
from .._schedule import events
from .._schedule.checked import schedule_of
from .._schedule.events import BadRecord, Event, Handle, Instruction, MapAttempt, Outcome, Progress
from .._tasks.runner import EMPTY
from ..backends import AttemptFailed, Backend, Session, checked
from ..errors import MapReduceError
from ..job import Job
from ..outputs import Draft, Sink
from .assembly import assemble
from .checkpoint import checkpointed
from .feeds import Input
from .finishing import Output
from .letters import DeadLetters
from .lots import Lots
from .plan import StepCounts, counts_of, plan_of, progress_of
from .turns import Turns

__all__ = ["Coordinator"]

_log = Logger()


class Coordinator:
    """
    One run.

    @ivar result: fires with the result, or fails. Cancel it to cancel the run.
    """

    def __init__(
        self,
        reactor: Any,
        job: Job,
        source: Input,
        backend: Backend,
        *,
        streams: bool = False,
        in_order: bool = True,
        output: Sink | Output | None = None,
    ) -> None:
        self._reactor = reactor
        self._job = job
        self._input = source
        self._backend = backend
        self._began = reactor.seconds()
        self._letters = DeadLetters(job.policy.dead_letters)
        self._output = Output.of(output, job)
        self._plan = plan_of(job, source, backend, streams, in_order, output is not None)
        self._schedule = schedule_of(self._plan, self._began)
        self._session: Session | None = None
        self._lots = Lots(self._plan)
        self._events: deque[Event] = deque()
        self._turns = Turns(reactor)
        self._later: Any = None
        self._timers: set[Any] = set()
        self._busy = False
        self._retry_names = frozenset(f"{kind.__module__}.{kind.__qualname__}" for kind in job.policy.retry_exceptions)
        self._arrived: deque[Handle] = deque()
        self._values: Any = [] if self._plan.collects else None
        self._assembling = False
        self._concluded = False
        self._tickets: dict[int, Deferred[Any]] = {}
        self._ended: tuple[Any] | None = None
        self._reader: Deferred[None] | None = None
        self._closed: Deferred[Any] = Deferred()
        self.result: Deferred[Any] = Deferred(self._cancelled).addCallback(lambda _: self._closed)

    def start(self) -> None:
        """
        Begin. Errors that show at once fail L{result}, too.
        """
        if self._output is None:
            self._open(None)
        else:
            maybeDeferred(self._output.begin).addCallback(self._open).addErrback(self._end)

    def _open(self, draft: Draft | None) -> None:
        if self._ended is not None:
            return
        program, functions = replace(self._job.program(), draft=draft), self._job.functions()
        if self._output is not None:
            functions["output"] = self._output.sink
        try:
            self._letters.begin()
            session = checked(self._backend).open(program, functions, self.post)
            self._session = checkpointed(session, self._job, self._plan.splits)
        except MapReduceError:
            self._end(Failure())
            return
        for instruction in self._schedule.start():
            self._carry_out(instruction)
        self.post(events.Capacity(self._session.workers))

    def cancel(self) -> None:
        """
        Stop the run: its work ends, L{result} fails with C{CancelledError}. Nothing happens when it is over already.
        """
        self._end(Failure(CancelledError("the run was cancelled")))

    def _cancelled(self, result: Deferred[Any]) -> None:
        self.cancel()
        if not result.called:
            result.callback(None)  # so that it waits until everything is closed, rather than fail at once

    # Events and instructions

    def post(self, event: Event) -> None:
        """
        Let the schedule know, now or as soon as what is being done has been done.
        """
        self._events.append(event)
        if not self._busy and self._later is None:
            self._turn()

    def _turn(self) -> None:
        """
        Work off events for a slice of time.
        """
        self._later = None
        self._busy = True
        over = self._turns.begin()
        try:
            while self._events and self._ended is None:
                for instruction in self._schedule.handle(self._events.popleft(), self._reactor.seconds()):
                    self._carry_out(instruction)
                if self._events and over():
                    self._later = self._turns.later(self._turn)
                    break
        finally:
            self._busy = False

    def _carry_out(self, instruction: Instruction) -> None:
        if self._ended is None:
            getattr(self, "_do_" + type(instruction).__name__.lower())(instruction)

    def _do_read(self, instruction: events.Read) -> None:
        try:
            taken = self._input.take(instruction.records)
        except BaseException as error:
            self.post(events.InputFailed(error))
            return
        if isinstance(taken, Deferred):
            taken.addCallbacks(
                lambda records: self._got(instruction, records), lambda why: self.post(events.InputFailed(why.value))
            )
        else:
            self._got(instruction, taken)

    def _got(self, instruction: events.Read, taken: Sequence[Any]) -> None:
        name, left = "", None
        if len(taken):
            chunk = joined(taken) if self._plan.splits else taken
            self._lots.put(instruction.lot, self._schedule.next_chunk, chunk)
            if self._plan.splits:
                name, left = str(chunk), getattr(self._input, "left", None)
        self.post(events.Got(instruction.lot, len(taken), not len(taken), name, left))

    def _do_submit(self, instruction: events.Submit) -> None:
        attempt = instruction.attempt
        chunk = self._lots.of(attempt) if isinstance(attempt, MapAttempt) else None
        assert self._session is not None
        deferred = self._session.submit(attempt, chunk)
        deferred.addCallbacks(self._finished, self._broke, callbackArgs=(attempt.id,), errbackArgs=(attempt.id,))

    def _finished(self, outcome: Outcome, id: int) -> None:
        self.post(events.Finished(id, outcome))

    def _broke(self, failure: Failure, id: int) -> None:
        if self._ended is not None:
            return
        error = failure.value
        if not isinstance(error, AttemptFailed):
            self._end(failure)
            return
        retry = error.retry or not self._retry_names.isdisjoint(error.kinds)
        self.post(events.Broke(id, error.error, retry, error.charge, error.chunk, error.out_of_memory, error.record))

    def _do_kill(self, instruction: events.Kill) -> None:
        assert self._session is not None and isinstance(instruction.error, MapReduceError)
        self._session.kill(instruction.id, instruction.error)

    def _do_drop(self, instruction: events.Drop) -> None:
        self._lots.drop(instruction.lot)

    def _do_wake(self, instruction: events.Wake) -> None:
        def wake() -> None:
            self._timers.discard(timer)
            self.post(events.Tick())

        timer = self._reactor.callLater(max(0.0, instruction.at - self._reactor.seconds()), wake)
        self._timers.add(timer)

    def _do_abort(self, instruction: events.Abort) -> None:
        self._end(Failure(instruction.error))

    def _do_deliver(self, instruction: events.Deliver) -> None:
        self._arrived.append(instruction.handle)
        if self._plan.streams:
            self._tell_reader()
        else:
            self._assemble()

    def _do_discard(self, instruction: events.Discard) -> None:
        self._arrived, self._values, self._assembling = deque(), None, False

    def _do_conclude(self, instruction: events.Conclude) -> None:
        self._concluded = True
        self._arrived.extend(instruction.handles)
        if self._plan.streams:
            self._tell_reader()
        else:
            self._assemble()

    def _do_answer(self, instruction: events.Answer) -> None:
        waiting = self._tickets.pop(instruction.ticket)
        if instruction.error is not None:
            waiting.errback(instruction.error)
            return
        self.gather(instruction.handles).chainDeferred(waiting)

    # Results

    def _assemble(self) -> None:
        """
        Put arrived results behind those that are there, a slice at a time.
        """
        if not self._assembling:
            self._assembling = True
            arrived = self._arrived
            together = self._together(self._values, _taken_from(arrived))
            together.addCallback(self._assembled, arrived).addErrback(self._end)

    def _assembled(self, values: Any, arrived: deque[Handle]) -> None:
        if arrived is not self._arrived:
            return  # it was discarded meanwhile
        self._assembling, self._values = False, values
        if self._concluded and self._ended is None:
            self._end(self._checked(values))

    def gather(self, handles: Sequence[Handle]) -> Deferred[Any]:
        """
        The value whose pieces are behind C{handles}.
        """
        return self._together(None, iter(handles))

    def _together(self, whole: Any, handles: Iterator[Handle]) -> Deferred[Any]:
        assert self._session is not None
        return assemble(self._turns, self._session.fetch, whole, handles)

    def _checked(self, value: Any) -> Any:
        if value is EMPTY and self._job.reduce is not None:
            raise TypeError("reduce() of empty iterable with no initial value")
        return value

    # The reader of a stream

    def more(self) -> Deferred[Handle | None]:
        """
        The next result of a stream, or C{None} at its end; it fails as the run does.
        """
        if self._arrived:
            return succeed(self._arrived.popleft())
        if self._concluded:
            self._end(None)
        if self._closed.called:  # not before: the next run may need what this one had
            return self.outcome()
        self._reader = Deferred()
        return self._reader.addCallback(lambda _: self.more())

    def taken(self) -> None:
        """
        The reader has taken all of a result.
        """
        self.post(events.Taken(1))

    def _tell_reader(self) -> None:
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.callback(None)

    # What is asked from outside

    def progress(self) -> Progress:
        """
        How far it has come.
        """
        return progress_of(self._schedule, self._input, self._reactor.seconds() - self._began)

    @property
    def steps(self) -> list[StepCounts]:
        """
        How much it has had in hand: one step's.
        """
        return [counts_of(self._job, self._schedule)]

    @property
    def counters(self) -> Counter[tuple[str, str]]:
        """
        What committed attempts counted.
        """
        return +self._schedule.tally.counters

    @property
    def skipped(self) -> list[BadRecord]:
        """
        The bad records that were left out.
        """
        return list(self._schedule.tally.skipped)

    def partial(self) -> Deferred[Any]:
        """
        The result so far.
        """
        if self._output is not None and not self._closed.called:
            return succeed(None)  # nothing counts before everything does
        if self._ended is not None:
            return self.outcome()
        if self._plan.collects:
            return succeed(list(self._values))
        ticket = max(self._tickets, default=0) + 1
        waiting = self._tickets[ticket] = Deferred()
        self.post(events.Asked(ticket))
        return waiting.addCallback(lambda value: None if value is EMPTY else value)

    def outcome(self) -> Deferred[Any]:
        """
        How a run that has ended did end.
        """
        assert self._ended is not None
        (value,) = self._ended
        return fail(value) if isinstance(value, Failure) else succeed(value)

    # The end

    def _end(self, value: Any) -> None:
        """
        Close everything, then let L{result} fire.
        """
        if self._ended is not None:
            return
        self._ended = (value,)
        self._schedule.over = True
        for timer in [self._later, *self._timers]:
            if timer is not None and timer.active():
                timer.cancel()
        self._later = None
        self._timers.clear()
        self._lots.clear()
        tickets, self._tickets = self._tickets, {}
        for waiting in tickets.values():
            self.outcome().chainDeferred(waiting)
        self._close().addErrback(_not_closed).addCallback(lambda _: self._finish()).addBoth(self._fire)

    def _close(self) -> Deferred[Any]:
        try:
            self._input.close()
        except Exception as error:
            _log.failure("the input could not be closed: {error}", error=error)
        return succeed(None) if self._session is None else maybeDeferred(self._session.close)

    def _finish(self) -> Any:
        assert self._ended is not None
        ended = self.outcome() if self._output is None else maybeDeferred(self._output.end, *self._ended)
        return ended.addBoth(self._letters.end, self._schedule.tally.skipped)

    def _fire(self, value: Any) -> None:
        self._ended = (value,)
        self._closed.callback(value)
        if not self.result.called:
            self.result.callback(None)
        self._tell_reader()


def _taken_from(arrived: deque[Handle]) -> Iterator[Handle]:
    while arrived:
        yield arrived.popleft()


def _not_closed(failure: Failure) -> None:
    _log.failure("the backend could not end the run", failure=failure)
