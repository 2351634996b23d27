"""
Files of blocks: what workers write for themselves and one another, and read back within the run.

A block is some encoded value: a header with a CRC-32, the number of buffers and their lengths, then the buffers. Blocks
are not compressed: with zlib at its fastest that took 80 to 200 ns for an entry where writing and reading it take 10,
and files are read back within minutes.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence

from .._files.space import free_space
from .._values.loading import Buffer
from ..errors import SpillFailed

__all__ = ["BlockWriter", "read_block", "reading", "writing"]

_HEADER = struct.Struct("<II")
_LENGTH = struct.Struct("<Q")


class BlockWriter:
    """
    Writes a new file. Used as a context manager, it removes the file where something goes wrong.

    @ivar at: how many bytes have been written: where the next block begins.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.at = 0
        with writing(path):
            self._file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=1 << 18)  # noqa: SIM115

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            with writing(self.path):
                os.unlink(self.path)
        if not self._file.closed:
            self.close()

    def write(self, buffers: Sequence[Buffer]) -> None:
        """
        Add a block.
        """
        lengths = b"".join(_LENGTH.pack(len(buffer)) for buffer in buffers)
        check = zlib.crc32(lengths)
        for buffer in buffers:
            check = zlib.crc32(buffer, check)
        with writing(self.path):
            for data in (_HEADER.pack(check, len(buffers)), lengths, *buffers):
                self._file.write(data)
                self.at += len(data)

    def close(self) -> None:
        """
        See that all of it is in the file.
        """
        with writing(self.path):
            self._file.close()


def read_block(fd: int, path: str, place: int, length: int) -> list[Buffer]:
    """
    The buffers of the block that begins at C{place} and is C{length} bytes long with its header.

    @param path: what messages call the file.
    @raise SpillFailed: it is not what was written.
    """
    with reading(path):
        data = memoryview(bytearray(os.pread(fd, length, place)))
    try:
        check, count = _HEADER.unpack_from(data)
        good = len(data) == length and zlib.crc32(data[_HEADER.size :]) == check
    except struct.error:
        good = False
    if not good:
        raise SpillFailed(f"{path} is damaged: what was read at {place} is not what was written there")
    at = _HEADER.size + count * _LENGTH.size
    buffers: list[Buffer] = []
    for n in range(count):
        (size,) = _LENGTH.unpack_from(data, _HEADER.size + n * _LENGTH.size)
        buffers.append(data[at : at + size])
        at += size
    return buffers


class writing:
    """
    Around what writes such a file: an error says where, and how much room there is.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            folder = os.path.dirname(self._path)
            room = free_space(error, self._path)
            raise SpillFailed(f"can't write to the spill folder {folder}: {error.strerror}{room}") from error


class reading(writing):
    """
    Around what reads one.
    """

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise SpillFailed(f"can't read {self._path}: {error.strerror}") from error
