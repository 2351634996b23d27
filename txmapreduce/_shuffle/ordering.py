"""
The orders in which keys are spilled and merged, and the ranges of an order that partitions own.

An order gives each key a I{rank}. What is spilled is sorted by rank, so any range of ranks can be read and merged as a
stream. L{HashOrder} works for all keys that can be hashed; L{KeyOrder} is what C{reducer} sees. A partition is a range
of ranks: of hashes it is known beforehand, of keys it is cut such that the partitions are equally large, from the first
keys of all blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from .partition import HASHES, stable_hashes

__all__ = ["END", "START", "HashOrder", "KeyOrder", "Order", "Range", "compared"]


class _Mark:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


START = _Mark("START")
END = _Mark("END")

Range = tuple[Any, Any]
"""The ranks from the first one, up to but without the second; L{START} and L{END} are before and behind all."""


class Order(Protocol):
    """
    How keys are sorted.
    """

    def arranged(self, table: dict[Any, Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """
        The ranks, keys and entries of a table, sorted by rank.

        @raise TypeError: the keys can't be compared.
        """

    def range(self, partition: int, npartitions: int, sample: Sequence[Any]) -> Range:
        """
        The ranks that a partition owns.

        @param sample: ranks at about equal distances, the same for all partitions.
        """


class HashOrder:
    """
    By L{stable_hash}: a partition has the keys that L{txmapreduce._shuffle.partition.partition_of} says.
    """

    def arranged(self, table: dict[Any, Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
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


class KeyOrder:
    """
    By the keys themselves.
    """

    def arranged(self, table: dict[Any, Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """
        See L{Order.arranged}.
        """
        with compared():
            keys = sorted(table)
        return keys, keys, list(map(table.__getitem__, keys))

    def range(self, partition: int, npartitions: int, sample: Sequence[Any]) -> Range:
        """
        See L{Order.range}.
        """
        with compared():
            cuts = [sample[n * len(sample) // npartitions] for n in range(1, npartitions)] if sample else []
        bounds = [START, *cuts, END] if cuts else [START, END, *[END] * (npartitions - 1)]
        return bounds[partition], bounds[partition + 1]


class compared:
    """
    Around what compares keys: when they can't be compared, the error says what to do.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TypeError):
            raise TypeError(f"the keys can't be put in order: {error}; use order_keys=False") from error
