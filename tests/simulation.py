"""
Runs of the schedule in virtual time, on workers that die, hang, lag and answer when nobody listens any more.

One number, the seed, decides everything about a run: its plan, its data, what goes wrong and when. The backend is a
fake that honours the contract of a L{txmapreduce.backends.Session} and folds real data with the real task code, so that
a chunk that is lost, counted twice or folded out of order shows in the result. After every event it is checked that the
schedule keeps its promises. What fails prints the seed and the whole story.

    - L{Setting}: what the seed has decided.
    - L{Workers}: the fake backend.
    - L{Simulation}: stands in for the coordinator, and checks.
    - L{main}: many runs, for C{scripts/simulate}.
"""

from __future__ import annotations

import argparse
import heapq
import operator
import os
import pickle
import random
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial, reduce
from itertools import islice
from typing import Any
from unittest.mock import patch

from txmapreduce._schedule import backups, events
from txmapreduce._schedule import partials as _partials
from txmapreduce._schedule.checked import CheckedSchedule
from txmapreduce._schedule.events import Attempt, Event, FoldAttempt, Instruction, MapAttempt, Outcome, Plan
from txmapreduce._schedule.schedule import Schedule
from txmapreduce._shuffle.keys import ByKey, by_key
from txmapreduce._shuffle.tables import as_dict, pieces
from txmapreduce._tasks.runner import EMPTY, MapTask, Program, Reduce, Runner, TaskError
from txmapreduce.aggregates import Collect, Counts
from txmapreduce.errors import MapReduceError, RunTimedOut, TaskFailed, TaskTimedOut, WorkerDied

MOST_EVENTS = 100_000
MOST_SECONDS = 100_000.0


class Wrong(AssertionError):
    """
    A run did not do what it had to.
    """


class Bad(Exception):
    """
    What the user's function raises.
    """


EXPECTED = {
    "poison": WorkerDied,
    "hang": TaskTimedOut,
    "raise": Bad,
    "input": Bad,
    "skips": TaskFailed,
    "fold dies": WorkerDied,
    "fold raises": Bad,
    "timeout": RunTimedOut,
}
"""What may have to end a run, and the error that comes of it."""


# What a run is


@dataclass
class Setting:
    """
    Everything about a run that is decided beforehand.

    @ivar kind: what the job computes.
    @ivar trouble: what has to end the run; empty: nothing, it has to succeed.
    @ivar starvation: which share of the deaths is for want of memory.
    @ivar bad: the records for which the mapper raises. C{killers}: those of them that end their worker.
    @ivar culprit: the record that ends its worker, always, and with it the run.
    """

    kind: str
    trouble: str
    plan: Plan
    program: Program
    records: list[int]
    split_sizes: list[int]
    bad: frozenset[int]
    killers: frozenset[int]
    culprit: int | None
    workers: int
    fan_in: int
    holds: bool
    death: float
    hang: float
    starvation: float
    refusal: float
    lag: float
    late: float
    slow_input: float
    slow_reader: float
    hold_seconds: float
    key_size: int
    kills: list[float]
    resizes: list[float]
    questions: list[float]


def decide(rng: random.Random) -> Setting:
    """
    Draw a run.
    """
    kind = rng.choice(["concat", "concat", "shape", "bykey", "bykey", "counts", "list", "stream", "rush"])
    folds = kind in ("concat", "shape", "bykey", "counts")
    splits = kind != "shape" and rng.random() < 0.2
    size = None if splits else rng.choice([None, 1, 2, 3, 5])
    length = rng.choice([0, 1, 2, 7, 30, 100, 100, 250])
    if kind == "shape":
        size = size or 1
    retries = rng.choice([0, 1, 2, 3])
    trouble = rng.choice([*[""] * 6, *EXPECTED])
    task_timeout = rng.choice([None, None, 5.0])
    flaky = False
    if trouble == "hang":
        task_timeout = 5.0
    if (trouble.startswith("fold") and not folds) or (not length and trouble in ("poison", "hang", "raise", "skips")):
        trouble = ""
    if trouble == "":
        flaky = retries > 0 and rng.random() < 0.2
    skip = trouble == "skips" or (not trouble and not flaky and rng.random() < 0.2)
    records = list(range(length))
    several = rng.sample(records, min(length, 1 if flaky else rng.randint(1, 12)))
    bad = frozenset(several) if skip or flaky or trouble == "raise" else frozenset()
    faults = rng.choice([0.0, 1.0, 1.0, 3.0])
    plan = Plan(
        collects=not folds,
        ordered=kind in ("concat", "shape"),
        chunksize=size,
        splits=splits,
        length=length if not splits and rng.random() < 0.5 else None,
        bundle=kind != "shape" and task_timeout is None and rng.random() < 0.8,
        streams=kind in ("stream", "rush"),
        in_order=kind != "rush",
        retries=retries,
        buffersize=rng.choice([None, None, 1, 2, 5, 40]),
        task_timeout=task_timeout,
        timeout=rng.choice([0.5, 2.0, 30.0]) if trouble == "timeout" else None,
        max_bad_records=len(bad) - 1 if trouble == "skips" else rng.choice([None, len(bad)]) if skip else None,
        skips=skip and kind != "shape",  # what is mapped in pieces has another shape
        whole=kind == "shape",
        speculate=length % 2 == 0,  # and so every seed means what it did before there was such a thing
    )
    return Setting(
        kind=kind,
        trouble=trouble,
        plan=plan,
        program=program_of(kind, skip, flaky),
        records=records,
        split_sizes=[rng.randint(0, 9) for _ in range(length)],
        bad=bad,
        killers=frozenset(record for record in bad if plan.skips and record % 2),
        culprit=rng.choice(records) if trouble in ("poison", "hang") else None,
        workers=rng.choice([1, 2, 3, 5, 8]),
        fan_in=rng.choice([2, 3, 4, 64]),
        holds=rng.random() < 0.8,
        death=faults * rng.choice([0.0, 0.02, 0.1]),
        hang=0.0 if task_timeout is None else faults * rng.choice([0.0, 0.05]),
        starvation=rng.choice([0.0, 0.3, 1.0]),
        refusal=faults * rng.choice([0.0, 0.03]),
        lag=faults * 0.1,
        late=faults * 0.1,
        slow_input=rng.choice([0.0, 0.0, 0.01, 0.5]),
        slow_reader=rng.choice([0.0, 0.01, 1.0]),
        hold_seconds=rng.choice([0.01, 0.2, 10.0]),
        key_size=rng.choice([1, 50_000]),
        kills=[rng.expovariate(1.0) for _ in range(rng.choice([0, 0, 3, 10]) if faults else 0)],
        resizes=[rng.expovariate(1.0) for _ in range(rng.choice([0, 0, 4]))],
        questions=[rng.expovariate(2.0) for _ in range(rng.choice([0, 2, 8]) if folds else 0)],
    )


def program_of(kind: str, skip: bool, flaky: bool) -> Program:
    """
    The program of a kind of job; its mapper is not there yet.
    """
    aggregate: Any = {
        "concat": Reduce(operator.add),
        "shape": Reduce(lambda a, b: f"({a} {b})"),
        "bykey": ByKey(operator.add),
        "counts": Counts(),
    }.get(kind, Collect())
    return Program(_nothing, aggregate, pairs=kind == "bykey", skip_bad=skip, isolate=flaky)


def _nothing(record: int) -> Any:
    raise NotImplementedError


def value_of(kind: str, record: int) -> Any:
    """
    What the mapper makes of a record.
    """
    if kind == "bykey":
        return [(f"key {record % 7}", record), (record, 1)]
    return record % 7 if kind == "counts" else f"{record},"


class FakeSplit:
    """
    What the task code needs of a split.
    """

    blocks = False

    def __init__(self, records: list[int]) -> None:
        self.records = records

    def batches(self) -> Iterator[list[int]]:
        half = len(self.records) // 2
        yield from (self.records[:half], self.records[half:])


class FakeInput:
    """
    Splits, or records that are taken as they are asked for.

    @ivar chunks: the records of each chunk that has been read.
    """

    def __init__(self, setting: Setting, early: bool) -> None:
        """
        @param early: it tells its end together with the last records, not with none.
        """
        self._early = early
        self._size = setting.plan.chunksize
        self._records = setting.records
        self._at = 0
        self._splits: Iterator[FakeSplit] | None = None
        if setting.plan.splits:
            records = iter(setting.records)
            self._left = len(setting.split_sizes)
            self._splits = (FakeSplit(list(islice(records, size))) for size in setting.split_sizes)
        self.chunks: list[list[int]] = []

    def take(self, count: int) -> tuple[Any, int, bool]:
        """
        What is next, how many records that is (a split counts as one), and whether there is no more.
        """
        if self._splits is not None:
            split = next(self._splits, None)
            if split is None:
                return None, 0, True
            self._left -= 1
            self.chunks.append(split.records)
            return split, 1, self._early and not self._left
        taken = self._records[self._at : self._at + count]
        self._at += len(taken)
        size = self._size or max(1, len(taken))
        self.chunks += (taken[n : n + size] for n in range(0, len(taken), size))
        return taken, len(taken), not taken or (self._early and self._at == len(self._records))


def sequential(setting: Setting, chunks: list[list[int]]) -> Any:
    """
    What the run has to give, by plain Python.
    """
    skip = setting.program.skip_bad
    good = [[value_of(setting.kind, n) for n in chunk if not (skip and n in setting.bad)] for chunk in chunks]
    values = [value for chunk in good for value in chunk]
    if setting.kind == "shape":
        return tree([reduce(setting.program.aggregate.add, chunk, EMPTY) for chunk in good], setting)
    if setting.kind == "concat":
        return "".join(values) if values else EMPTY
    if setting.kind == "bykey":
        totals: dict[Any, int] = {}
        for key, number in (pair for pairs in values for pair in pairs):
            totals[key] = totals.get(key, 0) + number
        return totals
    return Counter(values) if setting.kind == "counts" else values


def tree(partials: list[Any], setting: Setting) -> Any:
    """
    Neighbours folded C{fan_in} at a time, level by level; at the end all that is left, what is higher up first.
    """
    merge, left = setting.program.aggregate.merge, []
    while partials:
        whole = len(partials) - len(partials) % setting.fan_in
        left.append(partials[whole:])
        groups = (partials[n : n + setting.fan_in] for n in range(0, whole, setting.fan_in))
        partials = [reduce(merge, group, EMPTY) for group in groups]
    return reduce(merge, (value for level in reversed(left) for value in level), EMPTY)


# Where tasks run


class Clock:
    """
    Virtual time.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def later(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        """
        Call in a while.
        """
        self._count += 1
        heapq.heappush(self._calls, (self.now + seconds, self._count, partial(call, *args)))

    def step(self) -> bool:
        """
        Do what is next. Whether there was anything.
        """
        if not self._calls:
            return False
        at, _, call = heapq.heappop(self._calls)
        self.now = max(self.now, at)
        call()
        return True


class Data:
    """
    A handle: encoded parts, or C{None} as long as C{worker} keeps them.
    """

    def __init__(self, parts: list[bytes] | None, worker: Worker | None, since: float) -> None:
        self.parts = parts
        self.worker = worker
        self.since = since
        self.awaited: list[Task] | None = None


@dataclass(eq=False)
class Task:
    """
    An attempt on its way. C{chunk}: the chunk that runs, as the worker's note says after its death.
    """

    attempt: Attempt
    source: Any
    chunk: int | None = None
    record: int | None = None
    running: bool = False
    dropped: bool = False


class Worker:
    """
    One worker from its start to its death.
    """

    def __init__(self, number: int, program: Program) -> None:
        self.number = number
        self.runner = Runner(program)
        self.queue: deque[Task | Data] = deque()
        self.keeps: Data | None = None
        self.owns: Data | None = None
        self.alive = True
        self.closing = False

    def tasks(self) -> list[Task]:
        """
        What it has in its pipe, the running one first.
        """
        return [item for item in self.queue if isinstance(item, Task)]


class Workers:
    """
    The fake backend. What it has to say goes to C{post}.
    """

    def __init__(self, setting: Setting, rng: random.Random, clock: Clock, post: Callable[[Event], None]) -> None:
        self.setting = setting
        self.rng = rng
        self.clock = clock
        self.post = post
        self.waiting: deque[Task] = deque()
        self.blame: Counter[int] = Counter()
        self.program = setting.program
        self.nparts = setting.workers if by_key(self.program.aggregate) else 1
        self._started = 0
        self._raised: Counter[int] = Counter()
        mapper = partial(self._mapped, setting.kind)
        self.program = Program(
            mapper,
            self.program.aggregate,
            pairs=self.program.pairs,
            skip_bad=self.program.skip_bad,
            isolate=self.program.isolate,
        )
        self.workers = [self._new_worker() for _ in range(setting.workers)]

    def _mapped(self, kind: str, record: int) -> Any:
        from txmapreduce._context import current_task

        current_task().counter("simulation", "records").increment()
        if record in self.setting.bad:
            self._raised[record] += 1
            if not self.program.isolate or self._raised[record] == 1:
                raise Bad(record)
        return value_of(kind, record)

    def _new_worker(self) -> Worker:
        self._started += 1
        return Worker(self._started, self.program)

    # What the coordinator asks

    def submit(self, attempt: Attempt, source: Any) -> None:
        """
        See L{txmapreduce.backends.Session}.
        """
        task = Task(attempt, source)
        if self.rng.random() < self.setting.refusal:
            self.clock.later(self.rng.random(), self._refuse, task)
        elif isinstance(attempt, MapAttempt) or not self._call_in(task):
            self.waiting.append(task)
            self.dispatch()

    def kill(self, id: int, error: MapReduceError) -> None:
        """
        See L{txmapreduce.backends.Session}.
        """
        self.waiting = deque(task for task in self.waiting if task.attempt.id != id)
        for worker in self.workers:
            for task in worker.tasks():
                if task.attempt.id == id and worker.alive:
                    task.dropped = True
                    if worker.queue[0] is task:
                        self.die(worker, error)

    def _refuse(self, task: Task) -> None:
        self.post(events.Broke(task.attempt.id, WorkerDied("it had not begun"), True, charge=False))

    # Tasks

    def dispatch(self) -> None:
        """
        Hand out tasks, two to a worker.
        """
        while self.waiting:
            usable = [worker for worker in self.workers if worker.alive and not worker.closing]
            worker = min(usable, key=lambda worker: len(worker.tasks()), default=None)
            if worker is None or len(worker.tasks()) > 1:
                return
            self._enqueue(worker, self.waiting.popleft())

    def _enqueue(self, worker: Worker, item: Task | Data) -> None:
        worker.queue.append(item)
        if len(worker.queue) == 1:
            self._begin(worker)

    def _begin(self, worker: Worker) -> None:
        item, rng = worker.queue[0], self.rng
        if isinstance(item, Data):
            self.clock.later(rng.random() * 0.01, self._at_worker, worker, item, self._hand_over)
            return
        if item.dropped:
            self.die(worker, WorkerDied("nobody waits for what it would do next"))
            return
        item.running = True
        self.clock.later(0.0, self._tell_started, item)
        fate, item.chunk = self._fate(item)
        seconds = self._seconds(item)
        if fate == "hang":
            return
        if fate == "die":
            self.clock.later(seconds * rng.random(), self._at_worker, worker, item, self._die_running)
        else:
            self.clock.later(seconds, self._at_worker, worker, item, partial(self._work, fate, seconds))

    def _at_worker(self, worker: Worker, item: Any, call: Callable[[Worker, Any], None]) -> None:
        if worker.alive and worker.queue and worker.queue[0] is item:
            call(worker, item)

    def _tell_started(self, task: Task) -> None:
        if task.running:
            self.post(events.Started(task.attempt.id))

    def _fate(self, task: Task) -> tuple[str, int | None]:
        """
        What becomes of a task, and in which chunk. Nothing that counts as an attempt where that would be the last one.
        """
        attempt, setting, rng = task.attempt, self.setting, self.rng
        if isinstance(attempt, FoldAttempt):
            spare = attempt.attempt <= setting.plan.retries
            doomed = setting.trouble == "fold dies"
            fate = "die" if doomed or (spare and rng.random() < setting.death) else "well"
            return "hang" if fate == "well" and spare and rng.random() < setting.hang else fate, None
        guilty = self._culprit(attempt, task.source)
        if guilty is not None:
            return "hang" if setting.trouble == "hang" else "die", guilty
        killer = next((at for at, record in enumerate(self._of(task)) if record in setting.killers), None)
        if killer is not None:
            task.record = attempt.start + killer if attempt.careful else None
            return "die", attempt.first + killer // max(1, attempt.chunksize or killer + 1)
        if setting.plan.skips and attempt.single:
            return "well", attempt.first  # this would be taken for the record's fault
        chunk = attempt.first + rng.randrange(attempt.count)
        if attempt.careful and (records := self._of(task)):
            task.record = rng.choice([None, attempt.start + rng.randrange(len(records))])
        if self._spare(chunk):
            if rng.random() < setting.death:
                return rng.choice(["die", "die at the end"]), chunk
            if rng.random() < setting.hang:
                return "hang", chunk
        return "well", chunk

    def _of(self, task: Task) -> list[int]:
        """
        The records that a map is to take.
        """
        attempt, source = task.attempt, task.source
        assert isinstance(attempt, MapAttempt)
        return list(source.records if isinstance(source, FakeSplit) else source)[attempt.start : attempt.stop]

    def _spare(self, chunk: int) -> bool:
        least = 1 if self.program.isolate else 0  # what raises once must be able to
        if self.setting.plan.speculate:
            least += sum(task.chunk == chunk for worker in self.workers for task in worker.tasks())
        return self.blame[chunk] + least < self.setting.plan.retries

    def _culprit(self, attempt: MapAttempt, source: Any) -> int | None:
        records = source.records if isinstance(source, FakeSplit) else source
        if self.setting.culprit not in records:
            return None
        return attempt.first + records.index(self.setting.culprit) // max(1, attempt.chunksize or len(records))

    def _seconds(self, task: Task) -> float:
        rng, attempt = self.rng, task.attempt
        units = len(attempt.inputs) if isinstance(attempt, FoldAttempt) else self._records(task.source)
        seconds = (0.001 + 0.002 * units) * (20 if rng.random() < self.setting.lag else 1) * rng.uniform(0.5, 1.5)
        limit = self.setting.plan.task_timeout
        return seconds if limit is None else min(seconds, 0.9 * limit)

    def _records(self, source: Any) -> int:
        return len(source.records if isinstance(source, FakeSplit) else source)

    def _work(self, fate: str, seconds: float, worker: Worker, task: Task) -> None:
        """
        Do the work, and answer unless that is not to be.
        """
        try:
            answer = (
                self._map(worker, task, seconds) if isinstance(task.attempt, MapAttempt) else self._fold(worker, task)
            )
        except TaskError as error:
            answer = self._failed(task, error)
        if fate == "die at the end":
            self._die_running(worker, task)
        else:
            self.clock.later(self.rng.random() * 0.005, self._at_worker, worker, task, partial(self._answer, answer))

    def _answer(self, answer: Callable[[], Event], worker: Worker, task: Task) -> None:
        task.running = False
        event = answer()
        self._next(worker)
        self.post(event)
        if self.rng.random() < self.setting.late:
            self.clock.later(self.rng.random(), self.post, event)  # it is told twice
        self.dispatch()

    def _next(self, worker: Worker) -> None:
        """
        What was the first in the worker's pipe is done.
        """
        worker.queue.popleft()
        if worker.queue:
            self._begin(worker)
        elif worker.closing and worker.keeps is not None:
            self._ask(worker.keeps)

    def _map(self, worker: Worker, task: Task, seconds: float) -> Callable[[], Event]:
        attempt, setting = task.attempt, self.setting
        assert isinstance(attempt, MapAttempt)
        hold = attempt.may_hold and setting.holds and not worker.closing
        done = worker.runner.map(
            MapTask(attempt.attempt, attempt.first, attempt.count, attempt.chunksize, hold, start=attempt.start),
            FakeSplit(self._of(task)) if isinstance(task.source, FakeSplit) else self._of(task),
        )
        parts = None if done.held else self._parts(worker, done.partial)
        size, counters, skipped = done.size * setting.key_size, done.report.counters, done.report.skipped

        def answer() -> Event:
            handle = self._kept(worker) if parts is None else Data(parts, None, 0.0)
            nparts = self.nparts if parts is None else len(parts)
            outcome = Outcome(handle, not done.held, done.records, size, nparts, 0, seconds, counters, skipped)
            return events.Finished(attempt.id, outcome)

        return answer

    def _parts(self, worker: Worker, value: Any) -> list[bytes]:
        return [pickle.dumps(part) for part in worker.runner.parts(value, self.nparts)]

    def _fold(self, worker: Worker, task: Task) -> Callable[[], Event]:
        attempt = task.attempt
        assert isinstance(attempt, FoldAttempt)
        if self.setting.trouble == "fold raises":
            raise TaskError(-1, -1, "fold") from Bad("fold")
        found = (
            handle.parts if attempt.partition is None else [handle.parts[attempt.partition]]  # type: ignore
            for handle in attempt.inputs
        )
        value = worker.runner.fold([pickle.loads(part) for parts in found for part in parts], attempt.finish)
        parts = list(map(pickle.dumps, pieces(value))) if attempt.finish else self._parts(worker, value)
        outcome = Outcome(Data(parts, None, 0.0), size=self.setting.key_size, nparts=len(parts))
        return lambda: events.Finished(attempt.id, outcome)

    def _failed(self, task: Task, error: TaskError) -> Callable[[], Event]:
        chunk = error.chunk if isinstance(task.attempt, MapAttempt) else None
        retry = self.program.isolate
        if retry and chunk is not None:
            self.blame[chunk] += 1
        cause = error.__cause__
        assert isinstance(cause, Bad), repr(cause)
        return lambda: events.Broke(task.attempt.id, cause, retry, True, chunk)

    # What workers keep

    def _kept(self, worker: Worker) -> Data:
        if worker.keeps is None:
            worker.keeps = Data(None, worker, self.clock.now)
        if self.clock.now - worker.keeps.since > self.setting.hold_seconds:
            self.clock.later(0.0, self._ask, worker.keeps)
        return worker.keeps

    def _ask(self, data: Data) -> list[Task]:
        if data.awaited is None:
            data.awaited = []
            worker = data.worker
            if worker is not None and worker.alive:
                self._enqueue(worker, data)
        return data.awaited

    def _call_in(self, task: Task) -> bool:
        missing = [data for data in task.attempt.inputs if data.parts is None]  # type: ignore
        if any(data.worker is None for data in missing):
            self.clock.later(0.0, self._inputs_lost, task)
            return True
        for data in missing:
            self._ask(data).append(task)
        return bool(missing)

    def _inputs_lost(self, task: Task) -> None:
        self.post(events.Broke(task.attempt.id, WorkerDied("what a worker kept was lost"), True, charge=False))

    def _hand_over(self, worker: Worker, data: Data) -> None:
        data.parts = [pickle.dumps(part) for part in worker.runner.hand_over(self.nparts)]
        data.worker = worker.keeps = None
        self._next(worker)
        last = [task for task in data.awaited or () if task.attempt.finish and not task.attempt.keeps]  # type: ignore
        if last and worker.owns is None and self.rng.random() < 0.8:
            worker.owns = data  # parts of it stay for the last fold
        else:
            self.post(events.Secured(data))
        if worker.owns is not data and self.rng.random() < self.setting.late:
            self.clock.later(self.rng.random(), self.post, self.rng.choice([events.Secured, events.Lost])(data))
        for task in data.awaited or ():
            if all(handle.parts is not None for handle in task.attempt.inputs):  # type: ignore
                self.waiting.append(task)
        self.dispatch()

    # Death

    def _die_running(self, worker: Worker, task: Task) -> None:
        self.die(worker, WorkerDied("it died"))

    def die(self, worker: Worker, error: MapReduceError) -> None:
        """
        A worker ends; the coordinator hears of it a little later.
        """
        worker.alive = False
        running = worker.queue[0] if worker.queue else None
        if isinstance(running, Task):
            running.running = False
            if running.chunk is not None:
                self.blame[running.chunk] += 1
        self.clock.later(self.rng.random() * 0.01, self._buried, worker, error)

    def _buried(self, worker: Worker, error: MapReduceError) -> None:
        rng = self.rng
        tasks = worker.tasks()
        guilty = tasks.pop(0) if tasks and worker.queue[0] is tasks[0] else None
        self.waiting.extendleft(task for task in reversed(tasks) if not task.dropped)
        self.workers.remove(worker)
        told: list[Event] = [] if worker.owns is None else [events.Lost(worker.owns)]
        if worker.keeps is not None:
            data, worker.keeps = worker.keeps, None
            data.worker = None
            lost = (events.Broke(task.attempt.id, error, True, charge=False) for task in data.awaited or ())
            told += [*lost, events.Lost(data, data.awaited is not None)]
        if guilty is not None:
            starved = rng.random() < self.setting.starvation
            broke = events.Broke(guilty.attempt.id, error, True, True, guilty.chunk, starved, guilty.record)
            told.insert(rng.randint(0, len(told)), broke)
            if rng.random() < self.setting.late:
                wrong = Data([pickle.dumps("wrong")], None, 0.0)
                self.clock.later(rng.random(), self.post, events.Finished(guilty.attempt.id, Outcome(wrong)))
        if rng.random() < 0.5:
            rng.shuffle(told)
        if not worker.closing:
            self.clock.later(rng.random() * 0.1, self._replace)
        for event in told:
            self.post(event)
        self.dispatch()

    def _replace(self) -> None:
        self.workers.append(self._new_worker())
        self.dispatch()

    def disturb(self, owners: bool = False) -> None:
        """
        Somebody kills a worker, whatever it does, if that can be forgiven. C{owners}: one that keeps parts for the last
        fold.
        """
        worker = self.rng.choice([*(worker for worker in self.workers if worker.owns or not owners), None])
        if worker is None or not worker.alive:
            return
        task = worker.queue[0] if worker.queue else None
        if isinstance(task, Task):
            attempt = task.attempt
            spare = self._spare(task.chunk) if task.chunk is not None else attempt.attempt <= self.setting.plan.retries
            if not spare:
                return
            if isinstance(attempt, MapAttempt):
                innocent = self.setting.plan.skips and attempt.single
                if innocent or self._culprit(attempt, task.source) is not None:
                    return
        self.die(worker, WorkerDied("it was killed"))

    def resize(self) -> None:
        """
        A worker more, or one less as soon as it has done what it has; sometimes there is none for a while.
        """
        usable = [worker for worker in self.workers if worker.alive and not worker.closing]
        if len(usable) > 1 and self.rng.random() < 0.5:
            worker = self.rng.choice(usable)
            worker.closing = True
            if not worker.queue and worker.keeps is not None:
                self._ask(worker.keeps)
        else:
            self._replace()
        usable = [worker for worker in self.workers if not worker.closing]
        if self.rng.random() < 0.3:
            self.post(events.Capacity(0))
            self.clock.later(self.rng.random(), self.post, events.Capacity(len(usable)))
        else:
            self.post(events.Capacity(len(usable)))


# The run


class Simulation:
    """
    One run: does what the schedule says, and checks it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.setting = decide(self.rng)
        self.clock = Clock()
        self.story: list[tuple[float, Event | Instruction]] = []
        self.events = 0
        self.end: events.Conclude | events.Abort | None = None
        self._queue: deque[Event] = deque()
        self._busy = False
        self._input = FakeInput(self.setting, self.rng.random() < 0.3 and self.setting.trouble != "input")
        self._chunks = self._input.chunks
        self._lots: dict[int, tuple[int, Any]] = {}
        self._most = 0
        self._open: dict[int, Attempt] = {}
        self.backups = self.careful = 0
        self.discarded = False
        self._losers: set[int] = set()
        self._ids: set[int] = set()
        self._started: set[int] = set()
        self._delivered: deque[tuple[Any, int]] = deque()
        self._by_handle: dict[Any, int] = {}
        self._seen: set[Any] = set()
        self._untaken = 0  # results that have been delivered; and those that have come but have not been taken:
        self._unfinished = 0
        self._pieces = 0  # tasks that there are more because a bundle is made again in pieces
        self._taken = 0
        self._values: list[Any] = []
        self._asked: set[int] = set()
        self._reading = False

    def run(self) -> None:
        """
        From its start to its end.

        @raise Wrong: it did not do what it had to. The text is the whole story.
        """
        try:
            with patch.object(_partials, "FAN_IN", self.setting.fan_in), patch.object(backups, "LEAST", 0.02):
                self._go()
        except Exception as error:
            raise Wrong(f"{type(error).__name__}: {error}\n{self.told()}") from error

    def told(self) -> str:
        """
        The story.
        """
        names = {id: f"#{n}" for n, id in enumerate(dict.fromkeys(map(id, self._handles())))}
        lines = [f"seed {self.seed}", f"{self.setting}"]
        for at, what in self.story:
            sign = "<-" if isinstance(what, Event) else "    ->"
            text = f"{what}"
            for number, name in names.items():
                text = text.replace(f"<tests.simulation.Data object at {number:#x}>", name)
                text = text.replace(f"<__main__.Data object at {number:#x}>", name)
            lines.append(f"{at:9.4f} {sign} {text}")
        return "\n".join(lines)

    def _handles(self) -> Iterator[Any]:
        for _, what in self.story:
            for holder in (what, getattr(what, "outcome", None), getattr(what, "attempt", None)):
                if (handle := getattr(holder, "handle", None)) is not None:
                    yield handle
                yield from getattr(holder, "inputs", ())

    def need(self, condition: object, text: str) -> None:
        """
        @raise Wrong: it does not hold.
        """
        if not condition:
            raise Wrong(text)

    def _go(self) -> None:
        setting, rng = self.setting, self.rng
        self.schedule = CheckedSchedule(setting.plan, 0.0)
        self.workers = Workers(setting, rng, self.clock, self.post)
        for instruction in self.schedule.start():
            self._carry_out(instruction)
        for at in setting.kills:
            self.clock.later(at, self.workers.disturb)
        for at in setting.resizes:
            self.clock.later(at, self.workers.resize)
        for ticket, at in enumerate(setting.questions):
            self.clock.later(at, self._question, ticket)
        self.post(events.Capacity(setting.workers))
        while self.end is None:
            self.need(self.clock.step(), "hung: nothing will happen any more")
            self.need(self.events < MOST_EVENTS, "hung: too many events")
            self.need(self.clock.now < MOST_SECONDS, "hung: too much time")
        self._check_end()

    # Events and instructions

    def post(self, event: Event) -> None:
        """
        Let the schedule know.
        """
        self._queue.append(event)
        if self._busy:
            return
        self._busy = True
        while self._queue:
            event = self._queue.popleft()
            self.events += 1
            self.story.append((self.clock.now, event))
            self._note(event)
            over = self.end is not None
            out = self.schedule.handle(event, self.clock.now)
            self.need(not (over and out), f"{out} after the end")
            self.need(self.end is None or self.schedule.over, "it has ended and does not know")
            for instruction in out:
                self.story.append((self.clock.now, instruction))
                self.need(self.end is None, f"{instruction} after the end")
                self._carry_out(instruction)
            self._check()
        self._busy = False

    def _note(self, event: Event) -> None:
        """
        What an event does to our own books.
        """
        if isinstance(event, events.Started):
            self._started.add(event.id)
        elif isinstance(event, (events.Finished, events.Broke)):
            attempt = self._open.pop(event.id, None)
            if isinstance(event, events.Finished) and isinstance(attempt, MapAttempt):
                self._by_handle[event.outcome.handle] = attempt.count if attempt.start == 0 else 0
                self._unfinished += 1
                self._end_race(attempt)
            elif isinstance(attempt, MapAttempt) and (attempt.count > 1 or attempt.careful):
                self._pieces += 2
                self.careful += attempt.careful

    def _end_race(self, winner: MapAttempt) -> None:
        """
        Nobody listens any more to another attempt at the same chunks.
        """
        for id, other in list(self._open.items()):
            if isinstance(other, MapAttempt) and (other.first, other.start) == (winner.first, winner.start):
                self.need(self.setting.plan.speculate and not winner.hold, "two attempts at one chunk")
                self._losers.add(id)
                del self._open[id]

    def _carry_out(self, instruction: Instruction) -> None:
        getattr(self, "_do_" + type(instruction).__name__.lower())(instruction)

    def _do_read(self, instruction: events.Read) -> None:
        plan = self.setting.plan
        maps = self._maps()
        self.need(not self._reading, "two reads at once")
        self.need(len(self._open) < 2 * self.schedule.workers, "reads though the workers have enough")
        if plan.streams and plan.buffersize is None:
            self.need(self._untaken < 2 * self.schedule.workers, "reads though results wait")
        chunks = -(-instruction.records // plan.chunksize) if plan.chunksize is not None else 1
        self.need(plan.buffersize is None or self._ahead() + chunks <= plan.buffersize, "reads too far ahead")
        self.need(maps <= 2 * self.schedule.workers, "too many maps")
        self._reading = True
        if self.setting.slow_input and self.rng.random() < 0.5:
            self.clock.later(self.rng.expovariate(1 / self.setting.slow_input), self._give, instruction)
        else:
            self._give(instruction)

    def _give(self, instruction: events.Read) -> None:
        self._reading = False
        if self.setting.trouble == "input" and self.rng.random() < 0.2:
            self.post(events.InputFailed(Bad("input")))
            return
        first = len(self._chunks)
        source, records, ended = self._input.take(instruction.records)
        if self.setting.trouble == "input" and not records:
            self.post(events.InputFailed(Bad("input")))
            return
        if records:
            self._lots[instruction.lot] = (first, source)
        self.post(events.Got(instruction.lot, records, ended))

    def _do_submit(self, instruction: events.Submit) -> None:
        attempt = instruction.attempt
        self.need(attempt.id not in self._ids, f"attempt {attempt.id} was there before")
        self._ids.add(attempt.id)
        self._open[attempt.id] = attempt
        source = None
        if isinstance(attempt, MapAttempt):
            self.need(self._maps() <= 2 * self.schedule.workers, "more maps than the workers can do with")
            self.backups += attempt.backup
            alone = any(getattr(other, "alone", False) for other in self._open.values())
            self.need(not alone or self._maps() == 1, "what ran out of memory is not alone")
            first, source = self._lots[attempt.lot]
            if not isinstance(source, FakeSplit) and self.setting.plan.chunksize is not None:
                start = (attempt.first - first) * attempt.chunksize
                source = source[start : start + attempt.count * attempt.chunksize]
        self.workers.submit(attempt, source)

    def _do_kill(self, instruction: events.Kill) -> None:
        lost = instruction.id in self._losers
        self.need(lost or instruction.id in self._open, "kills what has ended")
        self.need(lost or instruction.id in self._started, "kills what has not begun")
        self.need(lost or isinstance(instruction.error, TaskTimedOut), "kills without a reason")
        self.clock.later(0.0, self.workers.kill, instruction.id, instruction.error)

    def _do_drop(self, instruction: events.Drop) -> None:
        del self._lots[instruction.lot]

    def _do_wake(self, instruction: events.Wake) -> None:
        # As in real life, what was added to the time may come out a hair too early.
        early = 1e-7 * self.rng.random()
        self.clock.later(max(0.0, instruction.at - self.clock.now - early), self.post, events.Tick())

    def _do_deliver(self, instruction: events.Deliver) -> None:
        handle = instruction.handle
        self.need(handle not in self._seen, "delivered twice")
        self._seen.add(handle)
        if not self.setting.plan.collects:
            self._values.append(handle)
            self.clock.later(self.rng.random() * 0.02, self.workers.disturb, True)
            return
        self._values.extend(value for part in handle.parts for value in pickle.loads(part))  # type: ignore
        if self.setting.plan.streams:
            self._untaken += 1
            self._delivered.append((handle, self._by_handle[handle]))
            if self._untaken == 1:
                self._read_later()

    def _read_later(self) -> None:
        slow = self.setting.slow_reader
        self.clock.later(self.rng.expovariate(1 / slow) if slow else 0.0, self._take_results)

    def _take_results(self) -> None:
        count = min(self._untaken, self.rng.choice([1, 1, 2]))
        self._untaken -= count
        self._unfinished -= count
        self._taken += sum(self._delivered.popleft()[1] for _ in range(count))
        if self._untaken:
            self._read_later()
        self.post(events.Taken(count))

    def _do_answer(self, instruction: events.Answer) -> None:
        self._asked.remove(instruction.ticket)
        if instruction.error is not None:
            self.need(self.setting.trouble.startswith("fold"), f"no answer: {instruction.error}")
        elif instruction.handles:
            self._check_partial(self._value(instruction.handles))

    def _do_discard(self, instruction: events.Discard) -> None:
        self.need(bool(self._values), "nothing was delivered")
        self._values.clear()
        self.discarded = True

    def _do_conclude(self, instruction: events.Conclude) -> None:
        self.end = instruction

    def _do_abort(self, instruction: events.Abort) -> None:
        self.end = instruction

    def _question(self, ticket: int) -> None:
        if self.end is None:
            self._asked.add(ticket)
            self.post(events.Asked(ticket))

    # Checks

    def _maps(self) -> int:
        return sum(isinstance(attempt, MapAttempt) for attempt in self._open.values())

    def _ahead(self) -> int:
        done = self._taken if self.setting.plan.streams else self.schedule.tally.chunks
        if self.setting.killers:  # of some chunks nothing is left to be taken
            done = max(done, self.schedule._delivery.taken)
        return len(self._chunks) - done

    def _check(self) -> None:
        """
        What holds at any time.
        """
        schedule, plan = self.schedule, self.setting.plan
        self.need(0 <= schedule.tally.chunks <= len(self._chunks), "chunks counted twice")
        self._most = max(self._most, schedule.workers)
        if plan.streams and plan.buffersize is None:
            mapped = {attempt.first for attempt in self._open.values() if isinstance(attempt, MapAttempt)}
            tasks = self._unfinished + len(mapped)  # a backup is of the same chunks
            self.need(tasks <= 4 * self._most + self._pieces, f"{tasks} tasks ahead of the reader")

    def _check_partial(self, value: Any) -> None:
        """
        The result so far is one of a part of the input: the first part where order counts.
        """
        kind, whole = self.setting.kind, sequential(self.setting, self._chunks)
        if kind in ("concat", "shape") and value is not EMPTY:
            plain = value.translate({ord(sign): "" for sign in "() "})
            self.need(str(whole).translate({ord(sign): "" for sign in "() "}).startswith(plain), f"partial: {value}")
        elif kind in ("bykey", "counts"):
            self.need(all(number <= whole[key] for key, number in value.items()), f"partial: {value}")

    def _value(self, handles: Iterable[Any]) -> Any:
        values = [pickle.loads(part) for handle in handles for part in handle.parts]
        if len(values) == 1:
            return as_dict(values[0])
        whole: dict[Any, Any] = {}
        for value in values:
            self.need(whole.keys().isdisjoint(value), "a key in two partitions")
            whole.update(value.items())
        return whole

    def _check_end(self) -> None:
        trouble = self.setting.trouble
        assert self.end is not None
        if isinstance(self.end, events.Abort):
            self._check_error(self.end.error)
        else:
            self.need(self._may_succeed(), f"it succeeded in spite of {trouble!r}")
            self._check_result(self.end)
        for event in [events.Capacity(3), events.Tick(), events.Asked(99), events.Got(10**6, 1, False)]:
            self.need(self.schedule.handle(event, self.clock.now) == [], "it goes on after the end")

    def _may_succeed(self) -> bool:
        """
        Whether what should end the run has not come up.
        """
        setting, read = self.setting, {record for chunk in self._chunks for record in chunk}
        if setting.trouble in ("poison", "hang"):
            return setting.culprit not in read
        if setting.trouble in ("raise", "skips"):
            return len(setting.bad & read) <= (setting.plan.max_bad_records or 0)
        return setting.trouble in ("", "timeout")

    def _check_error(self, error: BaseException) -> None:
        setting, trouble = self.setting, self.setting.trouble
        self.need(trouble, f"it failed for no reason: {error!r}")
        self.need(type(error) is EXPECTED[trouble], f"another error: {error!r}")
        if trouble in ("poison", "hang"):
            blame = max(self.workers.blame.values())
            self.need(blame == setting.plan.retries + 1, f"{blame} attempts, {setting.plan.retries} retries")
        if trouble == "timeout":
            assert setting.plan.timeout is not None
            self.need(0 <= self.clock.now - setting.plan.timeout + 0.001 < 0.01, "not at its time")

    def _check_result(self, end: events.Conclude) -> None:
        setting, tally = self.setting, self.schedule.tally
        records = [record for chunk in self._chunks for record in chunk]
        total = len(setting.records) if not setting.plan.splits else min(len(records), len(setting.records))
        self.need(records == setting.records[:total], "not all was read")
        whole = sequential(setting, self._chunks)
        got = self._values if setting.plan.collects else self._value((*self._values, *end.handles))
        if setting.kind == "rush":
            got, whole = sorted(got), sorted(whole)
        self.need(got == whole, f"{got!r} is not {whole!r}")
        self.need(not any(isinstance(attempt, MapAttempt) for attempt in self._open.values()), "maps still run")
        kept = any(worker.owns for worker in self.workers.workers)  # parts that can be lost to the very end
        self.need(kept or not self._lots, f"lots are left: {self._lots}")
        self.need(tally.chunks == len(self._chunks) == self.schedule.chunks_total, "chunks not counted")
        self.need(tally.records == len(records), "records not counted")
        skips = sorted(setting.bad & set(records)) if setting.program.skip_bad else []
        names = sorted(self._chunks[bad.chunk][bad.record] for bad in tally.skipped)
        self.need(names == skips, f"skipped {names}, not {skips}")
        counted = +tally.counters
        killed = len(setting.killers & set(records))
        self.need(sum(counted.values()) == len(records) - killed, f"counters: {counted}")


# Many runs


def simulate(seed: int) -> int:
    """
    One run. How many events it took.

    @raise Wrong: with its story.
    """
    simulation = Simulation(seed)
    simulation.run()
    return simulation.events


def batch(seeds: range) -> tuple[int, list[str], Counter[str]]:
    """
    Runs one after the other: events, the stories of those that went wrong, and what the runs were like.
    """
    total, wrong, kinds = 0, [], Counter[str]()
    for seed in seeds:
        simulation = Simulation(seed)
        try:
            simulation.run()
        except Wrong as error:
            wrong.append(str(error))
        total += simulation.events
        kinds[simulation.setting.kind] += 1
        kinds["ends in: " + (simulation.setting.trouble or "success")] += 1
        kinds["with backups"] += simulation.backups > 0
        kinds["deliveries discarded"] += simulation.discarded
        kinds["with chunks in pieces"] += simulation.careful > 0
    return total, wrong, kinds


def speed(chunks: int, workers: int, **plan: Any) -> tuple[int, float]:
    """
    The schedule alone: how many events a run without troubles takes, and the seconds that they take. Each worker keeps
    what it folds until the end, where the plan lets it.
    """
    schedule = Schedule(Plan(chunksize=1, bundle=False, **plan), 0.0)
    keeps = not plan["collects"] and not plan["ordered"]
    running: deque[Attempt] = deque()
    count = read = 0
    queue: deque[Event] = deque([events.Capacity(workers)])
    begun = time.process_time()
    while not schedule.over:
        if not queue:
            attempt = running.popleft()
            held = keeps and isinstance(attempt, MapAttempt)
            handle = attempt.id % workers if held else -attempt.id
            queue.append(events.Started(attempt.id))
            queue.append(events.Finished(attempt.id, Outcome(handle, not held, 1, seconds=0.01)))
        for instruction in schedule.handle(queue.popleft(), float(count)):
            if isinstance(instruction, events.Submit):
                running.append(instruction.attempt)
            elif isinstance(instruction, events.Read):
                read += 1
                queue.append(events.Got(instruction.lot, int(read <= chunks), read > chunks))
            elif isinstance(instruction, events.Deliver) and plan.get("streams"):
                queue.append(events.Taken(1))
        count += 1
    assert schedule.tally.chunks == chunks
    return count, time.process_time() - begun


def tell_speed(chunks: int, workers: int) -> int:
    """
    What an event costs, for some kinds of plans.
    """
    for name, plan in (
        ("values", {"collects": True, "ordered": False}),
        ("stream", {"collects": True, "ordered": False, "streams": True}),
        ("ordered fold", {"collects": False, "ordered": True}),
        ("kept by workers", {"collects": False, "ordered": False}),
        ("task_timeout", {"collects": True, "ordered": False, "task_timeout": 60.0}),
    ):
        count, seconds = speed(chunks, workers, **plan)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(
            f"{name:16} {chunks:,} chunks, {workers:,} workers: {count:,} events, "
            f"{seconds / count * 1e6:.1f} us each, peak {peak:,} MiB",
            flush=True,
        )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """
    Simulate many runs and say what came of them.
    """
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=main.__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="this run alone, with its story")
    parser.add_argument("--first", type=int, default=0, help="the first seed of many (default: %(default)s)")
    parser.add_argument("--speed", type=int, metavar="CHUNKS", help="time the schedule alone with so many chunks")
    parser.add_argument("--workers", type=int, default=10_000, help="with --speed (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.speed is not None:
        return tell_speed(options.speed, options.workers)
    if options.seed is not None:
        return tell(options.seed)
    begun = time.monotonic()
    step = 250
    end = options.first + options.runs
    batches = [range(at, min(end, at + step)) for at in range(options.first, end, step)]
    total, wrong, kinds = 0, list[str](), Counter[str]()
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        for done, stories, found in pool.map(batch, batches):
            total += done
            wrong += stories
            kinds += found
            for story in stories[: max(0, 3 - len(wrong) + len(stories))]:
                print(story, end="\n\n", flush=True)
    seconds = time.monotonic() - begun
    hung = sum(": hung" in story.split("\n", 1)[0] for story in wrong)
    print(f"{options.runs / seconds:,.0f} runs/s, {total / seconds:,.0f} events/s, {total:,} events in {seconds:.1f} s")
    print(", ".join(f"{name}: {count:,}" for name, count in kinds.most_common()))
    print(f"{options.runs:,} runs, {len(wrong) - hung:,} wrong, {hung:,} hung")
    return 1 if wrong else 0


def tell(seed: int) -> int:
    """
    One run with its story.
    """
    simulation = Simulation(seed)
    try:
        simulation.run()
    except Wrong as error:
        print(error)
        return 1
    print(simulation.told())
    return 0


if __name__ == "__main__":
    sys.exit(main())
