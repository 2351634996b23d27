"""
Folds of partials: into one, in so many parts where it is by key, or into the result.

What is in files stays there until the last fold, which reads it as a stream: its result is a L{Stream} of pieces then.
"""

from __future__ import annotations

import copy
import enum
import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from .._aggregate import Aggregate
from .._shuffle.grouping import InOrder
from .._shuffle.keys import by_key
from .._shuffle.merge import Batch, LongKey
from .._shuffle.ordering import HashOrder
from .._shuffle.rows import Sorted
from .._shuffle.runs import Columns, Run
from .._shuffle.spill import SMALL, Spilled, Store, merge_partition
from .._shuffle.tables import SLICE, Partition, Stream, as_dict, gathered, join, scattered, split

__all__ = ["EMPTY", "STAYS", "WHOLE", "Folder", "Reduce", "is_cut"]


class Absent(enum.Enum):
    """
    What stands where there is no value: one that is no user's, and the same in every process.
    """

    EMPTY = "nothing has been folded, and there is no initial value"
    STAYS = "it is kept where it was made"


EMPTY = Absent.EMPTY
STAYS = Absent.STAYS

WHOLE = (0, 1)
"""The one partition of one."""


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


def is_cut(aggregate: Aggregate) -> bool:
    """
    Whether partials are cut into partitions where they are made, since it is known there which key goes where.
    """
    return by_key(aggregate) and aggregate.order.buckets((), 1, 1) is not None  # type: ignore[attr-defined]


class Folder:
    """
    Folds the partials of one program.

    @ivar groups: how many keys have been finished.
    @ivar cuts_keys: partitions are cut when the last fold is done, since they are ranges of the keys that there are.
    """

    def __init__(self, aggregate: Aggregate, store: Store | None) -> None:
        self._aggregate: Any = aggregate
        self._store = store
        self.by_key = by_key(aggregate)
        self.groups = 0
        self.cuts_keys = self.by_key and not is_cut(aggregate)
        self._by_hash = self.by_key and isinstance(getattr(aggregate, "order", None), HashOrder)

    def fold(self, partials: Iterable[Any], partition: tuple[int, int] = WHOLE) -> Any:
        """
        Merge partials in the order given; of keys that were not cut into partitions yet, only those of C{partition}.

        @return: a partial. What comes in buckets is a L{Partition}, which L{relieved} or L{finish} folds.
        """
        runs: dict[Run, None] = {}
        acc: Any = functools.reduce(self._merge, self._in_memory(partials, runs, partition), EMPTY)
        if acc is EMPTY:
            acc = self._aggregate.zero()
        if not runs:
            return acc
        acc = self._as_dict(acc)
        return Spilled(tuple(runs), acc, len(acc) + sum(run.entries for run in runs))

    def _in_memory(self, partials: Iterable[Any], runs: dict[Run, None], partition: tuple[int, int]) -> Iterator[Any]:
        """
        What of the partials is in memory; C{runs} get the rest.
        """
        number, npartitions = partition
        for partial in partials:
            if isinstance(partial, Spilled):
                runs.update(dict.fromkeys(partial.runs))  # the parts of one partial have the same ones
                if (partial := partial.table) is None:
                    continue
            if npartitions > 1 and type(partial) is dict and not self.cuts_keys:
                numbers = self._aggregate.order.buckets(partial, npartitions, 1)
                partial = {key: partial[key] for n, key in zip(numbers, partial, strict=True) if n == number}
            elif npartitions > 1 and isinstance(partial, Partition) and self._by_hash:
                partial = partial.part(number, npartitions)
            yield partial

    def _merge(self, acc: Any, partial: Any) -> Any:
        """
        Merge one more partial into C{acc}, which the first finds L{EMPTY}. What is in buckets is only put together.
        """
        if isinstance(partial, Partition) and acc is EMPTY:
            return partial.copy()
        if isinstance(partial, Partition) or isinstance(acc, Partition):
            acc, partial = (
                scattered(table) if self._by_hash and not isinstance(table, Partition) else table
                for table in (acc, partial)
            )
            if isinstance(partial, Partition) and isinstance(acc, Partition) and acc.count == partial.count:
                acc.add(partial)
                return acc
            acc, partial = self._as_dict(acc), self._as_dict(partial)
        return self._aggregate.merge(self._aggregate.zero() if acc is EMPTY else acc, partial)

    def _as_dict(self, table: Any) -> Any:
        """
        A table as a dict, folded; anything else as it is.
        """
        if not isinstance(table, Partition):
            return as_dict(table)
        whole = self._aggregate.zero()
        for _, bucket in table.folded(self._aggregate.merge, self._aggregate.zero):
            dict.update(whole, bucket)
        return whole

    def relieved(self, folded: Any) -> Any:
        """
        What L{fold} gave, without a large table in memory.
        """
        if isinstance(folded, Partition):
            folded = folded.reduced(self._aggregate.merge, self._aggregate.zero)
        table = folded.table if isinstance(folded, Spilled) else folded
        if self._store is None or not self.by_key or len(table) <= SMALL:
            return folded
        run = self._store.write([self._as_dict(table)], self._aggregate)
        runs = (*(folded.runs if isinstance(folded, Spilled) else ()), run)
        return Spilled(runs, None, sum(run.entries for run in runs))

    def parts(self, folded: Any, npartitions: int) -> list[Any]:
        """
        A partial in C{npartitions} parts. Only those by key can be cut; others are asked for in one.
        """
        if not self.by_key or isinstance(self._aggregate, Sorted):
            return [folded]
        if not isinstance(folded, Spilled):
            return split(folded, npartitions, self._aggregate.order)
        tables = split(folded.table, npartitions, self._aggregate.order) if folded.table else [None] * npartitions
        return [Spilled(folded.runs, table, folded.size // npartitions) for table in tables]

    def finish(self, folded: Any, partition: tuple[int, int] = WHOLE) -> Any:
        """
        The result, or a L{Stream} of it.
        """
        if isinstance(folded, Spilled):
            return self._merged(folded.runs, folded.table, partition)
        if self.cuts_keys and partition != WHOLE:
            return self._merged((), folded, partition)
        if isinstance(folded, Partition) and not isinstance(self._aggregate, InOrder):
            merge, zero, finish = self._aggregate.merge, self._aggregate.zero, self._aggregate.finish
            tables = (self._finished(table) for _, table in folded.folded(merge, zero))
            return Stream(gathered(type(finish(zero())), tables))
        return self._finished(self._as_dict(folded))

    def _finished(self, folded: Any) -> Any:
        if self.by_key and not isinstance(self._aggregate, Sorted):
            self.groups += len(folded)
        return self._aggregate.finish(folded)

    def _merged(self, runs: tuple[Run, ...], table: Any, partition: tuple[int, int]) -> Stream:
        batches = merge_partition(self._store, runs, as_dict(table), self._aggregate, partition)
        nothing = self._aggregate.finish(self._aggregate.zero())
        return Stream(_regrouped(chain.from_iterable(map(self._results, batches)), nothing))

    def _results(self, batch: Batch) -> Iterator[Any]:
        if isinstance(batch, Columns):
            yield list(batch.keys)
            return
        if not isinstance(batch, LongKey):
            self.groups += len(batch)
            yield self._aggregate.finish(batch)
            return
        self.groups += 1
        inner = self._aggregate.inner
        outputs = iter(inner.outputs(batch.key, chain.from_iterable(values for _, values in batch.parts)))
        while some := list(islice(outputs, SLICE)):
            yield inner.gathered(some)


def _regrouped(pieces: Iterator[Any], nothing: Any) -> Iterator[Any]:
    """
    Small pieces put together to larger ones, one at the least.
    """
    whole, given = nothing, False
    for piece in pieces:
        whole = join(whole, piece)
        if len(whole) >= SLICE:
            yield whole
            whole, given = type(nothing)(), True
    if whole or not given:
        yield whole
