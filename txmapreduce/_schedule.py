"""
The state machine of a run: C{(event, now)} goes in, instructions come out. No I/O, no clock, no Twisted.

Rules:

 1. Chunks are numbered in input order. A chunk counts once: the first result that covers it is accepted, whatever else
    arrives for it is dropped.
 2. What a task gave is known by a I{handle}. Only the backend knows what is behind it, and where. A handle that is not
    I{secure} can be lost together with the worker that keeps it; then all the chunks it covers are mapped again.
 3. No more is read from the input than two tasks per worker, and nothing is read while results wait to be taken.
 4. Only a chunk that was running is charged for the death of a worker; the others of its task are run again for free.
 5. User code runs in workers only. So folding is a task, too: wherever many partials stand next to each other they are
    folded into one, in input order, and at the end one last fold finishes the result.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from dataclasses import dataclass, replace

from ._chunking import Sizer
from ._events import (
    Abort,
    Answer,
    Asked,
    Attempt,
    BadRecord,
    Broke,
    Capacity,
    Conclude,
    Deliver,
    Drop,
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
    Read,
    Secured,
    Started,
    Submit,
    Taken,
    Tick,
    Wake,
)
from ._partials import Bag, Partials, Place, Tally, Tree
from .errors import RunTimedOut, TaskFailed, TaskTimedOut

MANY_KEYS = 100_000
"""From how many keys on the last fold is done by all workers side by side, a partition each."""


@dataclass
class _Lot:
    """
    What one L{Read} gave: C{left} of its chunks have no result yet that is secure.
    """

    first: int
    left: int


class Schedule:
    """
    Decides what a run does next.

    @ivar over: the run has ended, well or not.
    """

    def __init__(self, plan: Plan, now: float) -> None:
        self.plan = plan
        self.over = False
        self.workers = 0
        self.tally = Tally()
        self.retried = 0
        self._began = now
        self._sizer: Sizer | None = None
        self._ids = 0
        self.next_chunk = 0
        self._next_lot = 0
        self._lots: dict[int, _Lot] = {}
        self._reading = False
        self._ended = False
        self._waiting: deque[MapAttempt] = deque()
        self._running: dict[int, Attempt] = {}
        self._charges: Counter[int] = Counter()
        self._deadlines: list[tuple[float, int]] = []
        self._undelivered: dict[int, tuple[int, Outcome]] = {}
        self._next_delivery = 0
        self._untaken = 0
        self._tree = Tree()
        self._bag = Bag()
        self._partials: Partials = self._tree if plan.ordered else self._bag
        self._folds: dict[int, Place] = {}
        self._tickets: dict[int, int] = {}
        self._final: dict[int, Handle | None] = {}
        self._out: list[Instruction] = []

    @property
    def chunks_total(self) -> int | None:
        """
        How many chunks there will be, as soon as that is known.
        """
        return self.next_chunk if self._ended else self.plan.length if self.plan.splits else None

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
        getattr(self, "_on_" + type(event).__name__.lower())(event, now)
        if not self.over:
            if not self._final:
                self._fold_due()
            self._fill()
            self._conclude()
        out, self._out = self._out, []
        return out

    # What comes in

    def _on_capacity(self, event: Capacity, now: float) -> None:
        self.workers = event.workers
        if self._sizer is None:
            self._sizer = Sizer(event.workers, self._units())
        self._sizer.workers = max(1, event.workers)

    def _units(self) -> int | None:
        length, size = self.plan.length, self.plan.chunksize
        return length if length is None or size is None else -(-length // size)

    def _on_got(self, event: Got, now: float) -> None:
        self._reading = False
        self._ended = event.ended
        if not event.records:
            return
        size = self.plan.chunksize
        count = 1 if size is None or self.plan.splits else -(-event.records // size)
        assert self._sizer is not None
        self._sizer.taken(event.records if size is None else count)
        self._lots[event.lot] = _Lot(self.next_chunk, count)
        hold = not self.plan.ordered and not self.plan.collects
        chunksize = size or event.records
        self._waiting.append(MapAttempt(self._new_id(), 1, event.lot, self.next_chunk, count, chunksize, hold))
        self.next_chunk += count

    def _on_inputfailed(self, event: InputFailed, now: float) -> None:
        self._abort(event.error)

    def _on_started(self, event: Started, now: float) -> None:
        if self.plan.task_timeout is not None and event.id in self._running:
            at = now + self.plan.task_timeout
            heapq.heappush(self._deadlines, (at, event.id))
            self._out.append(Wake(at))

    def _on_finished(self, event: Finished, now: float) -> None:
        attempt = self._running.pop(event.id, None)
        if isinstance(attempt, MapAttempt):
            self._accept_map(attempt, event.outcome)
        elif attempt is not None:
            self._accept_fold(attempt, event.outcome)

    def _on_broke(self, event: Broke, now: float) -> None:
        attempt = self._running.pop(event.id, None)
        if attempt is None:
            return
        if not event.retry:
            self._abort(event.error)
        elif isinstance(attempt, MapAttempt):
            self._retry_map(attempt, event)
        else:
            self._retry_fold(attempt, event)

    def _on_secured(self, event: Secured, now: float) -> None:
        for attempt in self._bag.secure(event.handle):
            self._release(attempt)

    def _on_lost(self, event: Lost, now: float) -> None:
        attempts, tally = self._bag.lose(event.handle)
        self.tally.take_back(tally)
        self.retried += len(attempts)
        self._waiting.extendleft(replace(attempt, id=self._new_id()) for attempt in reversed(attempts))

    def _on_taken(self, event: Taken, now: float) -> None:
        self._untaken -= event.count

    def _on_asked(self, event: Asked, now: float) -> None:
        self._ask(event.ticket, 1)

    def _ask(self, ticket: int, number: int) -> None:
        inputs = tuple(outcome.handle for outcome in self._partials.all())
        if not inputs:
            self._out.append(Answer(ticket, ()))
            return
        attempt = FoldAttempt(self._new_id(), number, inputs, None, True)
        self._tickets[attempt.id] = ticket
        self._submit(attempt)

    def _on_tick(self, event: Tick, now: float) -> None:
        limit = self.plan.timeout
        if limit is not None and now >= self._began + limit:
            self._abort(RunTimedOut(f"the run did not end within {limit:g} s (the policy's timeout)"))
            return
        while self._deadlines and self._deadlines[0][0] <= now:
            _, id = heapq.heappop(self._deadlines)
            if id in self._running:
                self._out.append(Kill(id, self._timed_out(self._running[id])))

    def _timed_out(self, attempt: Attempt) -> TaskTimedOut:
        chunk = attempt.first if isinstance(attempt, MapAttempt) else None
        what = "a reduce task" if chunk is None else f"chunk {chunk}"
        limit = f"{self.plan.task_timeout:g} s (the policy's task_timeout)"
        text = f"{what} ran longer than {limit} in attempt {attempt.attempt}; its worker was killed"
        return TaskTimedOut(text, chunk=chunk, attempt=attempt.attempt)

    # Maps

    def _accept_map(self, attempt: MapAttempt, outcome: Outcome) -> None:
        assert self._sizer is not None
        units = outcome.records if self.plan.chunksize is None else attempt.count
        self._sizer.measured(units, outcome.seconds, outcome.nbytes)
        tally = self._tally_of(attempt, outcome)
        self.tally.add(tally)
        limit = self.plan.max_bad_records
        if limit is not None and len(self.tally.skipped) > limit:
            last = self.tally.skipped[-1].reason
            text = f"more than {limit} bad records (the policy's max_bad_records); the last: {last}"
            self._abort(TaskFailed(text, chunk=attempt.first, attempt=attempt.attempt))
        elif attempt.hold:
            self._bag.add(attempt, outcome, tally)
            if outcome.secure:
                self._on_secured(Secured(outcome.handle), 0.0)
        else:
            self._release(attempt)
            self._undelivered[attempt.first] = (attempt.count, outcome)
            self._pass_on()

    def _tally_of(self, attempt: MapAttempt, outcome: Outcome) -> Tally:
        size = outcome.records + 1 if self.plan.splits else attempt.chunksize
        return Tally(
            chunks=attempt.count,
            records=outcome.records,
            counters=Counter({(group, name): n for group, name, n in outcome.counters}),
            skipped=[BadRecord(attempt.first + at // size, at % size, text) for at, text in outcome.skipped],
        )

    def _release(self, attempt: MapAttempt) -> None:
        lot = self._lots[attempt.lot]
        lot.left -= attempt.count
        if not lot.left:
            del self._lots[attempt.lot]
            self._out.append(Drop(attempt.lot))

    def _pass_on(self) -> None:
        """
        Whatever is next in input order (or is there at all, where order does not matter) goes on its way.
        """
        while self._undelivered:
            first = self._next_delivery if self.plan.in_order else next(iter(self._undelivered))
            if first not in self._undelivered:
                return
            count, outcome = self._undelivered.pop(first)
            self._next_delivery += count
            if self.plan.collects:
                self._untaken += self.plan.streams
                self._out.append(Deliver(outcome.handle))
            else:
                self._tree.add(outcome)

    def _retry_map(self, attempt: MapAttempt, event: Broke) -> None:
        """
        The chunk that was running is charged and goes alone; those before and behind it go again for free.
        """
        first, end = attempt.first, attempt.first + attempt.count
        guilty = event.chunk if event.chunk is not None and first <= event.chunk < end else first
        ranges = [(first, end)]
        if event.charge:
            self._charges[guilty] += 1
            if self._charges[guilty] > self.plan.retries:
                self._abort(event.error)
                return
            ranges = [(first, guilty), (guilty, guilty + 1), (guilty + 1, end)]
        self.retried += 1
        for start, stop in reversed(ranges):
            if start < stop:
                number = 1 + self._charges[start] if stop - start == 1 else 1
                again = replace(attempt, id=self._new_id(), attempt=number, first=start, count=stop - start)
                self._waiting.appendleft(again)

    # Folds

    def _fold_due(self) -> None:
        for fold in self._partials.due():
            attempt = FoldAttempt(self._new_id(), 1, fold.inputs, None, False)
            self._folds[attempt.id] = fold.place
            self._submit(attempt)

    def _accept_fold(self, attempt: FoldAttempt, outcome: Outcome) -> None:
        if attempt.id in self._tickets:
            self._out.append(Answer(self._tickets.pop(attempt.id), (outcome.handle,)))
        elif attempt.id in self._final:
            self._final[attempt.id] = outcome.handle
        elif attempt.id in self._folds:
            self._partials.put(self._folds.pop(attempt.id), outcome)

    def _retry_fold(self, attempt: FoldAttempt, event: Broke) -> None:
        if attempt.attempt > self.plan.retries and event.charge:
            self._abort(event.error)
            return
        self.retried += 1
        number = attempt.attempt + event.charge
        if attempt.id in self._tickets:
            self._ask(self._tickets.pop(attempt.id), number)
        elif attempt.id in self._folds or self._complete():
            self._submit(replace(attempt, attempt=number))
        else:
            self._final.clear()  # inputs were lost: when their chunks are mapped again there will be another last fold

    def _complete(self) -> bool:
        """
        Whether every chunk has been mapped and every fold in between has ended.
        """
        maps = any(isinstance(attempt, MapAttempt) for attempt in self._running.values())
        return self._ended and not self._reading and not self._waiting and not maps and not self._folds

    def _conclude(self) -> None:
        if self._final:
            if all(handle is not None for handle in self._final.values()):
                self.over = True
                self._out.append(Conclude(tuple(self._final.values())))
        elif self._complete() and not self._undelivered:
            if self.plan.collects:
                self.over = True
                self._out.append(Conclude(()))
            else:
                self._submit_final()

    def _submit_final(self) -> None:
        outcomes = self._partials.all()
        inputs = tuple(outcome.handle for outcome in outcomes)
        nparts = min((outcome.nparts for outcome in outcomes), default=1)
        many = nparts > 1 and sum(outcome.size for outcome in outcomes) > MANY_KEYS
        for partition in range(nparts) if many else [None]:
            attempt = FoldAttempt(self._new_id(), 1, inputs, partition, True)
            self._final[attempt.id] = None
            self._submit(attempt)

    # What goes out

    def _fill(self) -> None:
        """
        Keep two tasks per worker under way: from what has to be run again first, from the input then.
        """
        window = 2 * self.workers
        if self.plan.buffersize is not None:
            window = min(window, self.plan.buffersize)
        while len(self._running) < window:
            if self._waiting:
                self._submit(self._waiting.popleft())
            elif not self._ended and not self._reading and self._may_read(window):
                self._reading = True
                self._out.append(Read(self._next_lot, self._read_size()))
                self._next_lot += 1
            else:
                break

    def _may_read(self, window: int) -> bool:
        behind = len(self._undelivered) if self.plan.streams else 0
        return self._untaken + behind < 2 * window

    def _read_size(self) -> int:
        assert self._sizer is not None
        if self.plan.splits:
            return 1
        size = self.plan.chunksize
        if size is None:
            return self._sizer.next()
        return size * (self._sizer.next() if self.plan.bundle else 1)

    def _submit(self, attempt: Attempt) -> None:
        self._running[attempt.id] = attempt
        self._out.append(Submit(attempt))

    def _new_id(self) -> int:
        self._ids += 1
        return self._ids

    def _abort(self, error: BaseException) -> None:
        self.over = True
        self._out.append(Abort(error))
