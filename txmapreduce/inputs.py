"""
What a run reads: sources give splits, and everything else that can be iterated gives records.

A L{Source} lists its L{Split}s in the coordinator, and a worker reads them. The shape of that list depends on the files
and the blocksize alone, never on the number of workers. L{TextFiles} is one, L{txmapreduce.sources} has others; any
object with the same two members is a source. Data that is no source is pulled through a L{Feed}, no further than asked.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from ._files.planning import Paths, as_paths, cut, files_of, pack, target_of
from ._files.reading import FileSplit, check_encoding, is_line_safe
from .errors import BadInput

__all__ = ["Feed", "FileSplit", "Source", "Split", "TextFiles", "is_async", "is_source", "parse_bytes", "records_of"]

UNITS = {"": 1, **{unit: 1000**n for n, unit in enumerate("kmgtp", 1)}}
UNITS.update({f"{unit}i": 1024**n for n, unit in enumerate("kmgtp", 1)})


def parse_bytes(size: int | str) -> int:
    """
    The number of bytes that C{size} means: an C{int}, or text such as C{"32MiB"} (units of 1024), C{"1.5GB"} (of 1000)
    or C{"4096"}. Case does not matter, and the C{B} can be left out.

    @raise BadInput: when it is no size, or less than one byte.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        number = size
    else:
        text = size.strip().lower() if isinstance(size, str) else ""
        found = re.fullmatch(r"(\d+)(?:\.(\d+))?\s*([kmgtp]?i?)b?", text, re.ASCII)
        if not found or found[3] not in UNITS:
            raise BadInput(f"{size!r} is not a size: give a number of bytes, or text such as '32MiB' or '1.5GB'")
        fraction = found[2] or ""
        # Whole numbers all the way: a float would make 2.3MB one byte short.
        number = int(found[1] + fraction) * UNITS[found[3]] // 10 ** len(fraction)
    if number < 1:
        raise BadInput(f"{size!r} is not a size: it has to be one byte at least")
    return number


@runtime_checkable
class Split(Protocol):
    """
    A part of the input by reference: frozen, small, and picklable, since it is sent to the worker that reads it.
    C{str} of it names it in messages.
    """

    @property
    def nbytes(self) -> int:
        """How many bytes there are to read, as far as that is known."""

    @property
    def blocks(self) -> bool:
        """Whether its records are blocks: see L{Source.blocks}."""

    def read(self) -> Iterator[Any]:
        """The records in input order, read as they are asked for. It can be called again, and gives the same."""

    def batches(self) -> Iterator[list[Any]]:
        """The same records, in lists that are cheap to make and go through: no list is empty."""


@runtime_checkable
class Source(Protocol):
    """
    Data that workers read themselves. An object with these two members can be given to a run.
    """

    @property
    def blocks(self) -> bool:
        """Whether its records are blocks of C{bytes}, each of many lines, rather than single records."""

    def splits(self, blocksize: int) -> Sequence[Split]:
        """
        Check that everything is there, and list the splits in input order. It may wait for a disk or a network.

        @param blocksize: the policy's, in bytes. A source that was given its own uses that.
        @raise BadInput: when something is missing.
        """


@dataclass(frozen=True, init=False)
class TextFiles:
    """
    Lines of text files. A worker reads its share of them itself, so only names and byte ranges are sent.

    C{paths} is one path or an iterable of them, read in the order given; one that is given twice is read twice:

      - a file;
      - a glob: C{*}, C{?}, C{[...]} and C{**}, matching what a shell would, files only, sorted;
      - a folder: all regular files below it, sorted by path, without those whose name, or whose folder's name, starts
        with C{.} or C{_}. Links to folders are not followed. It may be empty;
      - a URL (anything with C{://}), for which fsspec is needed: C{pip install 'txmapreduce[remote]'}. Each remote
        file is one split.

    A record is a line as C{str}, without its line end (C{\\n} or C{\\r\\n}; a lone C{\\r} ends no line). Together they
    are C{text.split("\\n")}, without the empty piece at the end, and without one C{\\r} at the end of each.

    Files that end in C{.gz}, C{.bz2}, C{.xz} or C{.lzma} are decompressed. They can't be entered midway, nor can files
    in an encoding such as UTF-16, in which a byte of 10 need not end a line: such a file is never cut.

    @ivar paths: what to read, as a tuple.
    @ivar blocksize: the most bytes of one split, or C{None}: the policy's.
    @ivar encoding: how to decode, C{"utf-8"} by default. With C{"utf-8-sig"} a byte order mark at the start is dropped.
    @ivar errors: what to do about bytes that don't decode, C{"strict"} by default: as for C{bytes.decode}.
    @ivar blocks: records are undecoded C{bytes} instead, of many lines each: at most 128 KiB that ends at a line end
        (longer only for long lines). All of them together are exactly the file's content.
    """

    paths: tuple[str, ...]
    blocksize: int | None
    encoding: str
    errors: str
    blocks: bool

    def __init__(
        self,
        paths: Paths,
        *,
        blocksize: int | str | None = None,
        encoding: str = "utf-8",
        errors: str = "strict",
        blocks: bool = False,
    ) -> None:
        """
        @raise BadInput: when the blocksize, the encoding or C{errors} is not known. Files are looked at by L{splits}.
        """
        check_encoding(encoding, errors, blocks)
        self.__dict__.update(
            paths=as_paths("TextFiles", paths),
            blocksize=None if blocksize is None else parse_bytes(blocksize),
            encoding=codecs.lookup(encoding).name,
            errors=errors,
            blocks=blocks,
        )

    def splits(self, blocksize: int) -> Sequence[FileSplit]:
        """
        See that every file is there, and list the splits: large files in near-equal ranges, small ones packed together.

        @param blocksize: bytes; it counts when C{self.blocksize} is C{None}.
        @raise BadInput: when a path names no file, a glob matches none, or fsspec is missing.
        """
        files = files_of(self.paths)
        target = target_of(files, self.blocksize or blocksize)
        whole = not (self.blocks or is_line_safe(self.encoding, self.errors))
        return [
            FileSplit(packed, nbytes, self.encoding, self.errors, self.blocks)
            for packed, nbytes in pack(cut(files, target, whole), target)
        ]


# Data that is no source


def is_source(data: object) -> bool:
    """
    Whether C{data} is a L{Source}. The class of one is none.
    """
    return hasattr(data, "splits") and not isinstance(data, type)


def is_async(data: object) -> bool:
    """
    Whether C{data} is read with C{async for}.
    """
    return hasattr(data, "__aiter__")


class Feed(Protocol):
    """
    Records, pulled by the coordinator as it needs them.

    @ivar length: how many there are in all, where the data says so.
    """

    length: int | None

    def take(self, count: int) -> Sequence[Any]:
        """
        The next records, and no more than C{count} pulled. Fewer, or none: that was the end.

        An exception of the data comes out as it is; what this call had pulled before it is lost.
        """

    def close(self) -> None:
        """
        No more will be taken. A generator is closed, so that its C{finally} runs now.
        """


def records_of(data: object) -> Feed:
    """
    The records of anything that can be iterated, in that order. A list, a tuple or a range is sliced, not copied.

    @raise BadInput: when it can't be iterated.
    """
    # Only these very types: a subclass may iterate over something else than what it gives slices of.
    if type(data) in (list, tuple, range):
        return _SequenceFeed(data)  # type: ignore[arg-type]
    if is_async(data):
        raise BadInput(f"{type(data).__name__} is asynchronous: it can't be read here")
    try:
        records = iter(data)  # type: ignore[call-overload]
    except TypeError as error:
        raise BadInput(f"data has to be something to iterate over, or a source such as TextFiles: {error}") from error
    return _IteratorFeed(records, _length(data))


def _length(data: Any) -> int | None:
    # Not for all that have a length: a pandas DataFrame counts its rows and iterates over its columns.
    if isinstance(data, (Sequence, Mapping, AbstractSet)) or hasattr(data, "__array_interface__"):
        return len(data)
    return None


class _SequenceFeed:
    def __init__(self, data: Sequence[Any]) -> None:
        self.length: int | None = len(data)
        self._data = data
        self._at = 0

    def take(self, count: int) -> Sequence[Any]:
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def close(self) -> None:
        self._data = ()


class _IteratorFeed:
    def __init__(self, records: Iterator[Any], length: int | None) -> None:
        self.length = length
        self._records = records

    def take(self, count: int) -> Sequence[Any]:
        taken = list(islice(self._records, count))
        if len(taken) < count:
            # An iterator may start again after its end (a file that grows does). A run's input does not.
            self._records = iter(())
        return taken

    def close(self) -> None:
        records, self._records = self._records, iter(())
        # A file, or another iterator with a close(), is its owner's. A generator that runs just now can't be closed.
        if isinstance(records, Generator) and not getattr(records, "gi_running", False):
            records.close()
