"""
The note that a child leaves of what it is doing.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from struct import Struct

from ._messages import NO_CHUNK

__all__ = ["Note"]

_NUMBERS = Struct("3q")


class Note:
    """
    A page of memory that the child writes and this process reads, even after the child's death: the numbers of a chunk,
    a run and a task. It is a file without a name, so nothing stays behind.
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
        memory[: _NUMBERS.size] = _NUMBERS.pack(NO_CHUNK, 0, 0)
        self._memory: mmap.mmap | bytes = memory

    def read(self) -> tuple[int, ...]:
        """
        What the child wrote down last: chunk, run and task.
        """
        return _NUMBERS.unpack(self._memory[: _NUMBERS.size])

    def close(self) -> None:
        """
        Let go of the memory, but remember what stood there.
        """
        memory, self._memory = self._memory, self._memory[: _NUMBERS.size]
        if isinstance(memory, mmap.mmap):
            memory.close()
