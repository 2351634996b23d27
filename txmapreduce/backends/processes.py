"""
The backend for one machine: warm worker processes, driven over pipes.

L{Processes} is what a user makes; it owns a pool. L{ProcessSession} is one run on it: it turns attempts into messages
and answers into outcomes, and knows for each handle whether its data is here or kept by a worker.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail, succeed

from .._codec import Buffer, Codec
from .._messages import NO_CHUNK, Define, Done, Failed, Fold, HandOver, Map, Message, Parts
from .._pool import Pool, Settings, Slot, Ticket, surroundings
from .._process import Death
from .._schedule import Attempt, FoldAttempt, Handle, MapAttempt, Outcome
from .._tasks import Program, failure_text
from .._worker import cut
from ..errors import BackendUnavailable, BadInput, MapReduceError, NotSerializable, ProtocolError, TaskFailed, WorkerDied
from . import AttemptFailed, Chunk, Listener

__all__ = ["ProcessSession", "Processes", "available_cpus"]

HOLD_BYTES = 64 << 20
"""How many bytes of records may have been folded into what one worker keeps: they stay here until it is handed over."""

HOLD_SECONDS = 10.0
"""How old may be what a worker keeps: so much work at most is done again when it dies."""

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)


class _Partial:
    """
    A handle: encoded parts, or a promise that C{slot} keeps them.
    """

    __slots__ = ("parts", "since", "size", "slot", "taken_in")

    def __init__(self, slot: Slot | None, since: float, parts: Sequence[Sequence[Buffer]] | None) -> None:
        self.slot = slot
        self.parts = parts
        self.since = since
        self.taken_in = 0
        self.size = 0


class _Task(Ticket):
    """
    A ticket with what its session needs to know.
    """

    def __init__(self, attempt: Attempt, client: ProcessSession, chunk: Chunk) -> None:
        super().__init__(attempt.id, client)
        self.attempt = attempt
        self.chunk = chunk
        self.done: Deferred[Outcome] = Deferred()
        self.nbytes = 0
        self.reason: MapReduceError | None = None


class ProcessSession:
    """
    One run on a pool.
    """

    def __init__(
        self, reactor: Any, pool: Pool, workers: int, program: Program, functions: Mapping[str, Any], listener: Listener
    ) -> None:
        self.workers = workers
        self.waiting: deque[Ticket] = deque()
        self._codec = Codec()
        self._codec.encode_program(program, functions)
        self._nparts = workers if program.pairs and not program.aggregate.ordered else 1
        self._surroundings = surroundings()
        self._reactor = reactor
        self._pool = pool
        self._listener = listener
        self._tasks: dict[int, _Task] = {}
        self._kept: dict[Slot, _Partial] = {}
        self._awaited: dict[_Partial, list[_Task]] = {}
        self.run = pool.new_run()
        pool.join(self)

    # What the coordinator asks

    def submit(self, attempt: Attempt, chunk: Chunk) -> Deferred[Outcome]:
        """
        Queue an attempt.
        """
        task = self._tasks[attempt.id] = _Task(attempt, self, chunk)
        if not isinstance(attempt, FoldAttempt) or not self._call_in(task):
            self.waiting.append(task)
            self._pool.dispatch()
        return task.done

    def kill(self, id: int, error: MapReduceError) -> None:
        """
        End the worker that runs attempt C{id}.
        """
        task = self._tasks.get(id)
        if task is not None and task.slot is not None and task.slot.queue[0] is task:
            task.reason = error
            self._pool.kill(task.slot)

    def fetch(self, handle: Handle) -> Deferred[Iterator[Any]]:
        """
        The decoded pieces of a result.
        """
        assert isinstance(handle, _Partial) and handle.parts is not None
        return succeed(map(self._codec.loads, handle.parts))

    def close(self) -> Deferred[None]:
        """
        Leave the pool.
        """
        self._tasks.clear()
        self._pool.leave(self)
        return succeed(None)

    # What the pool asks

    def prepare(self, ticket: Ticket, slot: Slot) -> list[Message]:
        """
        The messages that make a child run the ticket. A record that can't be serialised fails the attempt.
        """
        assert isinstance(ticket, _Task)
        attempt = ticket.attempt
        try:
            task = self._map(ticket, attempt, slot) if isinstance(attempt, MapAttempt) else self._fold(attempt)
        except NotSerializable as error:
            self._later(self._fail, ticket, AttemptFailed(error))
            return []
        self._pool.surround(slot, self._surroundings)
        sent = slot.defined.get(self.run, 0)
        blobs = self._codec.definitions
        slot.defined[self.run] = len(blobs)
        return [*(Define(self.run, n, (blobs[n],)) for n in range(sent, len(blobs))), task]

    def _map(self, ticket: _Task, attempt: MapAttempt, slot: Slot) -> Map:
        buffers = tuple(self._codec.dumps(ticket.chunk))
        ticket.nbytes = sum(map(len, buffers))
        return Map(
            run=self.run,
            task=attempt.id,
            attempt=attempt.attempt,
            first=attempt.first,
            count=attempt.count,
            chunksize=attempt.chunksize,
            hold=attempt.hold and not slot.closing,
            buffers=buffers,
        )

    def _fold(self, attempt: FoldAttempt) -> Fold:
        lengths: list[int] = []
        buffers: list[Buffer] = []
        for part in self._parts(attempt):
            lengths.append(len(part))
            buffers.extend(part)
        return Fold(
            run=self.run,
            task=attempt.id,
            attempt=attempt.attempt,
            finish=attempt.finish,
            npartitions=self._nparts,
            lengths=tuple(lengths),
            buffers=tuple(buffers),
        )

    def _parts(self, attempt: FoldAttempt) -> Iterator[Sequence[Buffer]]:
        for handle in attempt.inputs:
            assert isinstance(handle, _Partial) and handle.parts is not None
            yield from handle.parts if attempt.partition is None else [handle.parts[attempt.partition]]

    def began(self, ticket: Ticket) -> None:
        """
        Pass it on.
        """
        self._later(self._listener.started, ticket.id)

    def said(self, slot: Slot, message: Message) -> None:
        """
        An answer.
        """
        if isinstance(message, Parts):
            self._handed_over(slot, message)
        elif isinstance(message, Done):
            self._pool.answered(slot, message.task)
            if (task := self._tasks.get(message.task)) is not None:
                self._done(slot, task, message)
            self._pool.dispatch()
        elif isinstance(message, Failed):
            self._failed(slot, message)

    def broke(self, ticket: Ticket, slot: Slot, death: Death) -> None:
        """
        The child died while it ran the ticket.
        """
        assert isinstance(ticket, _Task)
        chunk = slot.child.chunk if isinstance(ticket.attempt, MapAttempt) else None
        error = ticket.reason or _died(ticket.attempt, chunk, death)
        self._fail(ticket, AttemptFailed(error, retry=True, chunk=chunk))

    def vanished(self, slot: Slot) -> None:
        """
        What the child kept is gone. Folds that waited for it can't be done.
        """
        partial = self._kept.pop(slot)
        for task in self._awaited.pop(partial, []):
            self._fail(task, AttemptFailed(WorkerDied("what a worker kept was lost"), retry=True, charge=False))
        self._listener.lost(partial)

    def retire(self, slot: Slot) -> None:
        """
        Get back what a child keeps, because it is to end.
        """
        self._ask(self._kept[slot])

    def unavailable(self, error: BackendUnavailable) -> None:
        """
        Every attempt fails with C{error}.
        """
        self.waiting.clear()
        for task in list(self._tasks.values()):
            self._fail(task, AttemptFailed(error))

    # Attempts

    def _later(self, call: Callable[..., Any], *args: Any) -> None:
        """
        In the next turn, because nothing is told from within a call that came from the one who is told.
        """
        self._reactor.callLater(0, call, *args)

    def _fail(self, task: _Task, failed: AttemptFailed) -> None:
        if self._tasks.pop(task.id, None) is not None:
            task.done.errback(failed)

    def _done(self, slot: Slot, task: _Task, message: Done) -> None:
        del self._tasks[task.id]
        if message.held:
            partial, secure = self._keep(slot, task, message), False
        else:
            partial, secure = _Partial(None, 0.0, cut(message.buffers, message.lengths)), True
        task.done.callback(
            Outcome(
                handle=partial,
                secure=secure,
                records=message.records,
                size=message.size,
                nparts=self._nparts if message.held else len(message.lengths),
                nbytes=max(task.nbytes, sum(map(len, message.buffers))),
                seconds=message.seconds,
                counters=message.counters,
                skipped=message.skipped,
            )
        )

    def _keep(self, slot: Slot, task: _Task, message: Done) -> _Partial:
        """
        The child has folded one more task into what it keeps. It has to hand that over when it gets too old or large.
        """
        partial = self._kept.get(slot)
        if partial is None:
            partial = self._kept[slot] = _Partial(slot, self._reactor.seconds(), None)
            slot.keeps.add(self.run)
        partial.taken_in += task.nbytes
        partial.size = message.size
        if partial.taken_in > HOLD_BYTES or self._reactor.seconds() - partial.since > HOLD_SECONDS:
            self._ask(partial)
        return partial

    def _failed(self, slot: Slot, message: Failed) -> None:
        if message.task:
            self._pool.answered(slot, message.task)
        task = self._tasks.get(message.task)
        cause = self._codec.load_exception(message.buffers[0]) if message.buffers else None
        attempt = 1 if task is None else task.attempt.attempt
        pid = slot.child.pid
        error = TaskFailed(
            failure_text(message.stage, message.chunk, message.record, attempt, pid, message.message),
            chunk=None if message.chunk == NO_CHUNK else message.chunk,
            attempt=attempt,
            pid=pid,
            remote_traceback=message.traceback,
        )
        error.__cause__ = cause
        chunk = None if message.chunk == NO_CHUNK else message.chunk
        failed = AttemptFailed(error, kinds=message.kinds if message.stage != "load" else (), chunk=chunk)
        for broken in [task] if task is not None else self._awaiting(slot):
            self._fail(broken, failed)
        self._pool.dispatch()

    def _awaiting(self, slot: Slot) -> list[_Task]:
        partial = self._kept.get(slot)
        return [] if partial is None else self._awaited.pop(partial, [])

    # What children keep

    def _call_in(self, task: _Task) -> bool:
        """
        Have all inputs of a fold brought here that children keep. Whether there are any.
        """
        assert isinstance(task.attempt, FoldAttempt)
        missing = [handle for handle in task.attempt.inputs if isinstance(handle, _Partial) and handle.parts is None]
        for partial in missing:
            if self._kept.get(partial.slot) is not partial:  # type: ignore[arg-type]
                lost = AttemptFailed(WorkerDied("what a worker kept was lost"), retry=True, charge=False)
                self._later(self._fail, task, lost)
                return True
        for partial in missing:
            self._ask(partial).append(task)
        return bool(missing)

    def _ask(self, partial: _Partial) -> list[_Task]:
        """
        Ask for what a child keeps, once. Who waits for it goes into the list that comes back.
        """
        if partial not in self._awaited:
            assert partial.slot is not None
            self._awaited[partial] = []
            partial.slot.child.send(HandOver(self.run, self._nparts))
        return self._awaited[partial]

    def _handed_over(self, slot: Slot, message: Parts) -> None:
        partial = self._kept.pop(slot)
        partial.parts = cut(message.buffers, message.lengths)
        partial.slot = None
        partial.size = message.size
        self._listener.secured(partial)
        for task in self._awaited.pop(partial):
            assert isinstance(task.attempt, FoldAttempt)
            if task.id in self._tasks and all(handle.parts is not None for handle in task.attempt.inputs):  # type: ignore[attr-defined]
                self.waiting.append(task)
        self._pool.handed_over(slot, self.run)
        self._pool.dispatch()


def _died(attempt: Attempt, chunk: int | None, death: Death) -> MapReduceError:
    """
    The error that says how a worker ended.
    """
    where = "while it ran a reduce task" if chunk is None else f"while it ran chunk {chunk}"
    if death.garbage is not None:
        return ProtocolError(f"worker {death.pid} sent something that is no message {where}: {death.garbage}")
    how = "was ended by something outside this process's sight"
    if death.signal is not None:
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
    )


class Processes(Service):
    """
    Worker processes on this machine.

    They are started when a run first needs them and stay warm for later runs, until the pool is closed, they have been
    idle for C{idle_timeout}, or the reactor stops. Use it as C{async with Processes(4) as pool}, as a Twisted service,
    or just pass it as C{backend=} and L{close} it at the end. A closed or stopped pool takes no more runs.
    """

    name = "txmapreduce"

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        min_workers: int = 0,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks_per_child: int | None = None,
        threads_per_worker: int = 1,
        env: Mapping[str, str] | None = None,
        idle_timeout: float = 60,
        reactor: Any = None,
    ) -> None:
        """
        @param max_workers: how many at most. Default: the processors that this process may use (L{available_cpus}).
        @param min_workers: how many stay when they are idle. Default 0.
        @param initializer: called with C{initargs} in each worker before its first task.
        @param max_tasks_per_child: a worker that has run so many tasks is replaced. Default: never.
        @param threads_per_worker: what BLAS and OpenMP libraries are told that they may use in each worker. Default 1.
        @param env: environment variables of the workers, on top of this process's.
        @param idle_timeout: seconds after which a worker with nothing to do is ended. Default 60.
        @param reactor: default: the installed one, when first needed.
        @raise BadInput: a value that can't be used.
        @raise NotSerializable: the initializer or its arguments can't be sent.
        """
        for label, value, least in (
            ("max_workers", max_workers, 1),
            ("min_workers", min_workers, 0),
            ("max_tasks_per_child", max_tasks_per_child, 1),
            ("threads_per_worker", threads_per_worker, 1),
        ):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise BadInput(f"{label} has to be a whole number of {least} or more, not {value!r}")
        if initializer is not None and not callable(initializer):
            raise BadInput(f"initializer has to be a function, not {initializer!r}")
        if not isinstance(idle_timeout, (int, float)) or not idle_timeout > 0:
            raise BadInput(f"idle_timeout has to be a number of seconds above 0, not {idle_timeout!r}")
        self.max_workers = available_cpus() if max_workers is None else max_workers
        if min_workers > self.max_workers:
            raise BadInput(f"min_workers={min_workers} is more than max_workers={self.max_workers}")
        threads = dict.fromkeys(_THREAD_VARIABLES, str(threads_per_worker))
        self._settings = Settings(
            max_workers=self.max_workers,
            min_workers=min_workers,
            setup=None if initializer is None else _encoded_initializer(initializer, tuple(initargs)),
            max_tasks_per_child=max_tasks_per_child,
            env={**threads, **(env or {})},
            idle_timeout=idle_timeout,
        )
        self._reactor = reactor
        self._pool: Pool | None = None
        self._closed = False
        self._trigger: Any = None

    def open(self, program: Program, functions: Mapping[str, Any], listener: Listener) -> ProcessSession:
        """
        Begin a run; see L{Backend.open}.
        """
        pool = self._open_pool()
        return ProcessSession(self._reactor, pool, self.max_workers, program, functions, listener)

    def _open_pool(self) -> Pool:
        if self._closed:
            raise BackendUnavailable("this Processes pool is closed: make a new one")
        if self._pool is None:
            if self._reactor is None:
                from twisted.internet import reactor

                self._reactor = reactor
            settings = self._settings
            self._pool = Pool(self._reactor, _with_environment(settings))
            self._trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._abort)
        return self._pool

    @property
    def pids(self) -> list[int]:
        """
        The process ids of the workers that there are now.
        """
        return [] if self._pool is None else self._pool.pids()

    def close(self) -> Deferred[None]:
        """
        Take no more runs, wait for those under way, end the workers.

        @return: fires when the last of them has ended.
        """
        self._closed = True
        return succeed(None) if self._pool is None else self._pool.close().addCallback(self._forget_trigger)

    def _forget_trigger(self, _: None) -> None:
        if self._trigger is not None:
            trigger, self._trigger = self._trigger, None
            self._reactor.removeSystemEventTrigger(trigger)

    def _abort(self) -> Deferred[None]:
        self._closed, self._trigger = True, None
        assert self._pool is not None
        return self._pool.abort()

    def stopService(self) -> Deferred[None]:
        """
        Stop as a service: drains first.
        """
        super().stopService()
        return self.close()

    async def __aenter__(self) -> Processes:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        from .._blocking import settle

        await settle(self.close)

    def __repr__(self) -> str:
        return f"Processes({self.max_workers})"


def _with_environment(settings: Settings) -> Settings:
    """
    C{settings} with the whole environment of the workers, as it is when the pool starts.
    """
    from dataclasses import replace

    return replace(settings, env={**os.environ, **settings.env})


def _encoded_initializer(initializer: Callable[..., object], arguments: tuple[Any, ...]) -> bytes:
    codec = Codec()
    codec.encode_program((initializer, arguments), {"initializer": initializer, "initargs": arguments})
    (blob,) = codec.definitions
    return blob


def available_cpus() -> int:
    """
    How many processors this process may use: its affinity, cut by the quota of its control group; at least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return max(1, min(count, count if quota is None else int(quota + 0.5)))


def _cgroup_quota(root: Path, membership: Path) -> float | None:
    """
    The smallest CPU quota, in processors, on the way from this process's control group to the root (versions 1 and 2).
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        group = Path(path.lstrip("/"))
        for folder in [base / group, *(base / parent for parent in group.parents)]:
            quotas.extend(_quota_of(folder))
    return min(quotas, default=None)


def _quota_of(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return
    if quota not in ("max", "-1") and int(period) > 0:
        yield int(quota) / int(period)


_default: weakref.WeakKeyDictionary[Any, Processes] = weakref.WeakKeyDictionary()


def default_pool() -> Processes:
    """
    The pool that runs without C{backend=} share. It is made at first need, and again after it was closed.
    """
    from twisted.internet import reactor

    pool = _default.get(reactor)
    if pool is None or pool._closed:
        pool = _default[reactor] = Processes()
    return pool


def close_default_pool() -> Deferred[None]:
    """
    End the shared pool's workers when the runs under way are over. The next run without C{backend=} makes a new pool.

    Call it at the end of your own trial tests, so that they leave a clean reactor.

    @return: fires when the last worker has ended.
    """
    from twisted.internet import reactor

    pool = _default.pop(reactor, None)
    return succeed(None) if pool is None else pool.close()
