"""
The orders in which keys are spilled and merged, and the ranges of an order that partitions own.

An order gives each key a I{rank}. What is spilled is sorted by rank, so any range of ranks can be read and merged as a
stream. L{HashOrder} works for all keys that can be hashed; L{KeyOrder} is what C{reducer} sees. A partition is a range
of ranks: of hashes it is known beforehand, of keys it is cut such that the partitions are equally large, from the first
keys of all blocks. With L{ByPartition} a function of the user's says which partition owns a key.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Protocol

from .partition import HASHES, stable_hash, stable_hashes

__all__ = [
    "END",
    "START",
    "KEYS",
    "RECORDS",
    "VALUES",
    "ByPartition",
    "HashOrder",
    "KeyOrder",
    "Order",
    "Partitioner",
    "Range",
    "Rank",
    "compared",
]


class _Mark:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


START = _Mark("START")
END = _Mark("END")

Range = tuple[Any, Any]
"""The ranks from the first one, up to but without the second; L{START} and L{END} are before and behind all."""

Partitioner = Callable[[Any, int], int]
"""Says which of so many partitions owns a key: the same in every process."""

KEYS = ("keys", "use order_keys=False")
VALUES = ("values of a key", "give a function, sort_values=, of whose results each can be compared")
RECORDS = ("records", "give a function, key=, of whose results each can be compared")
"""What is put in order, and what helps where it can't be compared."""

Rank = Callable[[Any], Any]
_Columns = tuple[Sequence[Any], Sequence[Any], Sequence[Any]]


class Order(Protocol):
    """
    How keys are sorted.

    @ivar rank: what of a rank in a run is compared; C{None}: the rank itself.
    @ivar names: for L{compared}.
    """

    rank: Rank | None
    names: tuple[str, str]

    def keys(self, table: dict[Any, Any]) -> Iterable[Any]:
        """
        The keys of a table as the result has them.

        @raise TypeError: the keys can't be compared.
        """

    def arranged(self, table: dict[Any, Any]) -> _Columns:
        """
        The ranks, keys and entries of a table, sorted by rank.

        @raise TypeError: the keys can't be compared.
        """

    def range(self, partition: int, npartitions: int, sample: Sequence[Any]) -> Range:
        """
        The ranks that a partition owns.

        @param sample: ranks at about equal distances, the same for all partitions.
        """

    def buckets(self, keys: Iterable[Any], npartitions: int, each: int) -> Sequence[int] | None:
        """
        For each key the number of its bucket, of which every partition has C{each}: they are those from C{each} times
        its own number on. C{None}: nobody knows the partition of a key before all keys are there.
        """


class HashOrder:
    """
    By L{stable_hash}: a partition has a range of hashes.
    """

    rank: Rank | None = None
    names = KEYS

    def keys(self, table: dict[Any, Any]) -> Iterable[Any]:
        """
        See L{Order.keys}.
        """
        return table

    def arranged(self, table: dict[Any, Any]) -> _Columns:
        """
        See L{Order.arranged}.
        """
        keys, entries = list(table), list(table.values())
        ranks = stable_hashes(keys)
        places = sorted(range(len(ranks)), key=ranks.__getitem__)
        return tuple(list(map(column.__getitem__, places)) for column in (ranks, keys, entries))  # type: ignore

    def range(self, partition: int, npartitions: int, sample: Sequence[Any]) -> Range:
        """
        See L{Order.range}.
        """
        return -(-partition * HASHES // npartitions), -(-(partition + 1) * HASHES // npartitions)

    def buckets(self, keys: Iterable[Any], npartitions: int, each: int) -> Sequence[int]:
        """
        See L{Order.buckets}.
        """
        count = npartitions * each
        return [number * count >> 32 for number in stable_hashes(keys)]


class KeyOrder:
    """
    By the keys themselves.
    """

    rank: Rank | None = None
    names = KEYS

    def keys(self, table: dict[Any, Any]) -> Sequence[Any]:
        """
        See L{Order.keys}.
        """
        with compared(*KEYS):
            return sorted(table)

    def arranged(self, table: dict[Any, Any]) -> _Columns:
        """
        See L{Order.arranged}.
        """
        keys = self.keys(table)
        return keys, keys, list(map(table.__getitem__, keys))

    def range(self, partition: int, npartitions: int, sample: Sequence[Any]) -> Range:
        """
        See L{Order.range}.
        """
        with compared(*KEYS):
            cuts = [sample[n * len(sample) // npartitions] for n in range(1, npartitions)] if sample else []
        bounds = [START, *cuts, END] if cuts else [START, END, *[END] * (npartitions - 1)]
        return bounds[partition], bounds[partition + 1]

    def buckets(self, keys: Iterable[Any], npartitions: int, each: int) -> None:
        """
        See L{Order.buckets}.
        """


class ByPartition:
    """
    By the partition that a function says, and within each in another order.
    """

    rank: Rank | None = None
    names = KEYS

    def __init__(self, within: HashOrder | KeyOrder, partitioner: Partitioner, npartitions: int) -> None:
        self._within = within
        self._partitioner = partitioner
        self._npartitions = npartitions

    def keys(self, table: dict[Any, Any]) -> Iterable[Any]:
        """
        See L{Order.keys}.
        """
        return chain.from_iterable(self._within.keys(part) for _, part in self._cut(table))

    def arranged(self, table: dict[Any, Any]) -> _Columns:
        """
        See L{Order.arranged}.
        """
        columns: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        for number, part in self._cut(table):
            ranks, *rest = self._within.arranged(part)
            for column, more in zip(columns, ([(number, rank) for rank in ranks], *rest), strict=True):
                column.extend(more)
        return columns

    def range(self, partition: int, npartitions: int, sample: Sequence[Any]) -> Range:
        """
        See L{Order.range}.
        """
        return (partition,), (partition + 1,)

    def buckets(self, keys: Iterable[Any], npartitions: int, each: int) -> Sequence[int]:
        """
        See L{Order.buckets}.
        """
        return [self._owner(key) * each + (stable_hash(key) * each >> 32) for key in keys]

    def _cut(self, table: dict[Any, Any]) -> list[tuple[int, dict[Any, Any]]]:
        parts: dict[int, dict[Any, Any]] = {}
        for key, entry in table.items():
            parts.setdefault(self._owner(key), {})[key] = entry
        return sorted(parts.items(), key=operator.itemgetter(0))

    def _owner(self, key: Any) -> int:
        said = self._partitioner(key, self._npartitions)
        try:
            number = operator.index(said)
        except TypeError:
            number = -1
        if not 0 <= number < self._npartitions:
            raise ValueError(
                f"the partitioner has to give a number from 0 to {self._npartitions - 1}, and gave "
                f"{reprlib.repr(said)} for the key {reprlib.repr(key)}"
            )
        return number


class compared:
    """
    Around what puts things in order: when they can't be compared, the error says what to do.
    """

    def __init__(self, what: str, advice: str) -> None:
        self._message = f"the {what} can't be put in order: {{}}; {advice}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TypeError):
            raise TypeError(self._message.format(error)) from error
