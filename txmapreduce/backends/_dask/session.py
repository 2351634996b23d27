"""
One run on a Dask cluster: attempts become futures, events become outcomes.

What a task gave stays on the worker that made it; a fold is submitted with the futures of its inputs, so that Dask
brings together what belongs together, and makes again what was lost with a worker. Attempts that a lost worker was at
are failed here and not left to Dask, since the schedule knows how often they may be tried. Small results come with the
event that tells of them, and are passed on from here.
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..._schedule.events import Attempt, Capacity, FoldAttempt, Handle, MapAttempt, Outcome, Started, Unable
from ..._shuffle.interim import Interim, InterimSplit
from ..._shuffle.keys import by_key
from ..._tasks.folding import is_cut
from ..._tasks.runner import EMPTY, Program
from ..._values.codec import Buffer, Codec
from ..._wire.messages import Failed, Map
from ..._worker.dask import Definition, Encoded, attempt, stop
from ..._worker.notes import Note, take_note
from ...errors import BackendUnavailable, MapReduceError, NotSerializable, TaskTimedOut, WorkerDied
from .. import AttemptFailed, Chunk, Listener
from .._handles import failure_of, map_message
from .connection import Connection
from .handles import Remote, Task, at, died, fold_message, in_task, outcome_of
from .shuffle import Shuffle

__all__ = ["DaskSession"]

_log = Logger()

MOST_PARTS = 64
"""Partitions of a last fold at the most, each of which costs a small task for each partial."""

INTERIM_PARTS = 4
"""Partitions for each thread where the next step has a task for each."""

NOTE_SECONDS = 10.0
"""How long to wait for the note of what an attempt was at. A nanny may have to start its worker again first."""


class DaskSession:
    """
    One run on a cluster.
    """

    def __init__(
        self,
        connection: Connection,
        program: Program,
        functions: Mapping[str, Any],
        listener: Listener,
        timeout: float,
        after: DaskSession | None = None,
    ) -> None:
        self.workers = connection.threads
        self.run = secrets.randbits(62)
        self._connection = connection
        self._tell = listener
        self._timeout = timeout
        self._program = replace(program, spill=None)
        # In another run of the same job each class has the same token; what a step gave is read with its classes.
        self._codec: Codec = Codec("coordinator") if after is None else after._codec
        self._codec.encode_program(self._program, functions)
        self._defined: list[Any] = []  # the futures of the definitions, used in the client's thread
        self._tasks: dict[int, Task] = {}
        self._remotes: weakref.WeakSet[Remote] = weakref.WeakSet()  # all that may lie on workers for this run
        self._given: weakref.WeakValueDictionary[int, Remote] = weakref.WeakValueDictionary()  # by their tasks
        self._nparts = self._cuts = 0
        self._shuffle = Shuffle()
        self._waiting: Any = None
        self._late = False
        connection.join(self)
        self._wait(connection.threads)

    # What the coordinator asks

    def submit(self, attempt: Attempt, chunk: Chunk) -> Deferred[Outcome]:
        """
        Hand an attempt to the scheduler.
        """
        self._begin()
        task = self._tasks[attempt.id] = Task(attempt, chunk)
        self._remotes.add(task.remote)
        try:
            message, inputs = self._map(task, attempt) if isinstance(attempt, MapAttempt) else self._fold(task, attempt)
        except (NotSerializable, MemoryError) as error:
            self._later(self._fail, attempt.id, AttemptFailed(error))
            return task.done
        task.chunk = None
        definitions = list(self._codec.definitions)
        self._connection.do(lambda client: self._send(client, task, definitions, message, inputs))
        return task.done

    def kill(self, id: int, error: MapReduceError) -> None:
        """
        Let go of attempt C{id}, and have its thread stop if that is possible.
        """
        task = self._tasks.pop(id, None)
        if task is None:
            return
        self._release(task)
        if task.worker is None:
            self._later(task.done.errback, AttemptFailed(error, retry=True, charge=False))
            return
        stopped = self._stop(task.worker, id)
        stopped.addErrback(lambda _: None).addCallback(self._killed, task, error)

    def fetch(self, handle: Handle) -> Deferred[Iterator[Any]]:
        """
        The decoded pieces of a result.
        """
        assert isinstance(handle, Remote)
        if isinstance(self._program.draft, Interim) and not self._is_nothing(handle):
            receipt = ("", [(0, 0, [handle])])  # the next step's tasks take it where it is
            return succeed(iter([[receipt]]))
        return self.export(handle).addCallback(lambda parts: map(self._codec.loads, parts))

    def _is_nothing(self, handle: Remote) -> bool:
        return handle.parts is not None and self._codec.loads(handle.parts[0]) is EMPTY

    def export(self, handle: Handle) -> Deferred[Sequence[Sequence[Buffer]]]:
        """
        The encoded parts of a result.
        """
        assert isinstance(handle, Remote)
        if handle.parts is not None:
            return succeed(handle.parts)

        async def gather(client: Any) -> Sequence[Sequence[Buffer]]:
            value: Encoded = await client.gather(handle.future)
            return value.parts

        return self._connection.ask(gather).addErrback(self._not_gathered)

    def adopt(self, parts: Sequence[Sequence[Buffer]], chunk: Chunk) -> Remote:
        """
        A partial that another run has exported.
        """
        self._codec.dumps(chunk)  # defines the classes that went by value then
        return Remote(parts)

    def close(self) -> Deferred[None]:
        """
        Let go of everything, and have stop what still runs.
        """
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            self._release(task)
            if task.worker is not None:
                self._stop(task.worker, task.attempt.id).addErrback(lambda _: None)
        remotes = list(self._remotes)
        self._connection.do(lambda client: self._let_go(remotes))
        self._wait_no_more()
        self._connection.leave(self)
        return succeed(None)

    def _let_go(self, remotes: list[Remote]) -> None:
        """
        In the client's thread. Whoever still has a handle does not keep what was behind it.
        """
        self._defined.clear()
        self._shuffle.let_go()
        for remote in remotes:
            if remote.future is not None:
                remote.future.release()

    # How attempts go out

    def _begin(self) -> None:
        """
        Before the first attempt: into how many parts keys are cut.
        """
        if not self._nparts:
            share = INTERIM_PARTS if isinstance(self._program.draft, Interim) else 1
            parts = self._program.npartitions or min(MOST_PARTS, max(1, self._connection.threads) * share)
            self._nparts = parts if by_key(self._program.aggregate) else 1
            self._cuts = self._nparts if is_cut(self._program.aggregate) else 1
            self._shuffle = Shuffle(self._nparts, self._cuts > 1)

    def _map(self, task: Task, attempt: MapAttempt) -> tuple[Any, list[Any]]:
        chunk, kept = task.chunk, ()
        if isinstance(chunk, InterimSplit):
            chunk, kept = replace(chunk, parts=()), chunk.parts
        buffers = list(self._codec.dumps(chunk))
        task.nbytes = sum(map(len, buffers))
        message: Map = map_message(self.run, attempt, ())._replace(hold=False)
        return message, [Remote([buffers]), *kept]

    def _fold(self, task: Task, attempt: FoldAttempt) -> tuple[Any, list[Any]]:
        return fold_message(self.run, task, self._cuts, self._nparts), list(attempt.inputs)

    def _send(self, client: Any, task: Task, definitions: list[bytes], message: Any, inputs: list[Any]) -> None:
        """
        In the client's thread.
        """
        try:
            for number in range(len(self._defined), len(definitions)):
                key = f"txmapreduce-define-{self.run:x}-{number}"
                self._defined.append(client.submit(Definition, definitions[number], key=key, pure=False))
            given = task.attempt
            key = f"txmapreduce-{'map' if isinstance(given, MapAttempt) else 'fold'}-{self.run:x}-{given.id}"
            defined = self._defined[: len(definitions)]
            if isinstance(given, FoldAttempt):
                inputs = self._shuffle.inputs(client, key, given, defined)
            else:
                inputs = list(map(in_task, inputs))
            cuts = self._cuts if not self._program.collects else 1
            task.remote.future = client.submit(
                attempt,
                defined,
                self._connection.topic,
                message,
                inputs,
                cuts,
                key=key,
                pure=False,
                retries=0,
                priority=isinstance(given, FoldAttempt) or given.backup,
            )
        except Exception as error:
            failed = AttemptFailed(BackendUnavailable(f"Dask did not take a task: {type(error).__name__}: {error}"))
            self._connection.tell(self._fail, given.id, failed)

    def _release(self, task: Task) -> None:
        def release(client: Any) -> None:
            if task.remote.future is not None:
                task.remote.future.release()

        self._connection.do(release)

    def _stop(self, worker: str, id: int) -> Deferred[Note | None]:
        async def ask(client: Any) -> Note | None:
            stopping = client.run(stop, self.run, id, workers=[worker], on_error="return")
            answer = (await asyncio.wait_for(stopping, NOTE_SECONDS)).get(worker)
            return None if isinstance(answer, Exception) else answer

        return self._connection.ask(ask)

    # What the connection tells

    def grown(self, threads: int) -> None:
        """
        The cluster has so many threads.
        """
        self.workers = threads
        self._wait(threads)
        self._tell(Capacity(threads))

    def _wait(self, threads: int) -> None:
        """
        Without any threads there is a limit to waiting.
        """
        if threads:
            self._wait_no_more()
        elif self._waiting is None:
            _log.info("waiting for workers of the Dask cluster {name}", name=self._connection.name)
            self._waiting = self._connection.reactor.callLater(self._timeout, self._waited)

    def _wait_no_more(self) -> None:
        if self._waiting is not None and self._waiting.active():
            self._waiting.cancel()
        self._waiting = None

    def _waited(self) -> None:
        self._waiting = None
        if not self._connection.is_open and not self._late:  # that has a limit of its own
            self._late = True
            self._wait(0)
            return
        name, seconds = self._connection.name, self._timeout
        self.unavailable(BackendUnavailable(f"the Dask cluster {name} had no workers for {seconds:g} s"))

    def told(self, kind: str, task: int, worker: str, pid: int, rest: list[Any]) -> None:
        """
        News of an attempt.
        """
        found = self._tasks.get(task)
        if found is None:
            # Dask makes again what was lost, or had given to another worker what was given up here.
            if kind == "began" and task not in self._given:
                self._stop(worker, task).addErrback(lambda _: None)
            return
        if kind == "began":
            found.worker, found.pid, (found.note,) = worker, pid, rest
            self._tell(Started(task))
        elif kind == "done":
            del self._tasks[task]
            self._given[task] = found.remote
            found.done.callback(outcome_of(found, self._nparts, rest))
        else:
            self._failed(found, pid, Failed(*rest[0]))

    def _failed(self, task: Task, pid: int, message: Failed) -> None:
        error = failure_of(message, task.attempt, pid)
        if message.buffers:
            error.__cause__ = self._codec.load_exception(message.buffers[0])
        kinds = tuple(message.kinds) if message.stage != "load" else ()
        self._fail(task.attempt.id, AttemptFailed(error, kinds=kinds, chunk=getattr(error, "chunk", None)))

    def gone(self, worker: str) -> None:
        """
        Attempts that had begun there have failed. Dask gives those that had not to others.
        """
        for task in [task for task in self._tasks.values() if task.worker == worker]:
            del self._tasks[task.attempt.id]
            self._release(task)
            self._find_note(task).addErrback(lambda _: None).addCallback(self._gone, task)

    def _gone(self, note: Note | None, task: Task) -> None:
        task.done.errback(died(task, note))

    def _find_note(self, task: Task) -> Deferred[Note | None]:
        """
        What a task was at, where that tells which of several chunks or which record did it.
        """
        given = task.attempt
        if not isinstance(given, MapAttempt) or (given.count == 1 and not given.careful):
            return succeed(None)
        return self._connection.on_host_of(task.worker, NOTE_SECONDS, take_note, task.note, self.run, given.id)

    def look(self) -> None:
        """
        Find attempts whose futures failed without a word.
        """
        for id, task in list(self._tasks.items()):
            future = task.remote.future
            status = "pending" if future is None else future.status
            if status == "pending":
                continue
            if not task.silent:  # what it said may be on its way
                task.silent = True
            else:
                self._silent(id, task, status)

    def _silent(self, id: int, task: Task, status: str) -> None:
        if status == "error":

            async def why(client: Any) -> BaseException:
                error: BaseException = await task.remote.future.exception()
                return error

            asked: Deferred[Any] = self._connection.ask(why)
            asked.addErrback(lambda failure: failure.value)
            asked.addCallback(self._erred, id, task)
        else:
            error = WorkerDied(f"Dask lost what a task gave ({status})")
            self._fail(id, AttemptFailed(error, retry=True))

    def _erred(self, error: BaseException, id: int, task: Task) -> None:
        if type(error).__name__ == "KilledWorker":
            task.worker = task.worker or "that should run it"
            self._fail(id, died(task, None))
            return
        text = f"Dask could not run a task: {type(error).__name__}: {error}"
        failed = BackendUnavailable(text)
        failed.__cause__ = error
        self._fail(id, AttemptFailed(failed))

    def unavailable(self, error: BackendUnavailable) -> None:
        """
        The run can't go on.
        """
        self._wait_no_more()
        self._tell(Unable(error))

    # How attempts end

    def _later(self, call: Any, *args: Any) -> None:
        self._connection.reactor.callLater(0, call, *args)

    def _fail(self, id: int, failed: AttemptFailed) -> None:
        task = self._tasks.pop(id, None)
        if task is not None:
            task.done.errback(failed)

    def _killed(self, note: Note | None, task: Task, error: MapReduceError) -> None:
        given = task.attempt
        chunk, record = None, None
        if isinstance(given, MapAttempt):
            chunk, record, place = at(given, note)
            if record is not None and isinstance(error, (WorkerDied, TaskTimedOut)):
                error.at(record, place)
        task.done.errback(AttemptFailed(error, retry=True, chunk=chunk, record=record))

    def _not_gathered(self, failure: Failure) -> Failure:
        error = BackendUnavailable(f"a result could not be brought here from the Dask cluster: {failure.value}")
        error.__cause__ = failure.value
        return Failure(error)
