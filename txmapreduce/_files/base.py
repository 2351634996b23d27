"""
What readers of files share: the base of them, L{Files}, and their splits.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any, Protocol

from ..inputs import parse_bytes
from .planning import Paths, as_paths, cut, files_of, pack, target_of
from .reading import Piece, named, open_stream

__all__ = ["Files", "FilesSplit", "whole_file"]


class Reader(Protocol):
    unit: str

    def batches(self, piece: Piece) -> Iterator[list[Any]]:
        """The records of a piece, in lists that are not empty."""


@dataclass(frozen=True)
class FilesSplit:
    """
    Some consecutive pieces of files, and what reads them.

    @ivar pieces: path or URL of each, and which part of it.
    @ivar nbytes: how many bytes they have as stored.
    """

    pieces: tuple[Piece, ...]
    nbytes: int
    reader: Reader

    blocks = False

    def read(self) -> Iterator[Any]:
        """
        The records, one by one.
        """
        return chain.from_iterable(self.batches())

    def batches(self) -> Iterator[list[Any]]:
        """
        The records, in lists.
        """
        return chain.from_iterable(map(self.reader.batches, self.pieces))

    def __str__(self) -> str:
        return named(self.pieces, self.reader.unit)


class Files:
    """
    The base of the readers.
    """

    blocks = False
    unit = "bytes"
    paths: tuple[str, ...]
    blocksize: int | None = None

    def take(self, paths: Paths, **options: Any) -> None:
        """
        Set the fields of a frozen reader.
        """
        size = options.pop("blocksize", None)
        taken = as_paths(type(self).__name__, paths)
        self.__dict__.update(options, paths=taken, blocksize=None if size is None else parse_bytes(size))

    def whole(self) -> bool:
        """
        Whether a file has to be read from its start to its end.
        """
        return True

    def splits(self, blocksize: int) -> Sequence[FilesSplit]:
        """
        See that every file is there, and list the splits: as L{TextFiles.splits}.
        """
        files = files_of(self.paths)
        target = target_of(files, self.blocksize or blocksize)
        return self.packed(cut(files, target, self.whole()), target)

    def packed(self, pieces: Iterable[tuple[Piece, int]], target: int) -> list[FilesSplit]:
        """
        Splits of about C{target} bytes.
        """
        reader: Any = self
        return [FilesSplit(packed, nbytes, reader) for packed, nbytes in pack(pieces, target)]


@contextmanager
def whole_file(piece: Piece) -> Iterator[IO[bytes]]:
    """
    A whole file. That it is cut off, or no compressed file at all, is told with its name.
    """
    try:
        with open_stream(piece[0]) as stream:
            yield stream
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if getattr(error, "filename", None) is not None:
            raise
        raise OSError(f"{piece[0]} can't be read to its end: {error}") from error
