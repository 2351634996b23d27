"""
Merging sorted runs as streams, in memory that does not depend on how long they are.

The entries of all runs up to the first key of the next block that will be needed are complete, so they are merged as
one small table by the C code of lists and dicts: some 100 ns for an entry, where a heap of runs takes 1500. Only what a
whole block is too small for goes entry by entry: a L{LongKey}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from .grouping import InOrder
from .keys import ByKey, ByKeyAggregate
from .ordering import END, compared
from .rows import Sorted
from .runs import Columns, Cursor
from .tables import Items

__all__ = ["FAN_IN", "Batch", "Keyed", "LongKey", "merged"]

FAN_IN = 64
"""How many runs are merged at once: each is an open file and a block in memory."""

Keyed = ByKey | ByKeyAggregate | InOrder | Sorted


class LongKey:
    """
    A key with more values than fit into a block.

    @ivar parts: its tagged parts in order, as they are read. Whoever has it goes through them before the next one.
    """

    def __init__(self, key: Any, parts: Iterator[tuple[int, Any]]) -> None:
        self.key = key
        self.parts = parts


Batch = dict[Any, Any] | LongKey | Columns
"""Merged entries: a table, one key, or sorted rows."""


def merged(cursors: Sequence[Cursor], aggregate: Keyed) -> Iterator[Batch]:
    """
    The merged entries in the order of their ranks: tables that have no key in common, or rows.

    @param cursors: the runs. Entries of one tag in several of them have the order of the runs.
    """
    live = [cursor for cursor in cursors if cursor.fill()]
    while live:
        with compared(*aggregate.order.names):
            tight = min((cursor for cursor in live if cursor.next_rank is not END), key=_next_rank, default=None)
            bound = END if tight is None else tight.next_rank
            pieces = [cursor.take(bound) for cursor in live]
        pieces = [piece for piece in pieces if piece.keys]
        if pieces:
            yield aggregate.order.mixed(pieces) if isinstance(aggregate, Sorted) else _table(pieces, aggregate)
        if tight is not None and tight.left():
            yield from _straddling(live, tight, bound, aggregate)
        live = [cursor for cursor in live if cursor.left() or cursor.fill()]


_next_rank: Callable[[Cursor], Any] = lambda cursor: cursor.next_rank  # noqa: E731


def _straddling(live: Sequence[Cursor], tight: Cursor, bound: Any, aggregate: Keyed) -> Iterator[Batch]:
    """
    What has the rank C{bound}, with which one block ends and the next begins.
    """
    streams = [cursor.equal(bound) for cursor in live]
    if isinstance(aggregate, Sorted):
        yield from aggregate.order.equal(streams)
    elif isinstance(aggregate, InOrder):
        key, others = tight.keys[tight.at], aggregate.zero()
        parts = aggregate.parts_of_key(key, map(_tables, streams), others)
        yield LongKey(key, parts)
        for _ in parts:
            pass
        if others:
            yield others
    else:
        yield _table(chain.from_iterable(streams), aggregate)


def _table(pieces: Iterable[Columns], aggregate: ByKey | ByKeyAggregate | InOrder) -> dict[Any, Any]:
    table = aggregate.zero()
    for _, keys, entries in pieces:
        table = aggregate.merge(table, Items(type(table), keys, entries))  # type: ignore[arg-type]
    return table


def _tables(stream: Iterator[Columns]) -> Iterator[Items]:
    return (Items(dict, keys, entries) for _, keys, entries in stream)  # type: ignore[arg-type]
