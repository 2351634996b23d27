"""
The ways to run a job, L{Runnable}, and what is under way then: L{Run} and L{Stream}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ._shuffle.sides import Sides
from .errors import BadInput
from .inputs import is_async, is_source, records_of
from .job import Job

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from ._run.coordinator import Coordinator
    from ._run.feeds import Input
    from ._run.plan import StepCounts
    from ._run.steps import Steps
    from ._schedule.events import BadRecord, Progress
    from .backends import Backend
    from .outputs import Sink

__all__ = ["Run", "Runnable", "Stream"]


class Runnable:
    """
    What can be run: a job of one step or several.
    """

    @property
    def jobs(self) -> tuple[Job, ...]:
        """
        The steps that a run takes, one after the other.
        """
        raise NotImplementedError

    def run(self, data: Any, *, backend: Backend | None = None, output: Sink | None = None) -> Deferred[Any]:
        """
        Run the job on C{data}: anything that can be iterated, an asynchronous iterable, or a source such as
        C{TextFiles}. Call it in the reactor's thread.

        @param backend: where tasks run. Default: one pool of worker processes that all runs share.
        @param output: where the records of the result go, such as C{PartFiles("folder")}, written by the workers: the
            values of a job that does not reduce, C{(key, value)} pairs of C{reduce_by_key}, what a C{reducer} yields,
            the one value of C{reduce}. Default: nowhere, they come back.
        @return: fires with the result (with an output: what that says of it), or fails with a L{MapReduceError}. Cancel
            it to cancel the run.
        """
        return self.start(data, backend=backend, output=output).result

    def start(self, data: Any, *, backend: Backend | None = None, output: Sink | None = None) -> Run:
        """
        Like L{run}, for those who want to watch: the L{Run} has the Deferred, progress, counters, the result so far.
        """
        return Run(_begin(self.jobs, data, backend, output=output))

    def run_sync(self, data: Any, *, backend: Backend | None = None, output: Sink | None = None) -> Any:
        """
        Run the job and wait for the result: for scripts, notebooks and threads. Ctrl-C cancels the run.

        @raise RuntimeError: when called in the reactor's own thread, which must not wait.
        """
        with _ahead(backend, data):
            from ._blocking import blocking

            return blocking(lambda: self.run(data, backend=backend, output=output))

    async def run_async(self, data: Any, *, backend: Backend | None = None, output: Sink | None = None) -> Any:
        """
        Run the job in an asyncio application, under asyncio's own loop or Twisted's asyncio reactor. A coroutine of
        Twisted's can await it as well. Cancelling the task cancels the run.
        """
        from ._blocking import settle
        from ._run.async_input import at_home

        data = at_home(data)
        return await settle(lambda: self.run(data, backend=backend, output=output))

    def stream(self, data: Any, *, ordered: bool = True, backend: Backend | None = None) -> Stream:
        """
        The results one by one as they come, in bounded memory: input is read no faster than results are taken.

        @param ordered: in input order (default), or as they come.
        @return: an asynchronous iterator, for asyncio and for coroutines of Twisted's; in a script use a plain C{for}.
        @raise BadInput: the job reduces its values, so there is nothing to give before the end.
        """
        return Stream(self.jobs, data, ordered, backend)


class Run:
    """
    A run under way.

    @ivar result: the Deferred that fires with the result.
    """

    def __init__(self, coordinator: Coordinator | Steps) -> None:
        self._coordinator = coordinator
        self.result: Deferred[Any] = coordinator.result

    def progress(self) -> Progress:
        """
        How far it has come.
        """
        return self._coordinator.progress()

    def partial(self) -> Deferred[Any]:
        """
        The result over what has been done so far: for a job that reduces nothing, the values of the first chunks.

        @return: fires with that, with C{None} where there is nothing yet (or an output, until it is complete), and once
            the run has ended as L{result} did.
        """
        return self._coordinator.partial()

    @property
    def counters(self) -> Counter[tuple[str, str]]:
        """
        What mappers counted with C{current_task().counter(group, name)}, by C{(group, name)}. Each chunk counts once.
        What reduce functions count is left out: how often they are called depends on how the run was cut.
        """
        return self._coordinator.counters

    @property
    def steps(self) -> list[StepCounts]:
        """
        How many records each step has read, emitted, combined, how many groups there are, and how much was spilled. One
        for each step that has begun; those that only map and have become a part of the next are none.
        """
        return self._coordinator.steps

    @property
    def skipped(self) -> list[BadRecord]:
        """
        The bad records that were left out (C{Policy(bad_records="skip")}).
        """
        return self._coordinator.skipped

    def cancel(self) -> None:
        """
        Stop it: its work ends, and L{result} fails with C{CancelledError}.
        """
        self._coordinator.cancel()


class Stream:
    """
    The results of a job, one by one. It can be iterated once.
    """

    def __init__(self, jobs: tuple[Job, ...], data: Any, ordered: bool, backend: Backend | None) -> None:
        if not jobs[-1].program().lists and not jobs[-1].collects:
            raise BadInput(
                "this job reduces all its values to one result, so there is nothing to stream: "
                "use run(), or start() and its partial()"
            )
        self._jobs = jobs
        self._data = data
        self._ordered = ordered
        self._backend = backend
        self._coordinator: Coordinator | Steps | None = None

    def _more(self) -> Deferred[list[Any] | None]:
        """
        The next results, at least one, or C{None} at the end. Called in the reactor's thread.
        """
        if self._coordinator is None:
            self._coordinator = _begin(self._jobs, self._data, self._backend, True, self._ordered)
            self._data = None
            self._coordinator.result.addErrback(lambda _: None)  # told through more()
        coordinator = self._coordinator
        return coordinator.more().addCallback(self._decode, coordinator)

    def _decode(self, handle: Any, coordinator: Coordinator | Steps) -> Any:
        return None if handle is None else coordinator.gather([handle]).addCallback(self._given, coordinator)

    def _given(self, values: list[Any], coordinator: Coordinator | Steps) -> Any:
        coordinator.taken()
        return values or self._more()

    async def __aiter__(self) -> AsyncIterator[Any]:
        from ._blocking import settle
        from ._run.async_input import at_home

        self._data = at_home(self._data)
        try:
            while (values := await settle(self._more)) is not None:
                for value in values:
                    yield value
        finally:
            await settle(self._stopped)

    def __iter__(self) -> Iterator[Any]:
        from ._blocking import blocking

        try:
            while (values := blocking(self._more)) is not None:
                yield from values
        finally:
            blocking(self._stopped)

    def _stopped(self) -> Deferred[None]:
        """
        Fires when all that the run used is closed.
        """
        from twisted.internet.defer import Deferred

        closed: Deferred[None] = Deferred()
        if self._coordinator is None:
            closed.callback(None)
        else:
            self._coordinator.cancel()
            self._coordinator.result.addBoth(lambda _: closed.callback(None))
        return closed


def _ahead(backend: Backend | None, data: Any) -> AbstractContextManager[None]:
    """
    A context for a run that is still without a reactor, perhaps: see L{txmapreduce._pool.launch}.
    """
    tasks = len(data) if isinstance(data, Sized) else None
    if backend is None:
        from ._pool.launch import ahead, environment
        from .backends._cpus import available_cpus

        return ahead(available_cpus(), tasks, environment())
    return backend.ahead(tasks) if hasattr(backend, "ahead") else nullcontext()


def _begin(
    jobs: Sequence[Job],
    data: Any,
    backend: Backend | None,
    streams: bool = False,
    in_order: bool = True,
    output: Sink | None = None,
) -> Coordinator | Steps:
    """
    Start a coordinator, or one for each step, in the reactor's thread.
    """
    from twisted.internet import reactor

    if backend is None:
        from .backends.processes import default_pool

        backend = default_pool()
    source = _input(reactor, jobs[0], data)
    run: Coordinator | Steps
    if len(jobs) == 1:
        from ._run.coordinator import Coordinator

        run = Coordinator(reactor, jobs[0], source, backend, streams=streams, in_order=in_order, output=output)
    else:
        from ._run.steps import Steps

        run = Steps(reactor, jobs, source, backend, streams=streams, in_order=in_order, output=output)
    run.start()
    return run


def _input(reactor: Any, job: Job, data: Any) -> Input:
    from ._run.feeds import Records, Refused, Splits

    if isinstance(data, Sides):
        from ._run.sides import SidesInput

        return SidesInput(data, job.policy, lambda part: _input(reactor, job, part))
    if is_source(data):
        return Splits(data, job.policy.blocksize)
    if is_async(data):
        from ._run.async_input import AsyncRecords

        return AsyncRecords(reactor, data, job.policy.fixed_chunksize or 1)
    try:
        return Records(records_of(data))
    except BadInput as error:
        return Refused(error)
