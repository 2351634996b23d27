"""
What a coordinator reads from, whatever the data is: records or splits, at once or later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .inputs import Feed, Source, Split, parse_bytes

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

__all__ = ["Input", "Records", "Splits", "open_source"]


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


class Splits:
    """
    An input of splits.
    """

    splits = True

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = deque(splits)
        self.length = len(splits)

    def take(self, count: int) -> Sequence[Any]:
        """
        The next split.
        """
        return [self._splits.popleft()] if self._splits else []

    def close(self) -> None:
        """
        There is nothing to close.
        """


def open_source(source: Source, blocksize: int | str) -> Splits:
    """
    The splits of a source such as C{TextFiles}. It looks at the disk, so it may take a while.
    """
    return Splits(source.splits(parse_bytes(blocksize)))
