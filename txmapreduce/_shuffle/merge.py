"""
Merging sorted runs as streams, in memory that does not depend on how long they are.

The entries of all runs up to the first key of the next block that will be needed are complete, so they are merged as
one small table by the C code of lists and dicts: some 100 ns for an entry, where a heap of runs takes 1500. Only what a
whole block is too small for goes entry by entry: a L{LongKey}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .grouping import InOrder
from .keys import ByKey, ByKeyAggregate
from .ordering import END, compared
from .runs import Cursor

__all__ = ["FAN_IN", "LongKey", "merged"]

FAN_IN = 64
"""How many runs are merged at once: each is an open file and a block in memory."""

Keyed = ByKey | ByKeyAggregate | InOrder


class LongKey:
    """
    A key with more values than fit into a block.

    @ivar parts: its tagged parts in order, as they are read. Whoever has it goes through them before the next one.
    """

    def __init__(self, key: Any, parts: Iterator[tuple[int, Any]]) -> None:
        self.key = key
        self.parts = parts


def merged(cursors: Sequence[Cursor], aggregate: Keyed) -> Iterator[dict[Any, Any] | LongKey]:
    """
    The merged entries in ascending order of their ranks: tables that have no key in common.

    @param cursors: the runs. Entries of one tag in several of them have the order of the runs.
    """
    live = [cursor for cursor in cursors if cursor.fill()]
    while live:
        with compared():
            tight = min((cursor for cursor in live if cursor.next_rank is not END), key=_next_rank, default=None)
            bound = END if tight is None else tight.next_rank
            pieces = [cursor.take(bound) for cursor in live]
        table = aggregate.zero()
        for piece in filter(len, pieces):
            piece.kind = type(table)
            table = aggregate.merge(table, piece)
        if table:
            yield table
        if tight is not None and tight.left():
            yield from _straddling(live, tight, bound, aggregate)
        live = [cursor for cursor in live if cursor.left() or cursor.fill()]


_next_rank: Callable[[Cursor], Any] = lambda cursor: cursor.next_rank  # noqa: E731


def _straddling(
    live: Sequence[Cursor], tight: Cursor, bound: Any, aggregate: Keyed
) -> Iterator[dict[Any, Any] | LongKey]:
    """
    What has the rank C{bound}, with which one block ends and the next begins.
    """
    table = aggregate.zero()
    streams = [cursor.equal(bound) for cursor in live]
    if isinstance(aggregate, InOrder):
        key = tight.keys[tight.at]
        parts = aggregate.parts_of_key(key, streams, table)
        yield LongKey(key, parts)
        for _ in parts:
            pass
    else:
        for stream in streams:
            for piece in stream:
                piece.kind = type(table)
                table = aggregate.merge(table, piece)
    if table:
        yield table
