"""
The coordinator's part of joins: reads several inputs, one after the other, and broadcasts the small one.

Before the first record is read the sources are listed, in a thread. A side that is small enough is broadcast then, and
the other one is all that is read. Where any side is a source the run reads splits: other sides are cut into
L{RecordsSplit}s.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from .._shuffle.sides import RecordsSplit, Sides, SideSplit, Small
from .._values.broadcast import Broadcast, broadcast
from ..errors import NotSerializable
from ..inputs import Split, is_source, parse_bytes
from ..job import Policy
from .feeds import Input

__all__ = ["SidesInput"]

SMALL_BYTES = 8 << 20
"""A source of so many bytes is broadcast: each worker reads it in a fraction of a second, and has a table of it."""
SMALL_RECORDS = 10_000
"""A list of so many records is: it is pickled in some milliseconds."""

_CUT_RECORDS = 1000
_CUT_BYTES = 4 << 20
"""How many records, and about how many bytes of them, a side that is cut has in a split."""


class SidesInput:
    """
    The input of a run over several sides.
    """

    def __init__(self, sides: Sides, policy: Policy, open_side: Callable[[Any], Input]) -> None:
        """
        @param open_side: opens an input that is no source.
        """
        self.length: int | None = None
        self.splits = any(map(is_source, sides.inputs))
        self._sides = sides
        self._blocksize = parse_bytes(policy.blocksize)
        # With a small side, its bad records would be told nowhere, and a checkpoint would not know what it was.
        self._may_broadcast = policy.bad_records == "raise" and policy.checkpoint is None
        self._open = {n: open_side(data) for n, data in enumerate(sides.inputs) if not is_source(data)}
        self._left = deque(sides.order)
        self._small: Broadcast[Small] | None = None
        self._size = 1
        self._most = policy.chunksize or _CUT_RECORDS
        self._listed: dict[int, deque[Split]] = {}
        self._listing: Deferred[None] | None = deferToThread(self._prepare).addCallback(self._prepared)

    def _prepare(self) -> tuple[dict[int, Sequence[Split]], int | None, Broadcast[Small] | None]:
        """
        The splits of each source; which side is broadcast, and its handle. Called in a thread.
        """
        inputs = self._sides.inputs
        listed = {n: data.splits(self._blocksize) for n, data in enumerate(inputs) if is_source(data)}
        for side in self._sides.small if self._may_broadcast else ():
            splits = listed[side] if side in listed else _as_splits(inputs[side])
            if splits is not None and _is_small(splits):
                try:
                    return listed, side, broadcast(Small(splits))
                except NotSerializable:  # in this process it need not be
                    continue
        return listed, None, None

    def _prepared(self, found: tuple[dict[int, Sequence[Split]], int | None, Broadcast[Small] | None]) -> None:
        listed, side, self._small = found
        self._listing = None
        self._listed = {n: deque(splits) for n, splits in listed.items()}
        if side is not None:
            self._left.remove(side)
        known = [len(listed[n]) if n in listed else None if self.splits else self._open[n].length for n in self._left]
        self.length = None if None in known else sum(known)  # type: ignore[arg-type]

    def take(self, count: int) -> Deferred[Sequence[Any]] | Sequence[Any]:
        """
        The next records or the next split, of the first side that has any left.
        """
        if self._listing is not None:
            return self._listing.addCallback(lambda _: self.take(count))
        if not self._left:
            return []
        side = self._left[0]
        if side in self._listed:
            splits = self._listed[side]
            return self._got([splits.popleft()] if splits else [], count)
        taken = self._open[side].take(self._size if self.splits else count)
        return taken.addCallback(self._got, count) if isinstance(taken, Deferred) else self._got(taken, count)

    def _got(self, taken: Sequence[Any], count: int) -> Deferred[Sequence[Any]] | Sequence[Any]:
        """
        The records or the split that a side gave, with the side; where it gave none, what the next one gives.
        """
        if not len(taken):
            self._left.popleft()
            return self.take(count)
        side = self._left[0]
        if not self.splits:
            return [(side, self._small, record) for record in taken]
        if side in self._listed:
            return [SideSplit(side, self._small, taken[0])]
        self._size = _size_of_split(taken[0], self._most)
        return [SideSplit(side, self._small, RecordsSplit(taken))]

    def close(self) -> None:
        """
        Close the inputs. What the listing still says does not matter any more.
        """
        if self._listing is not None:
            self._listing.addErrback(lambda _: None)
        for each in self._open.values():
            each.close()


def _as_splits(data: object) -> Sequence[Split] | None:
    """
    A list or a tuple that is small as a split.
    """
    if type(data) in (list, tuple) and len(data) <= SMALL_RECORDS:  # type: ignore[arg-type]
        return [RecordsSplit(data)]  # type: ignore[arg-type]
    return None


def _is_small(splits: Sequence[Split]) -> bool:
    sizes = [split.nbytes for split in splits if not isinstance(split, RecordsSplit)]
    return sum(sizes) <= SMALL_BYTES and all(sizes)


def _size_of_split(record: object, most: int) -> int:
    """
    How many records like this one go into a split.
    """
    try:
        size = len(pickle.dumps(record, 5))
    except Exception:  # it goes by value, or can't be sent, which is told elsewhere
        size = 1
    return max(1, min(most, _CUT_BYTES // size))
