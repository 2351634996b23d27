"""
The state machine of a run: C{(event, now)} goes in, instructions come out. No I/O, no clock, no Twisted.

Rules:

 1. Chunks are numbered in input order. A chunk counts once: the first result that covers it is accepted, whatever else
    arrives for it is dropped.
 2. What a task gave is known by a I{handle}. Only the backend knows what is behind it, and where. A handle that is not
    I{secure} can be lost together with the worker that keeps it; then all the chunks it covers are mapped again.
 3. No more is read from the input than two tasks per worker, and as many again whose results wait to be taken.
 4. Only a chunk that was running is charged for the death of a worker; the others of its task are run again for free.
 5. User code runs in workers only. So folding is a task, too: wherever many partials stand next to each other they are
    folded into one, in input order, and at the end one last fold finishes the result.
 6. When nothing is left to hand out and a worker is idle, what takes unusually long is tried there as well.
 7. A chunk that killed its worker is mapped carefully, and in pieces where that tells which record does it.
 8. An attempt has an id of its own. Whatever else is told of an attempt that has ended is not listened to.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import get_args

from ..errors import RunTimedOut, TaskFailed
from .backups import Backups
from .chunking import Reading
from .delivery import Delivery
from .events import (
    Abort,
    Answer,
    Asked,
    Attempt,
    BadRecord,
    Broke,
    Capacity,
    Conclude,
    Deliver,
    Discard,
    Event,
    Finished,
    FoldAttempt,
    Got,
    Handle,
    InputFailed,
    Instruction,
    Kill,
    Lost,
    MapAttempt,
    Outcome,
    Plan,
    Secured,
    Started,
    Submit,
    Taken,
    Tick,
    Unable,
    Wake,
)
from .limits import HAIR, Deadlines, timed_out, too_many
from .partials import Bag, Last, Partials, Place, Tally, Tree, partitions
from .pieces import Blame, Pieces

MANY_KEYS = 100_000
"""From how many keys on the last fold is done by all workers side by side, a partition each."""

_HANDLERS = {kind: f"_on_{kind.__name__.lower()}" for kind in get_args(Event)}


class Schedule:
    """
    Decides what a run does next.

    @ivar over: the run has ended, well or not.
    @ivar tally: what the accepted chunks add up to. C{retried}: attempts that were made again. C{last}: the last fold.
    """

    def __init__(self, plan: Plan, now: float) -> None:
        self.plan = plan
        self.over = False
        self.workers = 0
        self.tally = Tally()
        self.retried = 0
        self._began = now
        self._ids = 0
        self._reading = Reading(plan)
        self._waiting: deque[MapAttempt] = deque()
        self._running: dict[int, Attempt] = {}
        self._mapping = 0  # how many of those that run are maps
        self._deadlines = Deadlines(plan.task_timeout)
        self._backups = Backups()
        self._next_tick: float | None = None
        self._pieces = Pieces()
        self._blame = Blame(plan, self._pieces)
        self._delivery = Delivery(plan.in_order)
        self._tree = Tree()
        self._bag = Bag()
        self._partials: Partials = self._tree if plan.ordered else self._bag
        self._folds: dict[int, Place] = {}
        self._alone = 0  # the attempt that runs alone, or has
        self._tickets: dict[int, int] = {}
        self.last: Last | None = None
        self._out: list[Instruction] = []

    @property
    def next_chunk(self) -> int:
        """
        The number that the next chunk will have.
        """
        return self._reading.next_chunk

    @property
    def chunks_total(self) -> int | None:
        """
        How many chunks there will be, as soon as that is known.
        """
        return self._reading.next_chunk if self._reading.ended else None

    def start(self) -> list[Instruction]:
        """
        What to do before the first event.
        """
        at = self.plan.timeout
        return [] if at is None else [Wake(self._began + at)]

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """
        Take in what has happened and say what to do about it.
        """
        if self.over:
            return []
        getattr(self, _HANDLERS[type(event)])(event, now)
        if not self.over:
            if self.last is None:
                self._fold_due()
            self._fill(now)
            self._conclude()
        out, self._out = self._out, []
        return out

    # What comes in

    def _on_capacity(self, event: Capacity, now: float) -> None:
        self.workers = event.workers
        self._reading.resize(event.workers)

    def _on_got(self, event: Got, now: float) -> None:
        if (attempt := self._reading.got(event, self._new_id())) is not None:
            self._waiting.append(attempt)

    def _on_inputfailed(self, event: InputFailed | Unable, now: float) -> None:
        self._end(Abort(event.error))

    _on_unable = _on_inputfailed

    def _on_started(self, event: Started, now: float) -> None:
        if event.id in self._running:
            self._backups.began(event.id, now)
            self._wake(self._deadlines.began(event.id, now))

    def _on_finished(self, event: Finished, now: float) -> None:
        attempt, twin = self._end_attempt(event.id, now, True)
        if twin is not None:  # the loser of a race
            self._end_attempt(twin, now)
            self._out.append(Kill(twin, TaskFailed("another attempt was faster")))
        if isinstance(attempt, MapAttempt):
            self._accept_map(attempt, event.outcome)
        elif attempt is not None:
            self._accept_fold(attempt, event.outcome)

    def _on_broke(self, event: Broke, now: float) -> None:
        attempt, twin = self._end_attempt(event.id, now)
        if isinstance(attempt, MapAttempt):
            self._broken_map(attempt, event, twin)
        elif attempt is not None:
            self._broken_fold(attempt, event)

    def _end_attempt(self, id: int, now: float, well: bool = False) -> tuple[Attempt | None, int | None]:
        self._deadlines.ended(id)
        attempt = self._running.pop(id, None)
        self._mapping -= isinstance(attempt, MapAttempt)
        return attempt, self._backups.ended(id, now, well)

    def _on_secured(self, event: Secured, now: float) -> None:
        self._secured(event.handle)

    def _secured(self, handle: Handle) -> None:
        for attempt in self._bag.secure(handle):
            self._out += self._reading.release(attempt)

    def _on_lost(self, event: Lost, now: float) -> None:
        attempts, tally = self._bag.lose(event.handle)
        if not attempts:
            return
        self._out += [Discard()] if self.last is not None and self.last.given else []
        self.last = None  # whatever is still told of it: there will be another one, of all chunks
        self.tally.take_back(tally)
        self.retried += len(attempts)
        for attempt in reversed(attempts):  # what can't be handed over is charged to attempts that do so themselves
            self._waiting.appendleft(replace(attempt, id=self._new_id(), at_once=event.asked))

    def _on_taken(self, event: Taken, now: float) -> None:
        self._delivery.take(event.count)

    def _on_asked(self, event: Asked, now: float) -> None:
        self._ask(event.ticket, 1)

    def _ask(self, ticket: int, number: int) -> None:
        inputs = tuple(outcome.handle for outcome in self._partials.all())
        if not inputs:
            return self._out.append(Answer(ticket, ()))
        attempt = FoldAttempt(self._new_id(), number, inputs, None, True, keeps=True)
        self._tickets[attempt.id] = ticket
        self._submit(attempt)

    # Time

    def _on_tick(self, event: Tick, now: float) -> None:
        limit = self.plan.timeout
        if limit is not None and now + HAIR >= self._began + limit:
            return self._end(Abort(RunTimedOut(f"the run did not end within {limit:g} s (the policy's timeout)")))
        if self._next_tick is not None and now + HAIR >= self._next_tick:
            self._next_tick = None
        late, at = self._deadlines.overrun(now)
        self._out += [Kill(id, timed_out(self._running[id], self.plan.task_timeout)) for id in late]
        self._wake(at)

    def _wake(self, at: float | None) -> None:
        """
        One tick on its way is enough: when it comes it asks for the next one.
        """
        if at is not None and (self._next_tick is None or at < self._next_tick):
            self._next_tick = at
            self._out.append(Wake(at))

    # Maps

    def _accept_map(self, attempt: MapAttempt, outcome: Outcome) -> None:
        self._reading.measured(attempt, outcome)
        tally = Tally.of(attempt, outcome)
        if not self._count(tally, attempt):
            return
        if attempt.hold and attempt not in self._pieces:
            self._bag.add(attempt, outcome, tally)
            if outcome.secure:
                self._secured(outcome.handle)
        else:
            self._put(attempt, outcome)

    def _count(self, tally: Tally, attempt: MapAttempt) -> bool:
        """
        Whether there are not too many bad records.
        """
        self.tally.add(tally)
        if (error := too_many(self.tally.skipped, self.plan.max_bad_records, attempt)) is not None:
            self._end(Abort(error))
        return not self.over

    def _put(self, attempt: MapAttempt, outcome: Outcome | None) -> None:
        """
        Some chunks are there, or a piece of one; C{None}: its record is left out.
        """
        in_pieces = outcome is None or attempt in self._pieces
        outcomes = self._pieces.put(attempt, outcome)
        if outcomes is None:
            return
        self.tally.chunks += in_pieces
        self._out += self._reading.release(attempt)
        if attempt.hold:
            self._bag.add_secure(outcomes)
        else:
            self._delivery.add(attempt, outcomes)
            self._pass_on()

    def _pass_on(self) -> None:
        for outcome in self._delivery.ready(self.plan.streams and self.plan.collects):
            if self.plan.collects:
                self._out.append(Deliver(outcome.handle))
            else:
                self._tree.add(outcome)

    def _broken_map(self, attempt: MapAttempt, event: Broke, twin: int | None) -> None:
        verdict = self._blame.judge(attempt, event)
        if verdict is None:
            self._end(Abort(event.error))
        elif isinstance(verdict, BadRecord):
            if self._count(Tally(records=1, skipped=[verdict]), attempt):
                self._put(attempt, None)
        else:
            self.retried += 1
            if twin is None:  # or else that is at it already
                self._waiting.extendleft(replace(again, id=self._new_id()) for again in reversed(verdict))

    # Folds

    def _fold_due(self) -> None:
        for fold in self._partials.due():
            attempt = FoldAttempt(self._new_id(), 1, fold.inputs, None, False, keeps=True)
            self._folds[attempt.id] = fold.place
            self._submit(attempt)

    def _accept_fold(self, attempt: FoldAttempt, outcome: Outcome) -> None:
        if attempt.id in self._tickets:
            self._out.append(Answer(self._tickets.pop(attempt.id), (outcome.handle,)))
        elif attempt.id in self._folds:
            self._partials.put(self._folds.pop(attempt.id), outcome)
        elif self.last is not None and attempt.id in self.last:
            self._out += map(Deliver, self.last.put(attempt.id, outcome))

    def _broken_fold(self, attempt: FoldAttempt, event: Broke) -> None:
        id, ticket, last = attempt.id, self._tickets.pop(attempt.id, None), self.last
        if ticket is None and id not in self._folds and (last is None or id not in last):
            return  # inputs of the last fold were lost, so it is not the last one any more
        if not event.retry or (event.charge and attempt.attempt > self.plan.retries):
            if ticket is None:
                self._end(Abort(event.error))
            else:  # whoever asked for the result so far gets to know, and the run goes on
                self._out.append(Answer(ticket, (), event.error))
            return
        self.retried += 1
        again = replace(attempt, id=self._new_id(), attempt=attempt.attempt + event.charge)
        if ticket is not None:
            return self._ask(ticket, again.attempt)
        if id in self._folds:
            self._folds[again.id] = self._folds.pop(id)
        elif last is not None:
            last.again(id, again.id)
        self._submit(again)

    # The end

    def _complete(self) -> bool:
        """
        Whether every chunk has been mapped and every fold in between has ended.
        """
        return self._reading.ended and not (self._reading.pending or self._waiting or self._mapping or self._folds)

    def _conclude(self) -> None:
        if self.last is None and self._complete():
            if self.plan.collects:
                return self._end(Conclude(()))
            self._submit_last()
        if self.last is not None and self.last.ended:
            self._end(Conclude(tuple(self.last.ready())))

    def _submit_last(self) -> None:
        outcomes = self._partials.all()
        inputs = tuple(outcome.handle for outcome in outcomes)
        cut = partitions(outcomes, self.plan, MANY_KEYS)
        attempts = [FoldAttempt(self._new_id(), 1, inputs, partition, True) for partition in cut]
        self.last = Last([attempt.id for attempt in attempts], outcomes, early=not self.plan.streams)
        for attempt in attempts:
            self._submit(attempt)

    def _end(self, instruction: Conclude | Abort) -> None:
        self.over = True
        self._out.append(instruction)

    # What goes out

    def _fill(self, now: float) -> None:
        """
        Keep two tasks per worker under way: from what has to be run again first, from the input then. What ran out of
        memory waits until the others have ended, and they wait for it, so that it has all the memory that there is.
        """
        window, reading = 2 * self.workers, self._reading
        while len(self._running) < window and self._alone not in self._running:
            if self._waiting and self._waiting[0].alone and self._running:
                break
            if self._waiting:
                attempt = self._waiting.popleft()
                self._alone = attempt.id if attempt.alone else self._alone
                self._submit(attempt)
            elif (room := reading.room(window, self._delivery, self.tally.chunks)) > 0:
                self._out.append(reading.ask(room))
            else:
                break
        if self.plan.speculate and reading.ended and not self._waiting:
            self._back_up(min(self.workers - self._backups.running, window - len(self._running)), now)

    def _back_up(self, idle: int, now: float) -> None:
        if idle < 1:
            return
        slow, at = self._backups.stragglers(self._running, self._blame.charges, self.plan.retries, idle, now)
        for attempt in slow:
            backup = replace(attempt, id=self._new_id(), attempt=attempt.attempt + 1, backup=True)
            self._backups.pair(attempt.id, backup.id)
            self._backups.began(backup.id, now)
            self._submit(backup)
        self._wake(at)

    def _submit(self, attempt: Attempt) -> None:
        self._running[attempt.id] = attempt
        self._mapping += isinstance(attempt, MapAttempt)
        self._out.append(Submit(attempt))

    def _new_id(self) -> int:
        self._ids += 1
        return self._ids
