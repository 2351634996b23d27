"""
The note that a child leaves of what it is doing.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from struct import Struct

from .._tasks.careful import TEXT
from .._wire.messages import NO_CHUNK

__all__ = ["Note"]

_NUMBERS = Struct("3q")
_RECORD = Struct("2q")


class Note:
    """
    A page of memory that the child writes and this process reads, even after the child's death: the numbers of a chunk,
    a run and a task, and, where it is careful, a record. It is a file without a name, so nothing stays behind.
    """

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("txmapreduce-note")
        else:
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())
        try:
            os.ftruncate(self.fd, mmap.PAGESIZE)
            memory = mmap.mmap(self.fd, mmap.PAGESIZE)
        except BaseException:
            os.close(self.fd)
            raise
        start = _NUMBERS.pack(NO_CHUNK, 0, 0) + _RECORD.pack(NO_CHUNK, 0)
        memory[: len(start)] = start
        self._memory: mmap.mmap | bytes = memory

    def read(self) -> tuple[int, ...]:
        """
        What the child wrote down last: chunk, run and task.
        """
        return _NUMBERS.unpack(self._memory[: _NUMBERS.size])

    def record(self) -> tuple[int | None, str]:
        """
        The record that it noted down last, and its text.
        """
        number, length = _RECORD.unpack_from(self._memory, _NUMBERS.size)
        start = _NUMBERS.size + _RECORD.size
        text = self._memory[start : start + max(0, min(length, TEXT))].decode("utf-8", "replace")
        return (None if number == NO_CHUNK else number), text

    def close(self) -> None:
        """
        Let go of the memory, but remember what stood there.
        """
        memory, self._memory = self._memory, self._memory[: _NUMBERS.size + _RECORD.size + TEXT]
        if isinstance(memory, mmap.mmap):
            memory.close()
