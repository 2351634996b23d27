"""
L{MapReduce}: what users make, and the ways to run it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ._aggregate import Aggregate
from ._shuffle.ordering import Partitioner
from ._shuffle.sides import Sides
from ._tasks.runner import EMPTY
from .errors import BadInput
from .inputs import is_async, is_source, records_of
from .job import Job, Op, Policy, Reducer

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from ._run.coordinator import Coordinator
    from ._run.feeds import Input
    from ._schedule.events import BadRecord, Progress
    from .backends import Backend
    from .outputs import Sink

__all__ = ["MapReduce", "Run", "Stream"]

T = TypeVar("T")


class MapReduce:
    """
    A job: a function to map over data, and how its values are reduced.

    A job is immutable, holds no data and no process, and can be run as often as you like. Each has a meaning in plain
    Python, which every backend gives exactly:

      - C{MapReduce(f)}: C{[f(x) for x in data]}
      - C{flat=True}: C{[y for x in data for y in f(x)]}
      - C{batched=True}: C{f} takes a whole chunk, a list of records: C{[y for c in chunks for y in f(c)]}
      - C{reduce=op}: C{functools.reduce(op, map(f, data))}; with C{initial}, that counts once. C{op} has to be
        associative. An L{Aggregate} can stand in for C{op}.
      - C{reduce_by_key=op}: C{f} gives C{(key, value)} pairs; C{{key: functools.reduce(op, values of the key)}}. C{op}
        has to be associative and commutative. An L{Aggregate} can stand in for C{op}.
      - C{reducer=r}: C{f} gives pairs; all that C{r(key, values)} yields, for each key in ascending order, in one list.
        C{values} is an iterator. C{combiner(key, values)} yields what stands in for some of a key's values before they
        are sent on.
    """

    def __init__(
        self,
        mapper: Callable[[Any], Any],
        *,
        flat: bool = False,
        batched: bool = False,
        reduce: Op | Aggregate | None = None,
        initial: Any = EMPTY,
        reduce_by_key: Op | Aggregate | None = None,
        reducer: Reducer | None = None,
        combiner: Reducer | None = None,
        npartitions: int | None = None,
        partitioner: Partitioner | None = None,
        sort_values: Literal[True] | Callable[[Any], Any] | None = None,
        order_keys: bool = True,
        name: str | None = None,
        policy: Policy | None = None,
    ) -> None:
        """
        @param npartitions: in how many parts the keys are reduced at the end, each a task of its own; with
            C{output=PartFiles}, the number of files. Default: one for each worker with an output, or where there are
            many keys.
        @param partitioner: C{partitioner(key, npartitions)} is the number of the partition that owns a key, from 0 to
            C{npartitions - 1}: the same for equal keys, in every process. The result then is that of partition 0, that
            of partition 1 and so on, with keys in ascending order within each. Default: with a C{reducer}, ranges of
            keys in ascending order; with C{reduce_by_key}, by a hash of the key.
        @param sort_values: the values of a key come to the C{reducer} in ascending order (C{True}), or in that of what
            this function gives for them; equal ones in input order. They are sorted as they are merged, so that a key
            may have more of them than fit into memory. Default: in input order.
        @param order_keys: C{False}: the keys come to the C{reducer} in no particular order, and need not be comparable.
        @param name: what messages call the job. Default: the mapper's name.
        @param policy: how runs behave. Default: C{Policy()}.
        @raise BadInput: parameters that don't go together.
        """
        self.job = Job(
            mapper=mapper,
            flat=flat,
            batched=batched,
            reduce=reduce,
            initial=initial,
            reduce_by_key=reduce_by_key,
            reducer=reducer,
            combiner=combiner,
            npartitions=npartitions,
            partitioner=partitioner,
            sort_values=sort_values,
            order_keys=order_keys,
            name=name,
            policy=Policy() if policy is None else policy,
        )

    def __repr__(self) -> str:
        return f"<MapReduce {self.job.title}>"

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
        return Run(_begin(self.job, data, backend, output=output))

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
        return Stream(self.job, data, ordered, backend)


class Run:
    """
    A run under way.

    @ivar result: the Deferred that fires with the result.
    """

    def __init__(self, coordinator: Coordinator) -> None:
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

    def __init__(self, job: Job, data: Any, ordered: bool, backend: Backend | None) -> None:
        if not job.program().lists and not job.collects:
            raise BadInput(
                "this job reduces all its values to one result, so there is nothing to stream: "
                "use run(), or start() and its partial()"
            )
        self._job = job
        self._data = data
        self._ordered = ordered
        self._backend = backend
        self._coordinator: Coordinator | None = None

    def _more(self) -> Deferred[list[Any] | None]:
        """
        The next results, at least one, or C{None} at the end. Called in the reactor's thread.
        """
        if self._coordinator is None:
            self._coordinator = _begin(self._job, self._data, self._backend, True, self._ordered)
            self._data = None
            self._coordinator.result.addErrback(lambda _: None)  # told through more()
        coordinator = self._coordinator
        return coordinator.more().addCallback(self._decode, coordinator)

    def _decode(self, handle: Any, coordinator: Coordinator) -> Any:
        return None if handle is None else coordinator.gather([handle]).addCallback(self._given, coordinator)

    def _given(self, values: list[Any], coordinator: Coordinator) -> Any:
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
    job: Job,
    data: Any,
    backend: Backend | None,
    streams: bool = False,
    in_order: bool = True,
    output: Sink | None = None,
) -> Coordinator:
    """
    Start a coordinator, in the reactor's thread.
    """
    from twisted.internet import reactor

    from ._run.coordinator import Coordinator

    if backend is None:
        from .backends.processes import default_pool

        backend = default_pool()
    source = _input(reactor, job, data)
    coordinator = Coordinator(reactor, job, source, backend, streams=streams, in_order=in_order, output=output)
    coordinator.start()
    return coordinator


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
