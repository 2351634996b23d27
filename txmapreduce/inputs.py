"""
What a run reads: sources give splits, and everything else that can be iterated gives records.

A L{Source} lists its L{Split}s in the coordinator, and a worker reads them. The shape of that list depends on the files
and the blocksize alone, never on the number of workers. L{TextFiles} is the source that ships; a reader of another kind
is any object with the same two members. Data that is no source is pulled through a L{Feed}, no further than asked.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Protocol, Union, runtime_checkable

from ._reading import (
    DECOMPRESSORS,
    FileSplit,
    Piece,
    check_encoding,
    fsspec_for,
    is_line_safe,
    is_url,
    suffix_of,
)
from .errors import BadInput

__all__ = ["Feed", "FileSplit", "Source", "Split", "TextFiles", "is_async", "parse_bytes", "records_of"]

SMALLEST_TARGET = 256 << 10
"""Bytes: a smaller split would cost more to hand out than to read."""

MOST_SPLITS = 256
"""Splits that an input is cut into before they grow: enough to keep many workers evenly busy."""

COST_OF_OPENING = 8 << 10
"""Bytes that could be read in the time that it takes to open a file: what each file weighs on top of its size."""

UNITS = {"": 1, **{unit: 1000**n for n, unit in enumerate("kmgtp", 1)}}
UNITS.update({f"{unit}i": 1024**n for n, unit in enumerate("kmgtp", 1)})

Paths = Union[str, "os.PathLike[str]", Iterable[Union[str, "os.PathLike[str]"]]]


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
            paths=_as_paths(paths),
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
        files = [file for path in self.paths for file in _expand(path)]
        total = sum(size for _, size in files)
        target = min(self.blocksize or blocksize, max(SMALLEST_TARGET, total // MOST_SPLITS))
        whole = not (self.blocks or is_line_safe(self.encoding, self.errors))
        pieces = chain.from_iterable(_cut(path, size, target, whole) for path, size in files)
        return [
            FileSplit(packed, nbytes, self.encoding, self.errors, self.blocks)
            for packed, nbytes in _pack(pieces, target)
        ]


# Planning


def _as_paths(paths: Paths) -> tuple[str, ...]:
    try:
        one = isinstance(paths, (str, bytes, os.PathLike))
        found = tuple(os.fsdecode(path) for path in ([paths] if one else paths))  # type: ignore[union-attr, arg-type]
    except TypeError as error:
        raise BadInput(f"TextFiles takes a path or an iterable of paths: {error}") from None
    if "" in found:
        raise BadInput("TextFiles was given an empty path")
    return found


def _expand(path: str) -> Iterable[tuple[str, int]]:
    """
    The files that a path stands for, with their sizes in bytes.
    """
    if is_url(path):
        return _expand_url(path)
    # Absolute: a worker that has been running for a while need not have our folder.
    absolute = os.path.abspath(path)
    if os.path.isdir(absolute):
        return ((name, _size(name)) for name in sorted(_below(absolute)))
    if not os.path.lexists(absolute) and re.search(r"[*?[]", path):
        return _expand_glob(path)
    return [(absolute, _size(absolute))]


def _expand_glob(pattern: str) -> list[tuple[str, int]]:
    import glob

    found = sorted(os.path.abspath(name) for name in glob.glob(pattern, recursive=True) if not os.path.isdir(name))
    if not found:
        raise BadInput(f"no file matches {pattern}")
    return [(name, _size(name)) for name in found]


def _below(folder: str) -> Iterator[str]:
    for name, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [each for each in folders if not each.startswith((".", "_"))]
        for path in (os.path.join(name, each) for each in files if not each.startswith((".", "_"))):
            if os.path.isfile(path) or os.path.islink(path):
                yield path


def _refuse(error: OSError) -> None:
    raise BadInput(f"{error.filename} can't be read: {error.strerror}") from error


def _size(path: str) -> int:
    try:
        found = os.stat(path)
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise BadInput(f"{path} is not a regular file. What can be read only once can be given as data: open(path)")
    if not os.access(path, os.R_OK):
        raise BadInput(f"{path} can't be read: permission denied")
    return found.st_size


def _expand_url(url: str) -> list[tuple[str, int]]:
    fsspec = fsspec_for(url)
    try:
        files = _remote_files(fsspec, url)
    except FileNotFoundError:
        raise BadInput(f"there is no file {url}") from None
    except ImportError as error:
        raise BadInput(f"{url} needs one more package: {error}") from error
    except Exception as error:  # each remote store has kinds of its own
        raise BadInput(f"{url} can't be read: {error or type(error).__name__}") from error
    if not files and "*" in url:
        raise BadInput(f"no file matches {url}")
    return files


def _remote_files(fsspec: Any, url: str) -> list[tuple[str, int]]:
    store, path = fsspec.core.url_to_fs(url)
    # A URL may be more than a store and a path (a chain, a query): then only the URL itself names it.
    if "*" in url and not url.startswith("http"):
        found = store.glob(path, detail=True)
    else:
        info = store.info(path)
        if info.get("type") != "directory":
            return [(url, info.get("size") or 0)]
        found = store.find(path, detail=True)
    return [
        (store.unstrip_protocol(name), info.get("size") or 0)
        for name, info in sorted(found.items())
        if info.get("type") == "file"
    ]


def _cut(path: str, size: int, target: int, whole: bool) -> Iterator[tuple[Piece, int]]:
    """
    The pieces of one file with their sizes: near-equal ranges of at most C{target} bytes, or the file as it is.
    """
    # A size of 0 is read as a stream: files that the system makes up as they are read, as in /proc, have it too.
    if whole or size == 0 or is_url(path) or suffix_of(path) in DECOMPRESSORS:
        yield (path, 0, None), size
        return
    count = -(-size // target)
    for number in range(count):
        start, end = size * number // count, size * (number + 1) // count
        yield (path, start, end), end - start


def _pack(pieces: Iterable[tuple[Piece, int]], target: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
    """
    Consecutive pieces put together up to C{target} bytes, with the sum of their sizes.
    """
    packed: list[Piece] = []
    nbytes = weight = 0
    for piece, size in pieces:
        if packed and (weight + size > target or is_url(piece[0])):
            yield tuple(packed), nbytes
            packed, nbytes, weight = [], 0, 0
        packed.append(piece)
        nbytes += size
        # Nothing is packed behind a remote file: its size need not be known.
        weight += target if is_url(piece[0]) else size + COST_OF_OPENING
    if packed:
        yield tuple(packed), nbytes


# Data that is no source


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
