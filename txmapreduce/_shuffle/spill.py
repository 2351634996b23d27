"""
By-key folds that don't fit into memory: a L{Pile} folds pairs into a table, and its L{Store} writes the table to a
file when the process has much memory.

What a worker hands over is then a L{Spilled}: where the runs are, and perhaps a small table. So the data goes from
worker to worker through files, and what passes the coordinator is small. Files are never removed one by one: an attempt
that failed may have left some, a fold may be tried again; the folder goes with the run. What nobody refers to counts
for nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from operator import length_hint
from typing import Any

from .._wire.arena import return_free_memory
from ..errors import SpillFailed
from .grouping import InOrder, Tag, packed
from .merge import FAN_IN, Batch, Keyed, LongKey, merged
from .ordering import END, START, HashOrder, Range, compared
from .rows import Sorted
from .runs import Columns, Cursor, Dump, Load, Run, RunWriter, TableCursor
from .tables import BUCKETS, Partition, is_packable, scattered

__all__ = ["Pile", "Spill", "Spilled", "Store", "merge_partition", "resident_memory"]

BATCH = 512
"""
Pairs that are folded at a time: so many that it costs nothing, and so few that they stay in the cache and that Python
uses the same tuples again and again. With 4096 counting words took 15 % longer.
"""

CACHED = 1 << 14
"""
Keys of a table that a processor's second cache holds, with their values: some 2 MB. Of 3 million pairs with 1.3 million
keys, folding took 150 ns each with as many, 160 with twice and 210 with four times as many, 900 in one table.
"""

NEW = 0.9
"""The part of pairs that have a new key from which on tables are packed: packing one costs what folding it saves."""

SOON = 0.97
JUDGED = 1 << 17
"""
The first table may become larger, until it has so many keys: 100,000 of them that take turns ten times do better in a
dict. It is packed sooner where so many pairs have a new key, but not all: as drawn from more than 250,000 keys.
"""

MERGED = 1 << 22
"""Packed entries, of some 20 bytes each where keys are short, from which on keys that did come again are folded."""

LOOK = 1 << 14
"""Pairs between two looks at the memory, which take 0.2 ms on some systems."""

FILED = 1 << 17
"""Pairs of one task that make a part for each of their keys; a larger task makes several."""

SMALL = 50_000
"""Pairs or keys up to which what is handed over goes through the coordinator: some 10 ms of work, and below a MiB."""

LITTLE = 32 << 20
"""Bytes by which the process has grown up to which it does, too, as long as there is more to come."""

FOLDER_WITHIN = 60.0
"""Seconds that a worker waits for the run's folder."""

_LONG = 1024
"""Values of a long key that go into one entry when it is written again."""


@dataclass(frozen=True)
class Spill:
    """
    Where and when workers spill.

    @ivar folder: for the coordinator the folder in which the run's own folder is made, C{None}: the system's for
        temporary files; for workers the run's own.
    @ivar memory: how many bytes a worker may have in memory before it spills.
    """

    folder: str | None = None
    memory: int = 0


@dataclass(frozen=True)
class Spilled:
    """
    A partial, or a part of one, that is in files but for C{table}. C{size}: how many entries it has.
    """

    runs: tuple[Run, ...]
    table: Any
    size: int

    def __len__(self) -> int:
        return self.size


class Store:
    """
    The files of a run, as one worker sees them.

    @ivar nbytes: how many bytes of runs have been written.
    """

    def __init__(self, spill: Spill, dump: Dump, load: Load, announce: Callable[[], None]) -> None:
        """
        @param announce: asks for the run's folder, which is there some time after it.
        """
        assert spill.folder is not None
        self._folder = spill.folder
        self._memory = spill.memory
        self.dump = dump
        self.load = load
        self._announce = announce
        self._names = map(f"{os.getpid()}-{os.urandom(4).hex()}-{{}}".format, count())
        self._base = self._least = resident_memory()
        self.nbytes = 0

    def full(self) -> bool:
        """
        Whether it is time to spill: there is much in memory, and more than after the last time.
        """
        return resident_memory() > max(self._memory, self._least + self._memory // 8)

    def growth(self) -> int:
        """
        The bytes by which this process is larger than when it had folded nothing.
        """
        return resident_memory() - self._base

    def spilled(self) -> None:
        """
        What was in memory is in a file now.
        """
        return_free_memory()
        self._least = resident_memory()

    def write(self, batches: Iterable[Any], aggregate: Keyed) -> Run:
        """
        Write tables, the ranks of each above those of the one before it, as one run.
        """
        with RunWriter(self.new_path(), self.dump, _slices(aggregate)) as writer:
            for batch in batches:
                if isinstance(batch, LongKey):
                    _write_long(writer, batch, aggregate)
                elif isinstance(batch, Columns):
                    writer.write(*batch)
                else:
                    writer.write(*aggregate.order.arranged(combined(batch, aggregate)))
            run = writer.finish()
            self.nbytes += run.nbytes
            return run

    def cursors(self, runs: Iterable[Run], aggregate: Keyed, within: Range = (START, END)) -> Iterator[Cursor]:
        """
        Runs to be read, each opened when it is asked for.
        """
        return (Cursor(run, self.load, within, aggregate.order.rank) for run in runs)

    def new_path(self) -> str:
        """
        The path for a file of the run's folder, which is there then.
        """
        self._wait_for_folder()
        return os.path.join(self._folder, next(self._names))

    def _wait_for_folder(self) -> None:
        if os.path.isdir(self._folder):
            return
        self._announce()
        until = time.monotonic() + FOLDER_WITHIN
        while not os.path.isdir(self._folder):
            if time.monotonic() > until:
                raise SpillFailed(f"the spill folder {self._folder} was not there after {FOLDER_WITHIN:g} s")
            time.sleep(0.002)


def merge_partition(
    store: Store | None,
    runs: Sequence[Run],
    table: Any,
    aggregate: Keyed,
    partition: tuple[int, int],
) -> Iterator[Batch]:
    """
    What is in some runs and a table, merged, of one partition of so many.

    @param store: where the runs are; C{None} where there are none.
    """
    columns = aggregate.order.arranged(table)
    within, runs = _range(store, runs, columns[0], aggregate, partition), list(runs)
    in_memory = TableCursor(*columns, within, aggregate.order.rank)
    if store is None:
        return merged([in_memory], aggregate)
    while len(runs) > FAN_IN:
        first = min(FAN_IN, len(runs) - FAN_IN + 1)
        batches = merged(list(store.cursors(runs[:first], aggregate, within)), aggregate)
        runs[:first] = [store.write(batches, aggregate)]
    return merged([*store.cursors(runs, aggregate, within), in_memory], aggregate)


def _range(
    store: Store | None, runs: Sequence[Run], ranks: Sequence[Any], aggregate: Keyed, partition: tuple[int, int]
) -> Range:
    number, npartitions = partition
    if npartitions == 1:
        return START, END
    rank = aggregate.order.rank
    sample = ranks if rank is None else list(map(rank, ranks))
    if store is not None and runs:
        with compared(*aggregate.order.names):
            sample = sorted(chain.from_iterable(cursor.firsts for cursor in store.cursors(runs, aggregate)))
    return aggregate.order.range(number, npartitions, sample)


def _slices(aggregate: Keyed) -> Callable[[Any, int], Iterable[Any]] | None:
    return aggregate.slices if isinstance(aggregate, InOrder) else None


def _write_long(writer: RunWriter, long: LongKey, aggregate: Keyed) -> None:
    assert isinstance(aggregate, InOrder)
    ranks, keys, _ = aggregate.order.arranged({long.key: None})
    for entry in packed(long.parts, _LONG):
        writer.write(ranks, keys, [entry])


class Unfoldable(Exception):
    """
    Folding the pair C{pair} by key raised C{__cause__}: it is no pair, its key has no hash, or the user's function did.
    """

    def __init__(self, pair: object) -> None:
        super().__init__(pair)
        self.pair = pair


class Pile:
    """
    What pairs of one or more tasks are folded into.

    @ivar pairs: how many pairs were added.
    """

    def __init__(self, aggregate: Keyed, store: Store | None) -> None:
        self._aggregate: Any = aggregate
        self._store = store
        self._table: Any = aggregate.zero()
        self._in_order = aggregate if isinstance(aggregate, (InOrder, Sorted)) else None
        self._fresh: Any = self._in_order and self._in_order.fresh()  # of the task that is running
        self._unfiled = self._unseen = self._unspilled = 0
        self._runs: list[Run] = []
        by_hash = self._in_order is None and isinstance(aggregate.order, HashOrder)
        self._most = CACHED if by_hash else sys.maxsize  # keys of the table
        self._packed = Partition(BUCKETS, {})
        self._npacked = 0  # its entries
        self._most_packed = MERGED
        self._nothing_at = 0  # how many pairs there were when the table was empty
        self.pairs = 0

    def __len__(self) -> int:
        in_memory = len(self._table) if self._in_order is None else self._unspilled
        return in_memory + self._npacked + sum(run.entries for run in self._runs)

    def add(self, values: Iterable[tuple[Any, Any]], tag: Tag) -> Pile:
        """
        Fold pairs of a task, whose chunks begin with number C{tag}.
        """
        values = iter(values)
        while batch := list(islice(values, BATCH)):
            pairs = iter(batch)
            try:
                if self._in_order is not None:
                    self._fresh = self._in_order.gather(self._fresh, pairs)
                else:
                    self._table = self._aggregate.add_many(self._table, pairs)
            except BaseException as error:
                raise Unfoldable(batch[-1 - length_hint(pairs)]) from error
            self.pairs += len(batch)
            if len(self._table) >= self._most:
                self._relieve_cache()
            self._unspilled += len(batch)
            self._unfiled += len(batch)
            if self._unfiled >= FILED:
                self.file(tag)
            self._unseen += len(batch)
            if self._unseen >= LOOK:
                self._look()
        return self

    def _relieve_cache(self) -> None:
        """
        Pack the table, if most keys come once. Where they come again and again, it may grow, since it then takes in
        more pairs than it would cost to go through what was packed.
        """
        new = len(self._table) / (self.pairs - self._nothing_at)
        judged = self._npacked or len(self._table) >= JUDGED
        if not (new >= NEW if judged else SOON <= new < 1):
            self._most *= 2
        elif is_packable(self._table):
            self._pack()
            self._most = CACHED
            if self._npacked > self._most_packed:
                self._packed = self._packed.reduced(self._aggregate.merge, self._aggregate.zero)
                self._npacked = len(self._packed)
                self._most_packed = max(MERGED, 4 * self._npacked)
        else:
            self._most = sys.maxsize

    def _pack(self) -> None:
        table, self._table = self._table, self._aggregate.zero()
        self._packed.add(scattered(table))
        self._npacked += len(table)
        self._nothing_at = self.pairs

    def _look(self) -> None:
        self._unseen = 0
        if self._store is not None and (self._table or self._npacked) and self._store.full():
            self.spill()

    def file(self, tag: Tag) -> None:
        """
        The task is done, or has come some way. Where its parts end does not depend on the memory.
        """
        if self._in_order is not None:
            self._table = self._in_order.file(self._table, self._fresh, tag)
            self._fresh = self._in_order.fresh()
        self._unfiled = 0

    def spill(self) -> None:
        """
        Write what is in memory to a file.
        """
        assert self._store is not None
        if self._table or self._npacked:
            self._runs.append(self._store.write(self._tables(), self._aggregate))
            self._store.spilled()

    def _tables(self) -> Iterator[Any]:
        """
        Take out what is in memory as tables, the hashes of each above those of the one before it.
        """
        if self._npacked:
            self._pack()
            self._npacked = 0
            yield from (table for _, table in self._packed.folded(self._aggregate.merge, self._aggregate.zero))
        else:
            table, self._table, self._unspilled = self._table, self._aggregate.zero(), 0
            self._nothing_at = self.pairs
            yield table

    def is_small(self, last: bool) -> bool:
        """
        Whether what there is may go through the coordinator; C{last}: there will be no more.
        """
        if self._store is None:
            return True
        if last and self._in_order is None:
            return not self._runs and self._store.growth() < 8 * LITTLE
        return len(self) <= SMALL and not self._runs and self._store.growth() < LITTLE

    def partial(self) -> Any:
        """
        All of it as one partial.
        """
        if self._npacked:
            self._pack()
        table = self._packed if self._npacked else combined(self._table, self._aggregate)
        return Spilled(tuple(self._runs), table, len(self)) if self._runs else table


def combined(table: Any, aggregate: Keyed) -> Any:
    """
    A table with as few values as can be.
    """
    return aggregate.combined(table) if isinstance(aggregate, InOrder) else table


def resident_memory() -> int:
    """
    The bytes of this process that are in memory: 5 microseconds on Linux, 20 elsewhere.
    """
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)


_PAGE = os.sysconf("SC_PAGE_SIZE")
