"""
The state machine of a run: C{(event, now)} goes in, instructions come out. No I/O, no clock, no Twisted.

Rules:

 1. Chunks are numbered in input order. A chunk counts once: the first result that covers it is accepted, whatever else
    arrives for it is dropped.
 2. What a task gave is known by a I{handle}. Only the backend knows what is behind it, and where. A handle that is not
    I{secure} can be lost together with the worker that keeps it; then all the chunks it covers are mapped again.
 3. No more is read from the input than two tasks per worker, and nothing is read while results wait to be taken.
 4. Only a chunk that was running is charged for the death of a worker; the others of its task are run again for free.
 5. User code runs in workers only. So folding is a task, too: wherever L{FAN_IN} partials stand next to each other
    they are folded into one, in input order, and at the end one last fold finishes the result.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Union

from ._chunking import Sizer
from .errors import RunTimedOut, TaskFailed, TaskTimedOut

FAN_IN = 64
"""How many partials one fold takes. A fold costs a round trip, so many; it is all done by one worker, so not too many."""

MANY_KEYS = 100_000
"""From how many keys on the last fold is done by all workers side by side, a partition each."""

Handle = Hashable


@dataclass(frozen=True)
class Plan:
    """
    What the schedule has to know of a run.

    @ivar collects: the result is the list of values, else one folded value.
    @ivar ordered: partials have to be folded in input order.
    @ivar chunksize: records per chunk, where the user or the policy fixed it.
    @ivar splits: the input consists of splits, one chunk each.
    @ivar length: records of the input, or C{None}.
    @ivar bundle: several chunks of a fixed size may go into one task.
    @ivar streams: results are taken one after the other, and reading waits for that.
    """

    collects: bool
    ordered: bool
    chunksize: int | None = None
    splits: bool = False
    length: int | None = None
    bundle: bool = True
    streams: bool = False
    in_order: bool = True
    retries: int = 3
    buffersize: int | None = None
    task_timeout: float | None = None
    timeout: float | None = None
    max_bad_records: int | None = None


@dataclass(frozen=True)
class MapAttempt:
    """
    One try at mapping C{count} chunks from chunk C{first} on; their records are in lot C{lot} of what was read.
    """

    id: int
    attempt: int
    lot: int
    first: int
    count: int
    chunksize: int
    hold: bool


@dataclass(frozen=True)
class FoldAttempt:
    """
    One try at folding C{inputs} in order. C{partition}: of each input this part alone; C{None}: all of it.
    """

    id: int
    attempt: int
    inputs: tuple[Handle, ...]
    partition: int | None
    finish: bool


Attempt = Union[MapAttempt, FoldAttempt]


@dataclass(frozen=True)
class Outcome:
    """
    What an attempt gave.

    @ivar size: values or keys behind the handle. C{nparts}: partitions that it is cut in.
    @ivar nbytes: the larger of what went in and what came out, as far as the coordinator saw it.
    """

    handle: Handle
    secure: bool = True
    records: int = 0
    size: int = 1
    nparts: int = 1
    nbytes: int = 0
    seconds: float = 0.0
    counters: tuple[tuple[str, str, int], ...] = ()
    skipped: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class BadRecord:
    """
    A record that was left out.

    @ivar chunk: the number of its chunk. C{record}: its number in that chunk, from 0.
    @ivar reason: the exception and the record, as text.
    """

    chunk: int
    record: int
    reason: str


# Events


@dataclass(frozen=True)
class Capacity:
    """The backend can run C{workers} tasks at once."""

    workers: int


@dataclass(frozen=True)
class Got:
    """What L{Read} asked for: C{records} records (for a split: 1) in lot C{lot}. C{ended}: there is no more."""

    lot: int
    records: int
    ended: bool


@dataclass(frozen=True)
class InputFailed:
    """The input raised C{error}."""

    error: BaseException


@dataclass(frozen=True)
class Started:
    """The attempt has begun to run."""

    id: int


@dataclass(frozen=True)
class Finished:
    """The attempt ended well."""

    id: int
    outcome: Outcome


@dataclass(frozen=True)
class Broke:
    """
    The attempt ended with C{error}, in chunk C{chunk} where that is known. C{retry}: it may be tried again; C{charge}:
    and that counts as an attempt.
    """

    id: int
    error: BaseException
    retry: bool
    charge: bool = True
    chunk: int | None = None


@dataclass(frozen=True)
class Secured:
    """What was behind a handle that was not secure has been brought to where it can't be lost."""

    handle: Handle


@dataclass(frozen=True)
class Lost:
    """What was behind a handle that was not secure is gone."""

    handle: Handle


@dataclass(frozen=True)
class Taken:
    """C{count} of the delivered results have been taken by the reader of a stream."""

    count: int


@dataclass(frozen=True)
class Asked:
    """Somebody wants to know the result so far."""

    ticket: int


@dataclass(frozen=True)
class Tick:
    """The time asked for by L{Wake} has come."""


Event = Union[Capacity, Got, InputFailed, Started, Finished, Broke, Secured, Lost, Taken, Asked, Tick]

# Instructions


@dataclass(frozen=True)
class Read:
    """Take the next C{records} records (or one split) from the input as lot C{lot}, and say what came: L{Got}."""

    lot: int
    records: int


@dataclass(frozen=True)
class Submit:
    """Hand the attempt to the backend."""

    attempt: Attempt


@dataclass(frozen=True)
class Kill:
    """Stop the attempt where it runs; it ends with C{error}."""

    id: int
    error: BaseException


@dataclass(frozen=True)
class Deliver:
    """The results behind C{handle} come next."""

    handle: Handle


@dataclass(frozen=True)
class Drop:
    """The records of lot C{lot} are no longer needed."""

    lot: int


@dataclass(frozen=True)
class Answer:
    """The result so far is behind C{handles}; none: there is nothing yet."""

    ticket: int
    handles: tuple[Handle, ...]


@dataclass(frozen=True)
class Conclude:
    """The run is complete. What was folded is behind C{handles}."""

    handles: tuple[Handle, ...]


@dataclass(frozen=True)
class Abort:
    """The run failed."""

    error: BaseException


@dataclass(frozen=True)
class Wake:
    """Send a L{Tick} at time C{at}, at the latest."""

    at: float


Instruction = Union[Read, Submit, Kill, Deliver, Drop, Answer, Conclude, Abort, Wake]


@dataclass
class _Lot:
    """
    What one L{Read} gave: C{left} of its chunks have no result yet that is secure.
    """

    first: int
    left: int


@dataclass
class _Partial:
    """
    An accepted handle and the parts of lots that it covers.
    """

    outcome: Outcome
    covers: list[MapAttempt] = field(default_factory=list)
    counters: Counter[tuple[str, str]] = field(default_factory=Counter)
    skipped: list[BadRecord] = field(default_factory=list)
    records: int = 0


@dataclass
class _Node:
    """
    A place in the tree of ordered folds: C{handle} is C{None} until its fold has ended.
    """

    level: int
    handle: Handle | None = None


class Schedule:
    """
    Decides what a run does next.

    @ivar over: the run has ended, well or not.
    """

    def __init__(self, plan: Plan, now: float) -> None:
        self.plan = plan
        self.over = False
        self.workers = 0
        self.chunks_done = 0
        self.chunks_total: int | None = None
        self.records_done = 0
        self.retried = 0
        self.counters: Counter[tuple[str, str]] = Counter()
        self.skipped: list[BadRecord] = []
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
        self._partials: dict[Handle, _Partial] = {}
        self._levels: list[list[_Node]] = [[]]
        self._folds: dict[int, _Node] = {}
        self._tickets: dict[int, int] = {}
        self._final: dict[int, Handle | None] = {}
        self._out: list[Instruction] = []

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

    def _on_lost(self, event: Lost, now: float) -> None:
        partial = self._partials.pop(event.handle, None)
        if partial is None or partial.outcome.secure:
            return
        self.counters.subtract(partial.counters)
        self.records_done -= partial.records
        for bad in partial.skipped:
            self.skipped.remove(bad)
        for attempt in reversed(partial.covers):
            self.chunks_done -= attempt.count
            self.retried += 1
            self._waiting.appendleft(replace(attempt, id=self._new_id()))

    def _on_taken(self, event: Taken, now: float) -> None:
        self._untaken -= event.count

    def _on_asked(self, event: Asked, now: float) -> None:
        self._ask(event.ticket, 1)

    def _ask(self, ticket: int, number: int) -> None:
        inputs = self._inputs()
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
        self.chunks_done += attempt.count
        self.records_done += outcome.records
        counters = Counter({(group, name): n for group, name, n in outcome.counters})
        size = attempt.chunksize
        bad = [BadRecord(attempt.first + at // size, at % size, text) for at, text in outcome.skipped]
        if self.plan.splits:
            bad = [BadRecord(attempt.first, at, text) for at, text in outcome.skipped]
        self.counters.update(counters)
        self.skipped.extend(bad)
        limit = self.plan.max_bad_records
        if limit is not None and len(self.skipped) > limit:
            text = f"more than {limit} bad records (the policy's max_bad_records); the last: {self.skipped[-1].reason}"
            self._abort(TaskFailed(text, chunk=attempt.first, attempt=attempt.attempt))
        elif attempt.hold:
            self._hold(attempt, outcome, counters, bad)
        else:
            self._release(attempt)
            self._undelivered[attempt.first] = (attempt.count, outcome)
            self._pass_on()

    def _hold(
        self, attempt: MapAttempt, outcome: Outcome, counters: Counter[tuple[str, str]], bad: list[BadRecord]
    ) -> None:
        """
        The handle of an accumulator that its worker may go on with covers one more attempt; perhaps it is secure now.
        """
        partial = self._partials.setdefault(outcome.handle, _Partial(outcome))
        partial.outcome = outcome
        partial.covers.append(attempt)
        partial.counters.update(counters)
        partial.skipped.extend(bad)
        partial.records += outcome.records
        if outcome.secure:
            self._secure(partial)

    def _on_secured(self, event: Secured, now: float) -> None:
        partial = self._partials.get(event.handle)
        if partial is not None:
            partial.outcome = replace(partial.outcome, secure=True)
            self._secure(partial)

    def _secure(self, partial: _Partial) -> None:
        """
        The records behind C{partial} will not be needed again. When there are many like it, they are folded into one.
        """
        for covered in partial.covers:
            self._release(covered)
        partial.covers.clear()
        secure = [handle for handle, other in self._partials.items() if other.outcome.secure]
        if len(secure) >= FAN_IN and not self._final:
            self._fold_held(secure)

    def _fold_held(self, handles: list[Handle]) -> None:
        for handle in handles:
            del self._partials[handle]
        self._submit_fold(_Node(1), tuple(handles))

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
                self._grow(_Node(0, outcome.handle))

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

    def _grow(self, node: _Node) -> None:
        """
        Put C{node} behind the others of its level, and fold the level's first L{FAN_IN} where they are all there.
        """
        self._levels[node.level].append(node)
        self._fold_level(node.level)

    def _fold_level(self, number: int) -> None:
        level = self._levels[number]
        while len(level) >= FAN_IN and all(node.handle is not None for node in level[:FAN_IN]):
            inputs = tuple(node.handle for node in level[:FAN_IN])
            del level[:FAN_IN]
            if len(self._levels) == number + 1:
                self._levels.append([])
            parent = _Node(number + 1)
            self._levels[number + 1].append(parent)
            self._submit_fold(parent, inputs)

    def _submit_fold(self, node: _Node, inputs: tuple[Handle, ...]) -> None:
        attempt = FoldAttempt(self._new_id(), 1, inputs, None, False)
        self._folds[attempt.id] = node
        self._submit(attempt)

    def _accept_fold(self, attempt: FoldAttempt, outcome: Outcome) -> None:
        if attempt.id in self._tickets:
            self._out.append(Answer(self._tickets.pop(attempt.id), (outcome.handle,)))
        elif attempt.id in self._final:
            self._final[attempt.id] = outcome.handle
        elif attempt.id in self._folds:
            node = self._folds.pop(attempt.id)
            if self.plan.ordered:
                node.handle = outcome.handle
                self._fold_level(node.level)
            else:
                self._partials[outcome.handle] = _Partial(outcome)

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

    def _inputs(self) -> tuple[Handle, ...]:
        """
        All there is to fold, in input order: what lies higher in the tree stands for earlier chunks.
        """
        if not self.plan.ordered:
            return tuple(self._partials)
        nodes = (node for level in reversed(self._levels) for node in level)
        return tuple(node.handle for node in nodes if node.handle is not None)

    def _conclude(self) -> None:
        if self._final:
            if all(handle is not None for handle in self._final.values()):
                self.over = True
                self._out.append(Conclude(tuple(self._final.values())))
        elif self._complete() and not self._undelivered:
            self.chunks_total = self.next_chunk
            if self.plan.collects:
                self.over = True
                self._out.append(Conclude(()))
            else:
                self._submit_final()

    def _submit_final(self) -> None:
        inputs = self._inputs()
        outcomes = [partial.outcome for partial in self._partials.values()]
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
