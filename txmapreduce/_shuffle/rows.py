"""
Sorting records: L{Sorted} keeps them in memory in the parts that they came in, L{Rows}. What doesn't fit is written as
sorted runs, which are merged as streams.

A run of rows has three columns: what is compared (the ranks), the records, and their I{places}, the tags of the tasks
that mapped them. Equal ranks have the order of their places, and within one place that of the input, so a sort is
stable. Records that are plain text, or bytes, and are compared by themselves have no places: equal ones can't be told
from one another. They are sorted and merged by C{list.sort} alone, which finds the runs in what it is given.
"""

from __future__ import annotations

import heapq
import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Any

from .._aggregate import Aggregate
from .ordering import RECORDS, KeyOrder, Range, Rank, compared
from .runs import Columns

__all__ = ["Keying", "RowOrder", "Rows", "Sorted", "as_they_are"]

_AT_ONCE = 4096
"""Equal rows that are passed on together."""

_BEFORE_ALL = -1
"""The place of a row that has none, where others have."""

Part = tuple[int, list[Any], list[Any]]
"""A tag, and the ranks and the records behind it, which may be one list."""


def as_they_are(records: Any) -> Any:
    """
    The mapper of a sort without a key, which takes them by the batch.
    """
    return records


class Keying:
    """
    The mapper of a sort by key.
    """

    def __init__(self, key: Callable[[Any], Any]) -> None:
        self.key = key

    def __call__(self, record: Any) -> tuple[Any, Any]:
        return self.key(record), record


class Rows:
    """
    Records in memory, in no order.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self.parts,)

    def __len__(self) -> int:
        return sum(len(records) for _, _, records in self.parts)


class Descending:
    """
    A rank that is less when it is more.
    """

    __slots__ = ("rank",)

    def __init__(self, rank: Any) -> None:
        self.rank = rank

    def __lt__(self, other: Descending) -> bool:
        return bool(other.rank < self.rank)


class RowOrder:
    """
    The order of records by what is compared of them, then by their places.
    """

    names = RECORDS

    def __init__(self, reverse: bool) -> None:
        self._reverse = reverse
        self.rank: Rank | None = Descending if reverse else None

    def arranged(self, rows: Rows) -> Columns:
        """
        See L{Order.arranged}.
        """
        parts = sorted(rows.parts, key=operator.itemgetter(0))
        ranks, records = _joined(part[1] for part in parts), _joined(part[2] for part in parts)
        if all(part[1] is part[2] for part in parts) and _is_plain(records):
            return self._plain(records)
        return self._stable(ranks, records, _joined_places((len(part[2]), repeat(part[0])) for part in parts))

    def mixed(self, pieces: Iterable[Columns]) -> Columns:
        """
        Sorted rows put together.
        """
        pieces = [piece for piece in pieces if piece.ranks]
        if not any(piece.entries for piece in pieces):
            return self._plain(_joined(piece.ranks for piece in pieces))
        ranks, records = _joined(piece.ranks for piece in pieces), _joined(piece.keys for piece in pieces)
        places = _joined_places((len(piece.keys), _places(piece)) for piece in pieces)
        by_place = sorted(range(len(places)), key=places.__getitem__)
        columns = (list(map(column.__getitem__, by_place)) for column in (ranks, records, places))
        return self._stable(*columns)

    def equal(self, streams: Iterable[Iterator[Columns]]) -> Iterator[Columns]:
        """
        Rows of the same rank, in the order of their places, as they are read.
        """
        rows = heapq.merge(*map(_each, streams), key=operator.itemgetter(0))
        while some := list(islice(rows, _AT_ONCE)):
            places, ranks, records = zip(*some, strict=True)
            yield Columns(ranks, records, () if set(places) == {_BEFORE_ALL} else array("q", places))

    def range(self, partition: int, npartitions: int, sample: Sequence[Any]) -> Range:
        """
        See L{Order.range}.
        """
        return KeyOrder().range(partition, npartitions, sample)

    def buckets(self, keys: Iterable[Any], npartitions: int, each: int) -> None:
        """
        See L{Order.buckets}.
        """

    def _plain(self, records: list[Any]) -> Columns:
        records.sort(reverse=self._reverse)
        return Columns(records, records, ())

    def _stable(self, ranks: Sequence[Any], records: Sequence[Any], places: Sequence[int]) -> Columns:
        with compared(*self.names):
            found = sorted(range(len(ranks)), key=ranks.__getitem__, reverse=self._reverse)
        in_order = list(map(records.__getitem__, found))
        compares = in_order if ranks is records else list(map(ranks.__getitem__, found))
        return Columns(compares, in_order, array("q", map(places.__getitem__, found)))


def _joined(lists: Iterable[Sequence[Any]]) -> list[Any]:
    return list(chain.from_iterable(lists))


def _joined_places(parts: Iterable[tuple[int, Iterable[int]]]) -> array[int]:
    return array("q", chain.from_iterable(islice(places, count) for count, places in parts))


def _is_plain(records: list[Any]) -> bool:
    return set(map(type, records)) in ({str}, {bytes})


def _places(piece: Columns) -> Iterable[int]:
    return piece.entries or repeat(_BEFORE_ALL)


def _each(stream: Iterator[Columns]) -> Iterator[tuple[int, Any, Any]]:
    for piece in stream:
        yield from zip(_places(piece), piece.ranks, piece.keys)  # noqa: B905


class Sorted(Aggregate):
    """
    All values, sorted: C{sorted(values, reverse=reverse)}, or of C{(key, value)} pairs the values, by their keys.
    """

    ordered = False
    _by_key = True

    def __init__(self, keyed: bool = False, reverse: bool = False) -> None:
        """
        @param keyed: they are pairs.
        """
        self.keyed = keyed
        self.order = RowOrder(reverse)

    def zero(self) -> Rows:
        return Rows([])

    def fresh(self) -> list[Any]:
        """
        What values of one task are gathered in.
        """
        return []

    def gather(self, fresh: list[Any], values: Iterable[Any]) -> list[Any]:
        """
        Add values of the task.
        """
        fresh.extend(values)
        return fresh

    def add(self, acc: Rows, value: Any) -> Rows:
        raise NotImplementedError("values are gathered for a task, and filed under its tag")

    def file(self, acc: Rows, fresh: list[Any], tag: int) -> Rows:
        """
        Add what was gathered of a task.
        """
        if fresh:
            columns = list(map(list, zip(*fresh, strict=True))) if self.keyed else [fresh, fresh]
            acc.parts.append((tag, columns[0], columns[1]))
        return acc

    def merge(self, a: Rows, b: Rows) -> Rows:
        a.parts.extend(b.parts)
        return a

    def finish(self, acc: Rows) -> list[Any]:
        return list(self.order.arranged(acc).keys)
