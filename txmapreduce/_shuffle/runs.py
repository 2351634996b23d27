"""
Sorted runs: tables that were written to a file in the order of their ranks, and are read back block by block.

A file has one run. It is a row of blocks and an index. A block is some consecutive entries as three columns (ranks,
keys, entries), encoded; the index has the first rank and the place of each block, so any range of ranks can be read
without the rest.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .._values.loading import Buffer
from .blocks import BlockWriter, read_block, reading
from .ordering import END, START, Range, Rank

__all__ = ["BLOCK", "Columns", "Cursor", "Run", "RunWriter", "TableCursor"]

BLOCK = 32 << 10
"""Bytes that an encoded block should have. In memory it takes some ten times as much, once for each run of a merge."""

_MOST = 4096
"""Entries of one block at the most."""

Dump = Callable[[Any], Sequence[Buffer]]
Load = Callable[[Sequence[Buffer]], Any]
Slices = Callable[[Any, int], Iterable[Any]]


class Columns(NamedTuple):
    """
    Consecutive entries of a run.
    """

    ranks: Sequence[Any]
    keys: Sequence[Any]
    entries: Sequence[Any]


@dataclass(frozen=True)
class Run:
    """
    A run in a file.

    @ivar index: where in the file the index begins. C{nbytes}: how long the blocks before it are.
    @ivar entries: how many there are in all.
    """

    path: str
    index: int
    nbytes: int
    entries: int


class RunWriter:
    """
    Writes a run. Used as a context manager, it removes the file where something goes wrong.
    """

    def __init__(self, path: str, dump: Dump, slices: Slices | None) -> None:
        """
        @param slices: cuts one entry that is large into so many smaller ones, of the same key, where that can be done.
        """
        self._dump = dump
        self._slices = slices
        self._count = 256
        self._entries = 0
        self._index: list[tuple[Any, int]] = []
        self._file = BlockWriter(path)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *failure: Any) -> None:
        self._file.__exit__(*failure)

    def write(self, ranks: Sequence[Any], keys: Sequence[Any], entries: Sequence[Any]) -> None:
        """
        Add what comes next in the order.
        """
        at = 0
        while at < len(keys):
            end = at + self._count
            part = keys[at:end]
            self._block(part if ranks is keys else ranks[at:end], part, entries[at:end])
            at = end

    def finish(self) -> Run:
        """
        The run, whole and on the disk.
        """
        nbytes = self._file.at
        self._file.write(self._dump(self._index))
        self._file.close()
        return Run(self._file.path, nbytes, nbytes, self._entries)

    def _block(self, ranks: Sequence[Any], keys: Sequence[Any], entries: Sequence[Any]) -> None:
        """
        Write a block. Where that would be much too large, write halves of it.
        """
        buffers = self._dump((ranks, keys, entries))
        size = sum(map(len, buffers))
        if size > 4 * BLOCK and len(keys) > 1:
            self._count = half = len(keys) // 2
            for part in (slice(None, half), slice(half, None)):
                some = keys[part]
                self._block(some if ranks is keys else ranks[part], some, entries[part])
            return
        if size > 4 * BLOCK and self._slices is not None:
            parts = list(self._slices(entries[0], -(-size // BLOCK)))
            if len(parts) > 1:
                for entry in parts:
                    self._put_block(ranks[0], 1, self._dump((ranks, keys, [entry])))
                return
        self._put_block(ranks[0], len(keys), buffers)
        self._count = max(1, min(len(keys) * BLOCK // max(1, size), 2 * len(keys), _MOST))

    def _put_block(self, rank: Any, count: int, buffers: Sequence[Buffer]) -> None:
        self._index.append((rank, self._file.at))
        self._entries += count
        self._file.write(buffers)


class Cursor:
    """
    A run being read, from the start of a range to its end.

    @ivar ranks, keys, entries: the columns of the current block, of which C{at} to C{end} are still to be taken.
    @ivar next_rank: the first rank of the next block, or L{END}.
    @ivar nbytes: how many bytes have been read.
    """

    def __init__(self, run: Run, load: Load, within: Range = (START, END), rank: Rank | None = None) -> None:
        """
        @param rank: what is compared of a rank: as for L{Order}.
        """
        self._path = run.path
        self._rank = rank
        self._load = load
        self._low, self._high = within
        self.nbytes = 0
        self.at = self.end = 0
        self.ranks: Sequence[Any] = ()
        self.keys: Sequence[Any] = ()
        self.entries: Sequence[Any] = ()
        with reading(run.path):
            self._fd = os.open(run.path, os.O_RDONLY)
        index = self._read(run.index, os.fstat(self._fd).st_size - run.index)
        firsts = [first if rank is None else rank(first) for first, _ in index]
        self._places = [place for _, place in index] + [run.index]
        start = 0 if self._low is START else max(0, bisect_left(firsts, self._low) - 1)
        stop = len(firsts) if self._high is END else bisect_left(firsts, self._high)
        self.firsts = firsts[:stop]
        self._next = start

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    @property
    def next_rank(self) -> Any:
        return self.firsts[self._next] if self._next < len(self.firsts) else END

    def fill(self) -> bool:
        """
        Go to the next block that has something in the range. Whether there is one.
        """
        while self._next < len(self.firsts):
            start, end = self._places[self._next : self._next + 2]
            self._next += 1
            self.ranks, self.keys, self.entries = self._read(start, end - start)
            self.at = 0 if self._low is START else bisect_left(self.ranks, self._low, key=self._rank)
            self._low = START
            last = self._next == len(self.firsts) and self._high is not END
            self.end = bisect_left(self.ranks, self._high, key=self._rank) if last else len(self.ranks)
            if self.at < self.end:
                return True
        return False

    def left(self) -> bool:
        """
        Whether the current block has anything that was not taken yet.
        """
        return self.at < self.end

    def take(self, bound: Any) -> Columns:
        """
        Of the current block, what is before C{bound}.
        """
        end = self.end if bound is END else bisect_left(self.ranks, bound, self.at, self.end, key=self._rank)
        return self._cut(end)

    def equal(self, bound: Any) -> Iterator[Columns]:
        """
        What has the rank C{bound}, which is next, in this block and those behind it.
        """
        while self.left() or self.fill():
            found = self._cut(bisect_right(self.ranks, bound, self.at, self.end, key=self._rank))
            if found.keys:
                yield found
            if self.left():
                return

    def _cut(self, end: int) -> Columns:
        at, self.at = self.at, end
        keys = self.keys[at:end]
        return Columns(keys if self.ranks is self.keys else self.ranks[at:end], keys, self.entries[at:end])

    def _read(self, place: int, length: int) -> Any:
        self.nbytes += length
        return self._load(read_block(self._fd, self._path, place, length))


class TableCursor(Cursor):
    """
    A sorted table in memory, as if it were a run of one block.
    """

    def __init__(
        self,
        ranks: Sequence[Any],
        keys: Sequence[Any],
        entries: Sequence[Any],
        within: Range = (START, END),
        rank: Rank | None = None,
    ) -> None:
        low, high = within
        self._rank = rank
        self.nbytes = 0
        self.ranks, self.keys, self.entries = ranks, keys, entries
        self.at = 0 if low is START else bisect_left(ranks, low, key=rank)
        self.end = len(ranks) if high is END else bisect_left(ranks, high, key=rank)
        self._filled = False

    @property
    def next_rank(self) -> Any:
        return END

    def fill(self) -> bool:
        """
        There is one block.
        """
        first, self._filled = not self._filled, True
        return first and self.left()
