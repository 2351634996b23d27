"""
One run on a pool of worker processes: attempts become messages, answers become outcomes.

For each handle the session knows whether its data is here, encoded, or kept by a worker. What a worker keeps is asked
for when a fold needs it, when it gets too old or too large, and when the worker is to end; when the worker dies before
that, the coordinator hears that it is lost.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from .._pool.pool import Pool
from .._pool.process import Death
from .._pool.slots import Slot, Ticket
from .._schedule.events import Attempt, FoldAttempt, Handle, Lost, MapAttempt, Outcome, Secured, Started, Unable
from .._shuffle.folder import SpillFolder
from .._tasks.folding import is_cut
from .._tasks.runner import Program
from .._values.broadcast import LocalCodec
from .._values.codec import Buffer
from .._values.plain import loads as load_plain
from .._wire.messages import Define, Done, Failed, Fold, HandOver, Map, Message, Parts, Report, Spills, cut
from .._worker.surroundings import surroundings
from ..errors import BackendUnavailable, MapReduceError, NotSerializable, ProtocolError, WorkerDied
from . import AttemptFailed, Chunk, Listener
from ._handles import (
    Deadlines,
    Partial,
    Task,
    answer_of,
    failure_of,
    fold_message,
    map_message,
    outcome_of,
    partitions_of,
    parts_to_send,
    with_spill,
)
from ._problems import broken, check_size

__all__ = ["ProcessSession"]

_log = Logger()

HOLD_BYTES = 24 << 20
"""Bytes of records that one worker may fold into what it keeps; a quarter of C{memory_limit}, where that is less."""

HOLD_SECONDS = 10.0
"""How old may be what a worker keeps: so much work at most is done again when it dies."""


class ProcessSession:
    """
    One run on a pool.
    """

    def __init__(
        self,
        reactor: Any,
        pool: Pool,
        workers: int,
        program: Program,
        functions: Mapping[str, Any],
        listener: Listener,
        after: ProcessSession | None = None,
    ) -> None:
        self.workers = workers
        self.waiting: deque[Ticket] = deque()
        # In another run of the same job each class has the same token; what a step gave is read with its classes.
        self._codec: LocalCodec = LocalCodec("coordinator") if after is None else after._codec
        self._folder = SpillFolder(reactor, program, listener)
        program = with_spill(program, self._folder.path, workers, pool.memory_limit)
        self._codec.encode_program(program, functions)
        self._program = program
        self._nparts = partitions_of(program, workers)  # of a last fold
        self._cuts = self._nparts if is_cut(program.aggregate) else 1  # parts of what children hand over
        self._surroundings = surroundings()
        self._reactor = reactor
        self._pool = pool
        self._tell = listener
        self._tasks: dict[int, Task] = {}
        self._kept: dict[Slot, Partial] = {}
        self._awaited: dict[Partial, list[Task]] = {}
        self._own: dict[Slot, Partial] = {}
        self._places: dict[int, Slot | None] = {}
        self._void: Counter[Slot] = Counter()
        self._deadlines = Deadlines(reactor, program.task_timeout, pool.kill)
        self._hold_seconds = HOLD_SECONDS
        self._hold_bytes = HOLD_BYTES if pool.memory_limit is None else min(HOLD_BYTES, pool.memory_limit // 4)
        self.run = pool.new_run()
        pool.join(self)

    # What the coordinator asks

    def submit(self, attempt: Attempt, chunk: Chunk) -> Deferred[Outcome]:
        """
        Queue an attempt.
        """
        task = self._tasks[attempt.id] = Task(attempt, self, chunk)
        if not isinstance(attempt, FoldAttempt) or not self._call_in(task):
            self.waiting.append(task)
            self._pool.dispatch()
        return task.done

    def kill(self, id: int, error: MapReduceError) -> None:
        """
        End the worker that runs attempt C{id}; or which would run it next, and can't be told not to.
        """
        if (task := self._tasks.get(id)) is None:
            return
        task.reason = error
        if task.slot is not None and task.slot.queue[0] is task:
            self._pool.kill(task.slot)
        else:
            task.abandoned = task.slot is not None
            self.waiting = deque(ticket for ticket in self.waiting if ticket is not task)
            self._later(self._fail, task, AttemptFailed(error, retry=True, charge=False))

    def fetch(self, handle: Handle) -> Deferred[Iterator[Any]]:
        """
        The decoded pieces of a result.
        """
        assert isinstance(handle, Partial) and handle.parts is not None
        return succeed(map(load_plain if self._program.plain_result else self._codec.loads, handle.parts))

    def export(self, handle: Handle) -> Deferred[Sequence[Sequence[Buffer]]]:
        """
        The encoded parts of a partial that is here.
        """
        assert isinstance(handle, Partial) and handle.parts is not None
        return succeed(handle.parts)

    def adopt(self, parts: Sequence[Sequence[Buffer]], chunk: Chunk) -> Partial:
        """
        A partial that another run has exported.
        """
        self._codec.dumps(chunk)  # defines the classes that went by value then
        return Partial(None, 0.0, parts)

    def close(self) -> Deferred[None]:
        """
        Leave the pool.
        """
        self._tasks.clear()
        self._deadlines.close()
        self._pool.leave(self)
        return self._folder.remove()

    # What the pool asks

    def prepare(self, ticket: Ticket, slot: Slot) -> list[Message]:
        """
        The messages that make a child run the ticket. A record that can't be serialised fails the attempt.
        """
        assert isinstance(ticket, Task)
        attempt = ticket.attempt
        try:
            task = self._map(ticket, attempt) if isinstance(attempt, MapAttempt) else self._fold(ticket, attempt)
            check_size(task)
        except (NotSerializable, MemoryError) as error:
            self._later(self._fail, ticket, AttemptFailed(error))
            return []
        self._pool.surround(slot, self._surroundings)
        self._pool.lending.lent(slot.child, self._codec.used)
        sent = slot.defined.get(self.run, 0)
        slot.defined[self.run] = len(blobs := self._codec.definitions)
        return [*(Define(self.run, n, (blobs[n],)) for n in range(sent, len(blobs))), task]

    def _map(self, ticket: Task, attempt: MapAttempt) -> Map:
        buffers = tuple(self._codec.dumps(ticket.chunk))
        ticket.nbytes = sum(map(len, buffers))
        return map_message(self.run, attempt, buffers)

    def _fold(self, ticket: Task, attempt: FoldAttempt) -> Fold:
        parts = list(parts_to_send(ticket, attempt))
        return fold_message(self.run, attempt, self._cuts, self._nparts, ticket.place is not None, parts)

    def began(self, ticket: Ticket) -> None:
        """
        Pass it on.
        """
        self._later(self._tell, Started(ticket.id))

    def said(self, slot: Slot, message: Message) -> None:
        """
        An answer.
        """
        if isinstance(message, Parts):
            self._handed_over(slot, message)
        elif isinstance(message, Spills):
            self._folder.make()
        elif isinstance(message, Done):
            task = self._tasks.get(message.task)
            report, parts = answer_of(message, task, self._program, self._cuts)
            self._pool.answered(slot, message.task)
            if task is not None:
                self._done(slot, task, message, report, parts)
            self._pool.dispatch()
        elif isinstance(message, Failed):
            self._failed(slot, message)

    def broke(self, ticket: Ticket, slot: Slot, death: Death) -> None:
        """
        The child died while it ran the ticket.
        """
        assert isinstance(ticket, Task)
        self._fail(ticket, broken(ticket.attempt, ticket.reason, slot.child, death))

    def vanished(self, slot: Slot) -> None:
        """
        What the child kept is gone. Folds that waited for it can't be done.
        """
        self._void.pop(slot, None)
        lost = [self._kept.pop(slot)] if slot in self._kept else []
        lost.extend(self._give_up_own(slot))
        orphans = [task for task in self._tasks.values() if task.place is not None]
        self.waiting = deque(ticket for ticket in self.waiting if ticket not in orphans)
        if lost:
            self._hold_seconds /= 4  # where workers die often, less must be at stake, or the run never ends
        for partial in lost:
            self._deadlines.end(partial)
            asked = partial in self._awaited
            orphans.extend(self._awaited.pop(partial, []))
            self._tell(Lost(partial, asked))
        for task in orphans:
            self._fail_lost(task)

    def retire(self, slot: Slot) -> None:
        """
        Get back what a child keeps, because it is to end. What it keeps for the last fold stays: that will not be long.
        """
        if slot in self._kept:
            self._ask(self._kept[slot])

    def unavailable(self, error: BackendUnavailable) -> None:
        """
        The run can't go on.
        """
        self.waiting.clear()
        self._tell(Unable(error))

    # Attempts

    def _later(self, call: Callable[..., Any], *args: Any) -> None:
        """
        In the next turn, because nothing is told from within a call that came from the one who is told.
        """
        self._reactor.callLater(0, call, *args)

    def _fail(self, task: Task, failed: AttemptFailed) -> None:
        if self._tasks.pop(task.id, None) is not None:
            task.done.errback(failed)

    def _done(self, slot: Slot, task: Task, message: Done, report: Report, parts: Sequence[Sequence[Buffer]]) -> None:
        if report.status:
            _log.info("{status}", status=report.status, worker=slot.child.pid, task=task.id)
        del self._tasks[task.id]
        partial = self._keep(slot, task, message) if message.held else Partial(None, 0.0, parts)
        task.done.callback(outcome_of(message, task, report, partial, self._nparts))

    def _keep(self, slot: Slot, task: Task, message: Done) -> Partial:
        """
        The child has folded one more task into what it keeps. It has to hand that over when it gets too old or large.
        """
        if (partial := self._kept.get(slot)) is None:
            partial = self._kept[slot] = Partial(slot, self._reactor.seconds(), None)
            slot.keeps.add(self.run)
        partial.taken_in += task.nbytes
        partial.size = message.size
        if partial.taken_in > self._hold_bytes or self._reactor.seconds() - partial.since > self._hold_seconds:
            self._ask(partial)
        return partial

    def _failed(self, slot: Slot, message: Failed) -> None:
        task = self._tasks.get(message.task)
        error = failure_of(message, None if task is None else task.attempt, slot.child.pid)
        if message.task:
            self._pool.answered(slot, message.task)
        if message.buffers and not self._program.plain_result:
            error.__cause__ = self._codec.load_exception(message.buffers[0])
        if not message.task:
            self._tell(Unable(error))  # what it kept can't be sent, and it has dropped it
        elif task is not None:
            kinds = message.kinds if message.stage != "load" else ()
            self._fail(task, AttemptFailed(error, kinds=kinds, chunk=getattr(error, "chunk", None)))
        self._pool.dispatch()

    # What children keep

    def _call_in(self, task: Task) -> bool:
        """
        Have all inputs of a fold brought here that children keep, but what it can be folded with where it is. Whether
        there are any.
        """
        assert isinstance(task.attempt, FoldAttempt)
        missing = [handle for handle in task.attempt.inputs if isinstance(handle, Partial) and handle.parts is None]
        if any(partial.slot is None or self._kept.get(partial.slot) is not partial for partial in missing):
            self._later(self._fail_lost, task)
            return True
        if task.attempt.finish and not task.attempt.keeps:
            self._place(task, task.attempt, [partial for partial in missing if partial not in self._awaited])
        for partial in missing:
            self._ask(partial).append(task)
        return bool(missing)

    def _place(self, task: Task, attempt: FoldAttempt, missing: list[Partial]) -> None:
        """
        Let the last fold take place where most of it is; of several by partition, each where one of the holders is.
        """
        holders = [partial for partial in missing if partial.slot is not None and not partial.slot.closing]
        if attempt.partition is None and holders:
            largest = max(holders, key=lambda partial: partial.size)
            self._ask(largest, 1, 0)
            task.place = largest.slot
        elif attempt.partition is not None and self._cuts > 1:
            if attempt.partition == 0:  # this one decides for all of them, which are submitted one after the other
                self._places.clear()
                for first, partial in enumerate(holders[: min(self.workers, self._nparts)]):
                    self._ask(partial, self._nparts, first)
                    self._places.update((n, partial.slot) for n in range(first, self._nparts, self.workers))
            task.place = self._places.get(attempt.partition)

    def _ask(self, partial: Partial, npartitions: int | None = None, keep: int = -1) -> list[Task]:
        """
        Ask for what a child keeps, once. Who waits for it goes into the list that comes back.
        """
        if partial not in self._awaited:
            assert partial.slot is not None
            self._awaited[partial] = []
            partial.asked = (npartitions or self._cuts, keep)
            partial.slot.child.send(HandOver(self.run, *partial.asked, self.workers))
            self._deadlines.begin(partial)
        return self._awaited[partial]

    def _handed_over(self, slot: Slot, message: Parts) -> None:
        if self._void[slot]:
            self._void[slot] -= 1
            return
        if slot not in self._kept or self._kept[slot] not in self._awaited:
            raise ProtocolError("parts of something that it was not asked for")
        parts = cut(message.buffers, message.lengths)
        npartitions, keep = self._kept[slot].asked
        stays = [n for n, part in enumerate(parts) if not part]
        asked = list(range(keep, npartitions, self.workers)) if keep >= 0 else []
        if len(parts) != npartitions or stays != asked:
            raise ProtocolError(f"{len(parts)} parts of {npartitions} but {stays}: all but {asked} were asked for")
        partial = self._kept.pop(slot)
        self._deadlines.end(partial)
        partial.parts = parts
        partial.size = message.size
        waiting = self._awaited.pop(partial)
        if keep >= 0:
            self._own[slot] = partial
        else:
            partial.slot = None
            self._tell(Secured(partial))
            self._pool.handed_over(slot, self.run)
        for task in waiting:
            self._called_in(task)
        self._pool.dispatch()

    def _called_in(self, task: Task) -> None:
        """
        Go on with a fold if all its inputs are where they have to be.
        """
        assert isinstance(task.attempt, FoldAttempt)
        if task.id not in self._tasks or any(handle.parts is None for handle in task.attempt.inputs):  # type: ignore[attr-defined]
            return
        if task.place is None:
            self.waiting.append(task)
        else:
            self._pool.assign(task, task.place)

    def _give_up_own(self, gone: Slot) -> list[Partial]:
        """
        A child is gone. Where there are others that keep a part for the last fold, or have been asked to, they drop it:
        there will be another last fold, with other parts. It is all lost, then; that costs work, and is seldom.
        """
        asked = {slot: partial for slot, partial in self._kept.items() if partial.asked[1] >= 0}
        for slot in {**self._own, **asked}:
            if slot is not gone:
                self._pool.forget(slot, self.run)
        lost = list(self._own.values())
        for slot in [slot for slot in self._kept if slot in asked or slot in self._own]:
            lost.append(self._kept.pop(slot))
            self._void[slot] += lost[-1] in self._awaited  # its answer is under way, and means nothing any more
        self._own.clear()
        return lost

    def _fail_lost(self, task: Task) -> None:
        self._fail(task, AttemptFailed(WorkerDied("what a worker kept was lost"), retry=True, charge=False))
