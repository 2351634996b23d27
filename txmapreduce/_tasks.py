"""
Run one map or one reduce task: the same code in every backend.

A L{Program} is what a job asks of a worker. A L{Runner} executes its tasks in one process: L{Runner.map} takes chunks
to a partial, L{Runner.fold} takes partials to one. Whatever reduces is an L{Aggregate}, so a task is always the same
three steps: records, mapped values, C{add_many}.

With C{hold} a runner keeps folding into the same accumulator across tasks until L{Runner.hand_over} is called.
"""

from __future__ import annotations

import copy
import enum
import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from . import _context
from ._messages import NO_CHUNK, Report
from ._shuffle import split
from .aggregates import Aggregate
from .inputs import Split

__all__ = ["EMPTY", "MapTask", "Outcome", "Program", "Reduce", "Runner", "TaskError"]


class Empty(enum.Enum):
    """
    What is folded from no values at all, where there is no initial value: it has no value, so this stands for it.
    """

    EMPTY = "empty"


EMPTY = Empty.EMPTY
_TEXT_LIMIT = 500
"""Characters of a bad record that are kept for the report."""


class Reduce(Aggregate):
    """
    C{functools.reduce(op, values)}, or C{functools.reduce(op, values, initial)} with C{initial} counted once, at the
    end. C{op} has to be associative.
    """

    ordered = True

    def __init__(self, op: Callable[[Any, Any], Any], initial: Any = EMPTY) -> None:
        self.op = op
        self.initial = initial

    def zero(self) -> Any:
        return EMPTY

    def add(self, acc: Any, value: Any) -> Any:
        return value if acc is EMPTY else self.op(acc, value)

    def add_many(self, acc: Any, values: Iterable[Any]) -> Any:
        values = iter(values)
        if acc is EMPTY:
            acc = next(values, EMPTY)
        return functools.reduce(self.op, values, acc)

    def merge(self, a: Any, b: Any) -> Any:
        return a if b is EMPTY else self.add(a, b)

    def finish(self, acc: Any) -> Any:
        # A copy, since C{op} may change its first operand, and there may be another finish: of a partial, of a retry.
        return acc if self.initial is EMPTY else self.merge(copy.deepcopy(self.initial), acc)


@dataclass(frozen=True)
class Program:
    """
    What a worker has to know to run the tasks of one job.

    @ivar pairs: the mapper gives C{(key, value)} pairs, which are flattened.
    @ivar isolate: hold nothing from task to task, because the run may go on after a task that failed midway.
    """

    mapper: Callable[[Any], Any]
    aggregate: Aggregate
    flat: bool = False
    batched: bool = False
    pairs: bool = False
    skip_bad: bool = False
    isolate: bool = False
    seed: int | None = None


@dataclass(frozen=True)
class MapTask:
    """
    The part of a map task that a runner needs: C{count} chunks of C{chunksize} records (the last may have fewer)
    starting with chunk number C{first}; or, for a split, one chunk.
    """

    attempt: int
    first: int
    count: int
    chunksize: int
    hold: bool


@dataclass
class Outcome:
    """
    What a map task gave. C{partial} is L{EMPTY} when it was kept for L{Runner.hand_over}.
    """

    partial: Any
    held: bool
    records: int
    size: int
    seconds: float
    report: Report


class TaskError(Exception):
    """
    The user's code raised C{__cause__} in chunk C{chunk}, at record C{record} of the task (-1: unknown).
    """

    def __init__(self, chunk: int, record: int, stage: str) -> None:
        super().__init__(chunk, record, stage)
        self.chunk = chunk
        self.record = record
        self.stage = stage


class Note(Protocol):
    """
    Where a worker writes down what it is doing, for the coordinator to read after the worker's death: place 0 is the
    number of the chunk.
    """

    def __setitem__(self, place: int, number: int, /) -> None: ...


class _Progress:
    """
    Where in its task a runner is, for error messages.
    """

    def __init__(self) -> None:
        self._done = 0
        self._batch = 0
        self._records: Iterator[Any] = iter(())
        self._through = True

    def begin(self, records: Sequence[Any]) -> Iterator[Any]:
        """
        An iterator over the next C{records}.
        """
        self._done += self._batch
        self._batch = len(records)
        self._records = iter(records)
        self._through = False
        return self._records

    def map(self, mapper: Callable[[Any], Any]) -> Iterator[Any]:
        """
        The built-in C{map} over the records, but a StopIteration of the mapper's is an error and not their end.
        """
        return chain(map(mapper, chain(self._records, self._reached_end())), self._checked_end())

    def _reached_end(self) -> Iterator[Any]:
        self._through = True
        yield from ()

    def _checked_end(self) -> Iterator[Any]:
        if not self._through:
            raise RuntimeError("the mapper raised StopIteration")
        yield from ()

    @property
    def position(self) -> int:
        """
        The number of the record that was taken last: the iterators of lists and ranges tell for free what is left.
        """
        return self._done + self._batch - operator.length_hint(self._records) - 1

    @property
    def total(self) -> int:
        """
        How many records there have been.
        """
        return self._done + self._batch


_Values = Callable[[Iterator[Any], _Progress, list[tuple[int, str]]], Iterable[Any]]


class Runner:
    """
    Executes the tasks of one program in this process.
    """

    def __init__(self, program: Program, note: Note | None = None) -> None:
        self.program = program
        self._note: Note = [0] if note is None else note
        self._context = _context.Task(program.seed)
        self._held: list[Any] = []  # the accumulator that is kept from task to task, if there is one

    def map(self, task: MapTask, source: Sequence[Any] | Split) -> Outcome:
        """
        Run a map task over C{source}: the records of its chunks, or a split.

        @raise TaskError: the user's code raised, or exited.
        """
        context, progress = self._context, _Progress()
        hold = task.hold and not self.program.isolate
        skipped: list[tuple[int, str]] = []
        context.begin(task.first, task.attempt)
        _context.enter(context)
        begun = time.perf_counter()
        try:
            partial = self._fold_chunks(task, source, hold, progress, skipped)
        except BaseException as error:
            self._held.clear()  # the failed task may have left half of its values in there
            raise TaskError(context.index, progress.position, "map") from error
        finally:
            _context.leave()
        return Outcome(
            partial=EMPTY if hold else partial,
            held=hold,
            records=progress.total,
            size=len(partial) if isinstance(partial, Sized) else 1,
            seconds=time.perf_counter() - begun,
            report=Report(
                tuple((group, name, n) for (group, name), n in context.counters.items()),
                tuple(skipped),
                context.status_text,
            ),
        )

    def _fold_chunks(
        self,
        task: MapTask,
        source: Sequence[Any] | Split,
        hold: bool,
        progress: _Progress,
        skipped: list[tuple[int, str]],
    ) -> Any:
        aggregate, context, note = self.program.aggregate, self._context, self._note
        acc = self._held.pop() if hold and self._held else aggregate.zero()
        values, chunks = self._plan(task, source)
        for index, records in chunks:
            context.index = note[0] = index
            acc = aggregate.add_many(acc, values(progress.begin(records), progress, skipped))
        if hold:
            self._held.append(acc)
        return acc

    def _plan(
        self, task: MapTask, source: Sequence[Any] | Split
    ) -> tuple[_Values, Iterable[tuple[int, Sequence[Any]]]]:
        """
        How records become values, and the records of each chunk.
        """
        batched = self.program.batched
        if isinstance(source, Sequence):
            return self._mapping(batched), _chunks(task, source)
        if source.blocks:
            # Each block is a chunk of its own: what a batched mapper takes is a record here.
            return self._mapping(False, extra_flat=batched), ((task.first, batch) for batch in source.batches())
        size = task.chunksize if batched else 0
        return self._mapping(batched), ((task.first, part) for batch in source.batches() for part in _cut(batch, size))

    def _mapping(self, batched: bool, extra_flat: bool = False) -> _Values:
        program = self.program
        flatten = int(program.flat and not program.pairs) + int(extra_flat)
        if program.pairs and not batched and not extra_flat:
            flatten = 1
        if program.skip_bad:
            return functools.partial(_good_values, program.mapper, batched, flatten)
        return functools.partial(_all_values, program.mapper, batched, flatten)

    def fold(self, partials: Iterable[Any], finish: bool) -> Any:
        """
        Merge partials in the order given, and C{finish} what comes of it when they are all.

        @raise TaskError: the user's code raised, or exited.
        """
        aggregate = self.program.aggregate
        try:
            acc = functools.reduce(aggregate.merge, partials, aggregate.zero())
            return aggregate.finish(acc) if finish else acc
        except BaseException as error:
            raise TaskError(NO_CHUNK, NO_CHUNK, "fold") from error

    def hand_over(self, npartitions: int) -> list[Any]:
        """
        What was held, in C{npartitions} parts, and start afresh.
        """
        return self.parts(self._held.pop() if self._held else self.program.aggregate.zero(), npartitions)

    def parts(self, acc: Any, npartitions: int) -> list[Any]:
        """
        An accumulator in C{npartitions} parts. Only those of pairs can be cut; others are asked for in one.
        """
        return split(acc, npartitions) if self.program.pairs else [acc]


def _all_values(
    mapper: Callable[[Any], Any],
    batched: bool,
    flatten: int,
    records: Iterator[Any],
    progress: _Progress,
    skipped: list[tuple[int, str]],
) -> Iterable[Any]:
    """
    The values of all C{records}, at C speed around the user's function.
    """
    values: Iterable[Any] = mapper(list(records)) if batched else progress.map(mapper)
    for _ in range(flatten):
        values = chain.from_iterable(values)
    return values


def _good_values(
    mapper: Callable[[Any], Any],
    batched: bool,
    flatten: int,
    records: Iterator[Any],
    progress: _Progress,
    skipped: list[tuple[int, str]],
) -> Iterator[Any]:
    """
    The values of those C{records} whose mapping raises nothing; the others are noted in C{skipped}. A record counts
    whole or not at all, so its values are made before the first is passed on. A batch that raises is tried again
    record by record.
    """
    if batched:
        batch = list(records)
        try:
            yield from _listed(mapper(batch), flatten + 1)
            return
        except Exception:
            start = progress.position - len(batch) + 1
            steps: Iterable[tuple[int, Any, Any]] = ((start + n, record, [record]) for n, record in enumerate(batch))
            flatten += 1
    else:
        steps = ((progress.position, record, record) for record in records)
    for position, record, argument in steps:
        try:
            values = _listed(mapper(argument), flatten)
        except Exception as error:
            skipped.append((position, _describe(record, error)))
        else:
            yield from values


def _listed(value: Any, flatten: int) -> list[Any]:
    """
    All the values of C{value}, which is nested C{flatten} deep.
    """
    values = [value]
    for _ in range(flatten):
        values = list(chain.from_iterable(values))
    return values


def _describe(record: object, error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error} in {record!r}"
    except Exception:
        text = f"{type(error).__name__} in a record that has no text"
    return text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "..."


def _chunks(task: MapTask, records: Sequence[Any]) -> Iterable[tuple[int, Sequence[Any]]]:
    """
    The number and the records of each chunk of the task.
    """
    if task.count == 1:
        return [(task.first, records)]
    size = task.chunksize
    return ((task.first + n, records[n * size : (n + 1) * size]) for n in range(task.count))


def _cut(records: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """
    C{records} in runs of C{size}; whole when that is 0.
    """
    return [records] if not size else (records[n : n + size] for n in range(0, len(records), size))
