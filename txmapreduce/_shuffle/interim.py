"""
What lies between two steps of a job: records that the tasks of one step give and those of the next one take.

For the first step it is an output like any other, L{Interim}: each of its last tasks writes one part and gives a
receipt. A part consists of sections of some records each, and each section is one split for the next step. A part that
is large is a file in the run's spill folder, a small one goes with its receipt. Where a task has no such folder its
records stay in memory, with the receipt.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from .._values.loading import Buffer
from .blocks import BlockWriter, read_block, reading
from .spill import Store

__all__ = ["Interim", "InterimSplit", "PartWriter"]

SMALL_PART = 256 << 10
"""Bytes of a part that goes with its receipt."""

SECTION = 4 << 20
"""Bytes of a section, at the most: what one task of the next step reads."""

SECTIONS = 16
"""A section has one of so many shares of what was written before it, so that also few records make several tasks."""

_MOST = 1000
"""Records of one block at the most."""

_BLOCK = 1 << 20
"""Bytes that a block should not have more of."""

Receipt = tuple[str, "Sequence[tuple[int, int, Any]]"]
"""
The path of the part's file, or nothing. Of each section, the number of records, that of bytes (0 where nobody knows),
and where its blocks are in the file, as C{(place, length)} pairs; without a file the blocks themselves.
"""


@dataclass(frozen=True)
class Interim:
    """
    The output of a step whose records the next step takes. It is its own draft.

    @ivar step: the number of the step, from 1.
    @ivar folder: in which folder the run's spill folder is made; C{None}: that for temporary files.
    """

    step: int
    folder: str | None = None

    def begin(self) -> Interim:
        """
        There is nothing to prepare.
        """
        return self

    def write(self, records: Iterator[Any], attempt: int) -> Receipt:
        """
        Keep records in memory.
        """
        return PartWriter(None).write(records, attempt)

    def commit(self, receipts: Sequence[Receipt]) -> list[InterimSplit]:
        """
        The splits that the next step reads.
        """
        return [
            InterimSplit(f"part {part}.{number} of step {self.step}'s result", path, nbytes, tuple(blocks))
            for part, (path, sections) in enumerate(receipts)
            for number, (_, nbytes, blocks) in enumerate(sections)
        ]

    def abort(self) -> None:
        """
        What was written goes with the run.
        """


class PartWriter:
    """
    Writes parts, as one worker does.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store

    def write(self, records: Iterator[Any], attempt: int) -> Receipt:
        """
        Write one part: see L{Draft.write}.
        """
        part = _Part(self._store)
        with part:
            for some in _batches(records, part):
                part.add(some)
            return part.receipt()


class _Part:
    """
    A part in the making.

    @ivar total: how many records it has so far. C{count}: how many the next block should have.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._file: BlockWriter | None = None
        self._around = ExitStack()
        self._sections: list[tuple[int, int, list[Any]]] = []
        self._records = self._nbytes = self._size = 0
        self._blocks: list[Any] = []
        self.total = 0
        self._fit = _MOST

    def __enter__(self) -> None:
        self._around.__enter__()

    def __exit__(self, *failure: Any) -> None:
        self._around.__exit__(*failure)

    @property
    def count(self) -> int:
        return min(self._fit, max(SECTIONS, self.total // SECTIONS))

    def add(self, some: list[Any]) -> None:
        """
        Add a block; where the section is large enough, it ends there.
        """
        nbytes = self._put(some)
        self._records += len(some)
        self._nbytes += nbytes
        self._size += nbytes
        if nbytes:
            self._fit = max(1, min(_MOST, _BLOCK * len(some) // nbytes))
        if self._records * SECTIONS >= self.total or self._nbytes >= SECTION:
            self._end_section()
        self.total += len(some)

    def _put(self, some: list[Any]) -> int:
        if self._store is None:
            self._blocks.append(some)
            return 0
        buffers = self._store.dump(some)
        nbytes = sum(memoryview(buffer).nbytes for buffer in buffers)
        if self._file is None and self._size + nbytes > SMALL_PART:
            self._open()
        self._blocks.append([bytes(buffer) for buffer in buffers] if self._file is None else self._filed(buffers))
        return nbytes

    def _open(self) -> None:
        """
        Make a file. What was kept so far goes there first.
        """
        assert self._store is not None
        self._file = self._around.enter_context(BlockWriter(self._store.new_path()))
        self._sections = [(n, size, list(map(self._filed, blocks))) for n, size, blocks in self._sections]
        self._blocks = list(map(self._filed, self._blocks))

    def _filed(self, buffers: Sequence[Buffer]) -> tuple[int, int]:
        assert self._file is not None
        place = self._file.at
        self._file.write(buffers)
        return place, self._file.at - place

    def _end_section(self) -> None:
        if self._blocks:
            self._sections.append((self._records, self._nbytes, self._blocks))
            self._records, self._nbytes, self._blocks = 0, 0, []

    def receipt(self) -> Receipt:
        """
        What was written, which is all in the file now, if there is one.
        """
        self._end_section()
        if self._file is None:
            return "", self._sections
        self._file.close()
        return self._file.path, self._sections


def _batches(records: Iterator[Any], part: _Part) -> Iterator[list[Any]]:
    while some := list(islice(records, part.count)):
        yield some


@dataclass(frozen=True)
class InterimSplit:
    """
    A section as a split: a worker of the same backend can read it.

    @ivar name: what messages call it. C{path}: that of the part's file, or nothing.
    """

    name: str
    path: str
    nbytes: int
    parts: tuple[Any, ...]
    blocks = False

    def of(self, receipts: Iterable[Receipt]) -> InterimSplit:
        """
        The same split of all that some receipts have with them.
        """
        parts = [block for _, sections in receipts for _, _, blocks in sections for block in blocks]
        return replace(self, parts=tuple(parts))

    def batches_in(self, store: Store | None) -> Iterator[list[Any]]:
        """
        The records in lists.

        @param store: that of the task that reads them.
        """
        if store is None:
            return map(list, self.parts)
        return map(store.load, self._read() if self.path else self.parts)

    def _read(self) -> Iterator[list[Buffer]]:
        with reading(self.path):
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for place, length in self.parts:
                yield read_block(fd, self.path, place, length)
        finally:
            os.close(fd)

    def batches(self) -> Iterator[list[Any]]:
        """
        The records, where they are in memory.
        """
        return self.batches_in(None)

    def read(self) -> Iterator[Any]:
        """
        The records one by one, where they are in memory.
        """
        return chain.from_iterable(self.batches())

    def __str__(self) -> str:
        return self.name
