"""
Readers of files beside L{TextFiles}: JSON lines, CSV, Parquet, pickles, and files as they are.

All take the paths, globs, folders and URLs that L{TextFiles} takes, in the same order, and read what L{PartFiles} has
written.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import IO, Any

from ._files.base import Files, FilesSplit, whole_file
from ._files.formats import parquet_modules
from ._files.planning import Paths, files_of, target_of
from ._files.reading import FileSplit, Piece, check_encoding, is_line_safe, is_url, open_stream
from .errors import BadInput

__all__ = ["Csv", "JsonLines", "Parquet", "PickleFiles", "WholeFiles"]

BATCH = 1000
"""Records that are handed on together."""


@dataclass(frozen=True, init=False)
class JsonLines(Files):
    """
    Files with a JSON value on each line, in UTF-8: that is a record. Empty lines are left out. A line that is no JSON
    is a C{ValueError} that has the file and the line; where there may be such, read L{TextFiles} and let the mapper
    call C{json.loads}, with C{bad_records="skip"}.

    @ivar paths: what to read, as L{TextFiles} does. Large files are cut at line ends.
    @ivar blocksize: the most bytes of one split, or C{None}: the policy's.
    """

    paths: tuple[str, ...]
    blocksize: int | None

    def __init__(self, paths: Paths, *, blocksize: int | str | None = None) -> None:
        """
        @raise BadInput: no paths, or no size. Files are looked at by L{splits}.
        """
        self.take(paths, blocksize=blocksize)

    def whole(self) -> bool:
        """
        It can be cut at line ends.
        """
        return False

    def batches(self, piece: Piece) -> Iterator[list[Any]]:
        """
        The values of a piece.
        """
        for lines in _lines(piece):
            try:
                values = [json.loads(line) for line in lines if line and not line.isspace()]
            except ValueError:
                raise _no_json(piece[0], lines) from None
            if values:
                yield values


def _lines(piece: Piece, encoding: str = "utf-8", errors: str = "strict") -> Iterator[list[str]]:
    return FileSplit((piece,), 0, encoding, errors, False).batches()


def _no_json(path: str, lines: list[str]) -> Exception:
    for line in lines:
        try:
            if not line.isspace():
                json.loads(line or "0")
        except ValueError as error:
            return ValueError(f"a line of {path} is no JSON ({error}): {line[:200]!r}")
    raise AssertionError("unreachable")


@dataclass(frozen=True, init=False)
class WholeFiles(Files):
    """
    Each file is one record: its path (absolute, or a URL) and its content, decompressed.

    @ivar paths: what to read, as L{TextFiles} does.
    @ivar encoding: the content is text, decoded from this; C{None}, the default: it is C{bytes}.
    @ivar errors: what to do about bytes that don't decode.
    """

    paths: tuple[str, ...]
    encoding: str | None
    errors: str

    def __init__(self, paths: Paths, *, encoding: str | None = None, errors: str = "strict") -> None:
        """
        @raise BadInput: no paths, or an encoding that is not known.
        """
        check_encoding(encoding or "utf-8", errors, False)
        self.take(paths, encoding=encoding, errors=errors)

    def batches(self, piece: Piece) -> Iterator[list[tuple[str, Any]]]:
        """
        The one record.
        """
        with whole_file(piece) as stream:
            content = stream.read()
        yield [(piece[0], content if self.encoding is None else content.decode(self.encoding, self.errors))]


@dataclass(frozen=True, init=False)
class Csv(Files):
    """
    Files of comma-separated values, as Python's C{csv} reads them. A record is a dict of text by column name. Empty
    lines are left out; a row with more or fewer values than there are columns is a C{ValueError}.

    A value in quotes may have line ends in it, so nobody knows where a row begins but who reads from the start: such a
    file is read by one task. Say C{quoted_newlines=False} where there are none, and large files are cut.

    @ivar paths: what to read, as L{TextFiles} does.
    @ivar fields: the names of the columns; C{None}, the default: the first row of each file has them.
    @ivar quotechar: C{None}: quotes are characters like any other, as in what C{PartFiles(format="tsv")} writes.
    @ivar encoding: how to decode. With the default C{"utf-8-sig"}, UTF-8, a byte order mark at the start is dropped.
    """

    paths: tuple[str, ...]
    fields: tuple[str, ...] | None
    delimiter: str
    quotechar: str | None
    quoted_newlines: bool
    encoding: str
    errors: str
    blocksize: int | None

    def __init__(
        self,
        paths: Paths,
        *,
        fields: Iterable[str] | None = None,
        delimiter: str = ",",
        quotechar: str | None = '"',
        quoted_newlines: bool = True,
        encoding: str = "utf-8-sig",
        errors: str = "strict",
        blocksize: int | str | None = None,
    ) -> None:
        """
        @raise BadInput: a value that can't be used.
        """
        check_encoding(encoding, errors, False)
        self.take(
            paths,
            fields=None if fields is None else tuple(fields),
            delimiter=delimiter,
            quotechar=quotechar,
            quoted_newlines=quoted_newlines and quotechar is not None,
            encoding=codecs.lookup(encoding).name,
            errors=errors,
            blocksize=blocksize,
        )
        try:
            self._rows([])
        except (TypeError, ValueError) as error:
            raise BadInput(f"Csv: {error}") from None
        if isinstance(fields, str) or not all(isinstance(name, str) for name in self.fields or ()):
            raise BadInput(f"fields are names of columns, not {fields!r}")

    def whole(self) -> bool:
        """
        Whether a line end need not end a row.
        """
        return self.quoted_newlines or not is_line_safe(self.encoding, self.errors)

    def _rows(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """
        The rows that are not empty.
        """
        quoting: Any = csv.QUOTE_NONE if self.quotechar is None else csv.QUOTE_MINIMAL
        return filter(None, csv.reader(lines, delimiter=self.delimiter, quotechar=self.quotechar, quoting=quoting))

    def batches(self, piece: Piece) -> Iterator[list[dict[str, str]]]:
        """
        The rows of a piece.
        """
        path, start, end = piece
        if end is not None:
            names = self.fields or self._header(path)
            rows = self._rows(chain.from_iterable(_lines(piece, self.encoding, self.errors)))
            if start == 0 and self.fields is None:
                next(rows, None)
            yield from _dicts(path, names, rows)
            return
        with whole_file(piece) as stream, self._text(stream) as text:
            rows = self._rows(text)
            names = self.fields or tuple(next(rows, ()))
            yield from _dicts(path, names, rows)

    def _header(self, path: str) -> tuple[str, ...]:
        with open(path, "rb") as file, self._text(file) as text:
            return tuple(next(self._rows(text), ()))

    def _text(self, stream: IO[bytes]) -> io.TextIOWrapper:
        # Line ends stay as they are: inside of quotes they are part of the value.
        return io.TextIOWrapper(stream, self.encoding, self.errors, newline="")


def _dicts(path: str, names: Sequence[str], rows: Iterator[list[str]]) -> Iterator[list[dict[str, str]]]:
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two columns of the same name: {', '.join(names)}")
    while batch := list(islice(rows, BATCH)):
        for row in batch:
            if len(row) != len(names):
                raise ValueError(f"a row of {path} has {len(row)} values for {len(names)} columns: {row!r:.200}")
        yield [dict(zip(names, row, strict=True)) for row in batch]


@dataclass(frozen=True, init=False)
class PickleFiles(Files):
    """
    What C{PartFiles(format="pickle")} has written: records of any type. Each file is read by one task.

    A pickle can run any code when it is loaded: read no files that others may write.

    @ivar paths: what to read, as L{TextFiles} does.
    """

    paths: tuple[str, ...]

    def __init__(self, paths: Paths) -> None:
        """
        @raise BadInput: no paths.
        """
        self.take(paths)

    def batches(self, piece: Piece) -> Iterator[list[Any]]:
        """
        The records of a file, as they were written together.
        """
        with whole_file(piece) as stream:
            buffered: Any = io.BufferedReader(stream)
            while buffered.peek(1):
                try:
                    batch = pickle.load(buffered)
                except Exception as error:
                    raise ValueError(f"{piece[0]} can't be unpickled: {type(error).__name__}: {error}") from error
                yield batch


@dataclass(frozen=True, init=False)
class Parquet(Files):
    """
    Parquet files, cut between row groups. A record is a dict of the values in a row by column name. It needs pyarrow:
    C{pip install 'txmapreduce[parquet]'}.

    @ivar paths: what to read, as L{TextFiles} does.
    @ivar columns: the columns to read. The others are left out, and not read from the disk. C{None}, the default: all.
    @ivar blocksize: the most bytes of one split, or C{None}: the policy's. A row group is never cut.
    """

    unit = "row groups"

    paths: tuple[str, ...]
    columns: tuple[str, ...] | None
    blocksize: int | None

    def __init__(
        self, paths: Paths, *, columns: Iterable[str] | None = None, blocksize: int | str | None = None
    ) -> None:
        """
        @raise BadInput: no paths, or no names of columns.
        """
        names = None if columns is None else tuple(columns)
        if isinstance(columns, str) or not all(isinstance(name, str) for name in names or ()):
            raise BadInput(f"columns are names, not {columns!r}")
        self.take(paths, columns=names, blocksize=blocksize)

    def splits(self, blocksize: int) -> Sequence[FilesSplit]:
        """
        See that every file is there, and list the splits: whole row groups, and small files packed together.

        @raise BadInput: a file is missing, no Parquet file, or lacks a column; or pyarrow is not installed.
        """
        parquet_modules()
        files = files_of(self.paths)
        target = target_of(files, self.blocksize or blocksize)
        return self.packed(chain.from_iterable(self._row_groups(path, target) for path, _ in files), target)

    def _row_groups(self, path: str, target: int) -> Iterator[tuple[Piece, int]]:
        """
        Consecutive row groups, as many as have C{target} bytes together.
        """
        try:
            with _parquet_file(path) as file:
                metadata, names = file.metadata, file.schema_arrow.names
        except Exception as error:
            raise BadInput(f"{path} can't be read as Parquet: {error}") from error
        if missing := set(self.columns or ()) - set(names):
            raise BadInput(f"{path} has no column {min(missing)}, only {', '.join(names)}")
        first = size = 0
        for number in range(metadata.num_row_groups):
            nbytes = metadata.row_group(number).total_byte_size
            if size and size + nbytes > target:
                yield (path, first, number), size
                first, size = number, 0
            size += nbytes
        if size:
            yield (path, first, metadata.num_row_groups), size

    def batches(self, piece: Piece) -> Iterator[list[dict[str, Any]]]:
        """
        The rows of some row groups.
        """
        path, start, end = piece
        assert end is not None
        with _parquet_file(path) as file:
            groups = list(range(start, end))
            columns = None if self.columns is None else list(self.columns)
            for batch in file.iter_batches(BATCH, groups, columns, use_threads=False):
                if rows := batch.to_pylist():
                    yield rows


@contextmanager
def _parquet_file(path: str) -> Iterator[Any]:
    _, parquet = parquet_modules()
    if is_url(path):
        with open_stream(path) as stream, parquet.ParquetFile(stream) as file:
            yield file
    else:
        with parquet.ParquetFile(path) as file:
            yield file
