"""
Run one map or one reduce task: the same code in every backend.

A L{Program} is what a job asks of a worker. A L{Runner} executes its tasks in one process: L{Runner.map} takes chunks
to a partial, L{Runner.fold} takes partials to one. Whatever reduces is an L{Aggregate}, so a task is always the same
three steps: records, mapped values, C{add_many}.

With C{hold} a runner keeps folding into the same accumulator across tasks until L{Runner.hand_over} is called.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from .. import _context
from .._aggregate import Aggregate
from .._shuffle.grouping import Tag
from .._shuffle.interim import Interim, InterimSplit, PartWriter
from .._shuffle.spill import Pile, Spill, Store, Unfoldable
from .._shuffle.tables import Stream, whole
from .._wire.messages import NO_CHUNK, Counts, Report
from ..inputs import Split
from ..outputs import Draft
from .careful import marker, piece
from .failures import described
from .folding import EMPTY, STAYS, WHOLE, Folder, Reduce
from .mapping import Progress, all_values, check_pairs, good_values
from .writing import Watched

__all__ = ["EMPTY", "STAYS", "MapTask", "Outcome", "Program", "Reduce", "WHOLE", "Runner", "TaskError"]


@dataclass(frozen=True)
class Program:
    """
    What a worker has to know to run the tasks of one job.

    @ivar pairs: the mapper gives C{(key, value)} pairs, which are flattened.
    @ivar collects: the values are not reduced: the result is their list.
    @ivar plain_maps: what a map task gives is a part of the result, and goes as plain data.
    @ivar plain_result: what the last fold gives goes as plain data.
    @ivar draft: where the records of the result are written, by the tasks that make them. What comes back is a list of
        receipts then.
    @ivar task_timeout: how many seconds a task may take, where that is limited.
    @ivar spill: where what does not fit into memory goes.
    @ivar lists: the result is a list, of which each item is a record for an output.
    @ivar npartitions: how many partitions the last fold of a job by key has. C{None}: that is left to the backend.
    @ivar isolate: hold nothing from task to task, because the run may go on after a task that failed midway.
    """

    mapper: Callable[[Any], Any]
    aggregate: Aggregate
    flat: bool = False
    batched: bool = False
    pairs: bool = False
    collects: bool = False
    skip_bad: bool = False
    isolate: bool = False
    seed: int | None = None
    task_timeout: float | None = None
    plain_maps: bool = False
    plain_result: bool = False
    draft: Draft | None = None
    spill: Spill | None = None
    npartitions: int | None = None
    lists: bool = False


@dataclass(frozen=True)
class MapTask:
    """
    The part of a map task that a runner needs: C{count} chunks of C{chunksize} records (the last may have fewer)
    starting with chunk number C{first}; or, for a split, one chunk. C{id}: a number that no other attempt of the run
    has. C{careful}: each record is noted down. C{start}, C{stop}: of the one chunk, only these (-1: to the end).
    """

    attempt: int
    first: int
    count: int
    chunksize: int
    hold: bool
    id: int = 0
    careful: bool = False
    start: int = 0
    stop: int = -1


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

    @ivar detail: what there is to say about it beside the error's own text.
    """

    def __init__(self, chunk: int, record: int, stage: str, detail: str = "") -> None:
        super().__init__(chunk, record, stage)
        self.chunk = chunk
        self.record = record
        self.stage = stage
        self.detail = detail


_Values = Callable[[Iterator[Any], Progress, list[tuple[int, str]]], Iterable[Any]]


class Runner:
    """
    Executes the tasks of one program in this process.
    """

    def __init__(self, program: Program, note: memoryview | None = None, store: Store | None = None) -> None:
        """
        @param note: where to write down what is done, for the coordinator to read after the worker's death, as numbers:
            number 0 is that of the chunk. See L{txmapreduce._tasks.careful}.
        @param store: where by-key folds spill. Default: they are kept in memory.
        """
        self.program = program
        self._store = store
        self._folder = Folder(program.aggregate, store)
        self._output = PartWriter(store) if isinstance(program.draft, Interim) else program.draft
        self._note = memoryview(bytearray(8)).cast("q") if note is None else note
        self._context = _context.Task(program.seed)
        self._emitted = self._spilled = 0
        self._held: list[Any] = []  # the accumulator that is kept from task to task, if there is one
        self._own: dict[int, Any] = {}  # the parts of it that stay for the last fold

    def map(self, task: MapTask, source: Sequence[Any] | Split) -> Outcome:
        """
        Run a map task over C{source}: the records of its chunks, or a split.

        @raise TaskError: the user's code raised, or exited.
        """
        context, progress = self._context, Progress(task.start, marker(self._note) if task.careful else None)
        hold = task.hold and not self.program.isolate
        skipped: list[tuple[int, str]] = []
        context.begin(task.first, task.attempt)
        _context.enter(context)
        begun = time.perf_counter()
        try:
            if self._output is not None and self.program.collects:
                partial = self._write(self._values(task, source, progress, skipped), task.id)
            else:
                partial = self._fold_chunks(task, source, hold, progress, skipped)
        except TaskError:
            raise
        except Unfoldable as error:
            self._held.clear()
            detail = f", at the pair {described(error.pair)}"
            raise TaskError(context.index, NO_CHUNK, "combine", detail) from error.__cause__
        except BaseException as error:
            self._held.clear()  # the failed task may have left half of its values in there
            raise TaskError(context.index, progress.position, "map") from error
        finally:
            _context.leave()
        size = len(partial) if isinstance(partial, Sized) else 1
        return Outcome(
            partial=EMPTY if hold else self._relieved(partial, False) if isinstance(partial, Pile) else partial,
            held=hold,
            records=progress.total,
            size=size,
            seconds=time.perf_counter() - begun,
            report=self.report(skipped),
        )

    def report(self, skipped: Iterable[tuple[int, str]] = ()) -> Report:
        """
        What the task that was run last says on the side.
        """
        counters = tuple((group, name, n) for (group, name), n in self._context.counters.items())
        return Report(counters, tuple(skipped), self._context.status_text, self._counts())

    def _counts(self) -> Counts:
        """
        What was counted since the last report.
        """
        before, self._spilled = self._spilled, 0 if self._store is None else self._store.nbytes
        counts = Counts(self._emitted, self._folder.groups, self._spilled - before)
        self._emitted = self._folder.groups = 0
        return counts

    def _fold_chunks(
        self,
        task: MapTask,
        source: Sequence[Any] | Split,
        hold: bool,
        progress: Progress,
        skipped: list[tuple[int, str]],
    ) -> Any:
        acc = self._held.pop() if hold and self._held else self._zero()
        before = acc.pairs if isinstance(acc, Pile) else 0
        tag = Tag((task.first << 32) + task.start)
        for values in self._values(task, source, progress, skipped):
            acc = acc.add(values, tag) if isinstance(acc, Pile) else self.program.aggregate.add_many(acc, values)
        if isinstance(acc, Pile):
            acc.file(tag)
            self._emitted = acc.pairs - before
        elif self.program.collects:
            self._emitted = len(acc)
        if hold:
            self._held.append(acc)
        return acc

    def _zero(self) -> Any:
        aggregate: Any = self.program.aggregate
        return Pile(aggregate, self._store) if self._folder.by_key else aggregate.zero()

    def _values(
        self, task: MapTask, source: Sequence[Any] | Split, progress: Progress, skipped: list[tuple[int, str]]
    ) -> Iterator[Iterable[Any]]:
        """
        The mapped values, some at a time.
        """
        context, note = self._context, self._note
        values, chunks = self._plan(task, source)
        if task.careful:
            chunks = piece(task.start, task.stop, chunks)
        for index, records in chunks:
            context.index = note[0] = index
            yield values(progress.begin(records), progress, skipped)

    def _write(self, records: Iterable[Iterable[Any]], id: int) -> list[Any]:
        """
        Have records written as one part of the output, by attempt C{id}. The receipt for it, in a list.
        """
        assert self._output is not None
        watched = Watched(records)
        try:
            return [self._output.write(iter(watched), id)]
        except BaseException as error:
            if error is watched.error:
                raise
            raise TaskError(self._context.index, NO_CHUNK, "write") from error
        finally:
            self._emitted = watched.count

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
        batches = source.batches_in(self._store) if isinstance(source, InterimSplit) else source.batches()
        return self._mapping(batched), ((task.first, part) for batch in batches for part in _cut(batch, size))

    def _mapping(self, batched: bool, extra_flat: bool = False) -> _Values:
        program = self.program
        flatten = int(program.flat and not program.pairs) + int(extra_flat)
        if program.pairs and not batched and not extra_flat:
            flatten = 1
        if program.skip_bad:
            check = check_pairs if program.pairs else None
            return functools.partial(good_values, program.mapper, batched, flatten, check)
        return functools.partial(all_values, program.mapper, batched, flatten)

    def fold(
        self,
        partials: Iterable[Any],
        finish: bool,
        attempt: int = 1,
        own: bool = False,
        partition: tuple[int, int] = WHOLE,
        id: int = 0,
    ) -> Any:
        """
        Merge partials in the order given, and C{finish} what comes of it when they are all: where there is an output,
        that is written.

        @param own: add to the part that L{hand_over} left here for that partition.
        @param partition: fold that one of so many partitions.
        @return: a partial, or the result, or a L{Stream} of it.
        @raise TaskError: the user's code raised, or exited.
        """
        folder = self._folder
        kept = [self._own.pop(partition[0])] if own else []
        with self.folding(attempt):
            folded = folder.fold(itertools.chain(kept, partials), partition)
            result = folder.finish(folded, partition) if finish else folder.relieved(folded)
            if finish and self._output is not None and result is not EMPTY:
                pieces = result if isinstance(result, Stream) and self._has_records else [whole(result)]
                return self._write(map(self._records, pieces), id)
        return Stream(self._streamed(iter(result), attempt)) if isinstance(result, Stream) else result

    @contextlib.contextmanager
    def folding(self, attempt: int) -> Iterator[None]:
        """
        Around the user's code in a fold.
        """
        self._context.begin(NO_CHUNK, attempt)
        _context.enter(self._context)
        try:
            yield
        except TaskError:
            raise
        except BaseException as error:
            raise TaskError(NO_CHUNK, NO_CHUNK, "fold") from error
        finally:
            _context.leave()

    def _streamed(self, pieces: Iterator[Any], attempt: int) -> Iterator[Any]:
        while True:
            with self.folding(attempt):
                piece = next(pieces, EMPTY)
            if piece is EMPTY:
                return
            yield piece

    def _records(self, result: Any) -> Iterable[Any]:
        """
        The records of a result: its items by key, those of a list, or the one value.
        """
        if not self._has_records:
            return [result]
        records: Iterable[Any] = result if self.program.lists else result.items()
        return records

    @property
    def _has_records(self) -> bool:
        return self.program.pairs or self.program.lists

    def hand_over(self, npartitions: int, keep: int = -1, every: int = 1) -> list[Any]:
        """
        What was held, in C{npartitions} parts, and start afresh. In place of part C{keep} and each C{every}-th behind
        it there is L{STAYS}: they are kept for the L{fold}s that ask for them. -1: there are none.
        """
        acc = self._held.pop() if self._held else self._zero()
        if isinstance(acc, Pile):
            acc = self._relieved(acc, keep >= 0)
        parts = [acc] if npartitions == 1 and keep == 0 else self.parts(acc, npartitions)
        if keep >= 0:
            self._own = {n: parts[n] for n in range(keep, npartitions, every)}
            parts = [STAYS if n in self._own else part for n, part in enumerate(parts)]
        return parts

    def _relieved(self, pile: Pile, last: bool) -> Any:
        """
        What was kept, in a file where it is much.
        """
        try:
            if not pile.is_small(last):
                pile.spill()
        except BaseException as error:
            raise TaskError(NO_CHUNK, NO_CHUNK, "fold") from error
        return pile.partial()

    def parts(self, folded: Any, npartitions: int) -> list[Any]:
        """
        A partial in C{npartitions} parts. Only those by key can be cut; others are asked for in one.

        @raise TaskError: the user's code raised, which says where a key belongs.
        """
        with self.folding(1):
            return self._folder.parts(folded, npartitions)


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
