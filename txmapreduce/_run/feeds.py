"""
What a coordinator reads from, whatever the data is: records or splits, at once or later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from .._files.joining import joinable
from ..errors import BadInput
from ..inputs import Feed, Source, Split, parse_bytes

__all__ = ["Input", "Listed", "Records", "Refused", "Splits"]


class Input(Protocol):
    """
    What a run reads from.
    """

    @property
    def splits(self) -> bool:
        """Whether it gives splits, one at a time, rather than records."""

    @property
    def length(self) -> int | None:
        """How many records or splits there are in all, where that is known."""

    def take(self, count: int) -> Deferred[Sequence[Any]] | Sequence[Any]:
        """
        The next records, C{count} at the most. None at all: that was the end.
        """

    def close(self) -> None:
        """
        No more will be taken.
        """


class Records:
    """
    An input of records that are there when they are asked for.
    """

    splits = False

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.length = feed.length

    def take(self, count: int) -> Sequence[Any]:
        """
        The next records.
        """
        return self._feed.take(count)

    def close(self) -> None:
        """
        Close the iterator.
        """
        self._feed.close()


class Refused:
    """
    An input that can't be used: the run fails with C{error} as soon as it reads.
    """

    splits = False
    length = None

    def __init__(self, error: BadInput) -> None:
        self._error = error

    def take(self, count: int) -> Sequence[Any]:
        """
        Say why.
        """
        raise self._error

    def close(self) -> None:
        """
        There is nothing to close.
        """


class Listed:
    """
    An input of splits.

    @ivar length: how many, where those that were read as one count once.
    """

    splits = True

    def __init__(self, splits: Sequence[Split], most: int = 0) -> None:
        """
        @param most: bytes up to which splits may be joined.
        """
        self.length: int | None = len(splits)
        self._left = deque(splits)
        self._most = most

    @property
    def left(self) -> int:
        """How many have not been taken."""
        return len(self._left)

    def take(self, count: int) -> Deferred[Sequence[Any]] | Sequence[Any]:
        """
        The next splits, C{count} at the most, which can be joined.
        """
        taken = [self._left.popleft()] if self._left else []
        while len(taken) < count and self._left and joinable(taken[0], self._left[0]):
            if sum(split.nbytes for split in (*taken, self._left[0])) > self._most:
                break
            taken.append(self._left.popleft())
        if self.length is not None:
            self.length -= max(0, len(taken) - 1)
        return taken

    def close(self) -> None:
        """
        There is nothing to close.
        """


class Splits(Listed):
    """
    An input of the splits of a source. They are listed in a thread, since that looks at disks and networks.
    """

    def __init__(self, source: Source, blocksize: int | str) -> None:
        """
        @param blocksize: the policy's.
        """
        most = getattr(source, "blocksize", None) or parse_bytes(blocksize)
        super().__init__((), most)
        self.length = None
        listing = deferToThread(source.splits, parse_bytes(blocksize))
        self._listing: Deferred[None] | None = listing.addCallback(self._listed)

    def _listed(self, splits: Sequence[Split]) -> None:
        self._listing = None
        super().__init__(splits, self._most)

    def take(self, count: int) -> Deferred[Sequence[Any]] | Sequence[Any]:
        """
        The next split, as soon as they are listed.
        """
        if self._listing is not None:
            return self._listing.addCallback(lambda _: self.take(count))
        return super().take(count)

    def close(self) -> None:
        """
        What the listing still says does not matter any more.
        """
        if self._listing is not None:
            self._listing.addErrback(lambda _: None)
