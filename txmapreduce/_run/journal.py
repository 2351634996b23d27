"""
The format of a checkpoint's journal: bytes to commits and back. No I/O.

A journal is L{MAGIC}, which holds the version, and records. A record is the length of its body, the body (msgpack), and
a seal: a digest of the seal before it and of the body. So a record is good only behind the very records that it was
written behind, and whatever follows a bad one is no part of the journal. The first record says whose journal it is, an
L{Identity}; each of the others is a L{Commit}.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgpack

from .._values.loading import Buffer

__all__ = ["MAGIC", "Commit", "Identity", "Record", "records", "sealed"]

FAMILY = b"txmapreduce journal "
MAGIC = FAMILY + b"1\n"

_LENGTH = struct.Struct("<Q")
_SEAL = 16


@dataclass(frozen=True)
class Identity:
    """
    What a journal is for.

    @ivar job: what the job does, in words. C{functions}: a digest of each of its functions, by parameter.
    """

    job: dict[str, str]
    functions: dict[str, bytes]

    def encoded(self) -> bytes:
        """
        The body of the first record.
        """
        return _packed([self.job, self.functions])

    @classmethod
    def decoded(cls, body: Buffer) -> Identity:
        """
        Undo L{encoded}.
        """
        return cls(*msgpack.unpackb(body))


@dataclass(frozen=True)
class Commit:
    """
    A chunk that has been accepted, with the encoded parts of its partial.

    @ivar digest: of what went into it.
    @ivar lengths: how many of the buffers belong to each part.
    @ivar report: what its task said on the side, encoded.
    """

    chunk: int
    digest: bytes
    records: int
    size: int
    nparts: int
    report: bytes
    lengths: Sequence[int]
    buffers: Sequence[Buffer]

    def encoded(self) -> bytes:
        """
        The body of its record.
        """
        *fields, buffers = (getattr(self, name) for name in self.__dataclass_fields__)
        return _packed([*fields, [memoryview(buffer).cast("B") for buffer in buffers]])

    @classmethod
    def decoded(cls, body: Buffer) -> Commit:
        """
        Undo L{encoded}.
        """
        return cls(*msgpack.unpackb(body, use_list=False))


def _packed(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


@dataclass(frozen=True)
class Record:
    """
    A good record: its body begins at C{start}, and the next record at C{end}.
    """

    start: int
    end: int
    body: bytes
    seal: bytes


def sealed(seal: bytes, body: bytes) -> tuple[bytes, bytes]:
    """
    The bytes of a record behind the one that ends with C{seal}, and its own seal.
    """
    own = _seal(seal, body)
    return b"".join((_LENGTH.pack(len(body)), body, own)), own


def records(read: Callable[[int], bytes], size: int) -> Iterator[Record]:
    """
    The good records of a journal, which C{read} reads on from behind L{MAGIC}; C{size} is that of the whole journal.
    """
    at, seal = len(MAGIC), b""
    while size - at >= _LENGTH.size + _SEAL:
        (length,) = _LENGTH.unpack(read(_LENGTH.size))
        start = at + _LENGTH.size
        if length > size - start - _SEAL:
            return
        body = read(length)
        seal = _seal(seal, body)
        if read(_SEAL) != seal:
            return
        at = start + length + _SEAL
        yield Record(start, at, body, seal)


def _seal(before: bytes, body: bytes) -> bytes:
    return blake2b(before + blake2b(body).digest(), digest_size=_SEAL).digest()
