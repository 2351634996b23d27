"""
The formats of part files: how records become the bytes of one file.

Each writer takes an open binary file and an iterator of records, which it goes through once, and gives the number of
records. A record that the format has no place for is a C{ValueError} that names it; nothing is changed to make it fit.
Records are taken a batch at a time, so memory does not depend on their number.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import chain, islice
from numbers import Number
from typing import IO, Any, NamedTuple

from ..errors import BadInput

__all__ = ["FORMATS", "Format", "compressed", "parquet_modules"]

BATCH = 1000
"""Records that are encoded and written together."""

ROW_GROUP = 20_000
"""Rows of one row group of a Parquet file: what a task that reads it back has in memory."""

COMPRESSORS = {"gzip": ".gz", "bz2": ".bz2", "xz": ".xz"}
"""The suffix of files that are compressed as a whole."""

PARQUET_CODECS = ("snappy", "gzip", "zstd", "lz4", "brotli")

Writer = Callable[[IO[bytes], Iterable[Any], "str | None"], int]


class Format(NamedTuple):
    """
    One format: the suffix of its files, what writes them, and the compressions that there are.
    """

    suffix: str
    write: Writer
    compressions: tuple[str, ...]

    def suffix_with(self, compression: str | None) -> str:
        """
        The suffix of a file with this compression.
        """
        return self.suffix + (COMPRESSORS[compression] if compression and self.compressions is _WHOLE else "")


def compressed(file: IO[bytes], compression: str | None) -> IO[bytes]:
    """
    What compresses all that is written to it into C{file}, which stays open when it is closed.
    """
    if compression == "gzip":
        # Neither time nor name: each attempt at a part writes the same bytes. Level 6 is the gzip command's own.
        opened: Any = import_module("gzip").GzipFile("", "wb", 6, file, mtime=0)
    elif compression == "bz2":
        opened = import_module("bz2").open(file, "wb")
    else:
        opened = import_module("lzma").open(file, "wb")
    return opened  # type: ignore[no-any-return]


def _batches(records: Iterable[Any], size: int) -> Iterator[list[Any]]:
    records = iter(records)
    while batch := list(islice(records, size)):
        yield batch


def _by_batch(encode: Callable[[list[Any]], bytes]) -> Writer:
    """
    The writer of a format whose files are batches, one after the other.
    """

    def write(file: IO[bytes], records: Iterable[Any], compression: str | None) -> int:
        if compression is not None:
            with compressed(file, compression) as packed:
                return write(packed, records, None)
        count = 0
        for batch in _batches(records, BATCH):
            file.write(encode(batch))
            count += len(batch)
        return count

    return write


def _shown(record: object) -> str:
    text = repr(record)
    return text if len(text) <= 200 else text[:200] + "..."


_ROWS = {tuple, list}
_FIELDS = {str, int, float}

_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _jsonl(batch: list[Any]) -> bytes:
    try:
        lines = list(map(_to_json, batch))
    except (TypeError, ValueError, RecursionError):
        for record in batch:
            try:
                _to_json(record)
            except (TypeError, ValueError, RecursionError) as error:
                raise ValueError(f"this record is no JSON ({error}): {_shown(record)}") from error
        raise
    # A lone surrogate is no text in UTF-8; \udc80 is how JSON writes it.
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _tsv(batch: list[Any]) -> bytes:
    if set(map(type, batch)) <= _ROWS and set(map(type, chain.from_iterable(batch))) <= _FIELDS:
        # The common case, without a call for each field: any tab in one of them makes one too many.
        lines = _text(["\t".join(map(str, record)) for record in batch])
        if lines.count(b"\t") == sum(map(len, batch)) - len(batch):
            return lines
    return _text([_row(record) for record in batch])


def _row(record: Any) -> str:
    if type(record) not in _ROWS:
        return _cell(record, record)
    return "\t".join([_cell(field, record) for field in record])


def _cell(field: Any, record: Any) -> str:
    if type(field) is not str and not isinstance(field, (str, Number)):
        raise ValueError(f"a tab-separated field is text or a number, not {_shown(field)} in {_shown(record)}")
    text = str(field)
    if "\t" in text:
        raise ValueError(f"a tab-separated field has no tab in it, and this one has: {_shown(field)}")
    return text


def _text(batch: list[Any]) -> bytes:
    """
    Lines, each of which comes back as the record that it was.
    """
    for record in batch:
        if not isinstance(record, str):
            raise ValueError(f"a record has to be text to be a line, not {_shown(record)}")
    joined = "\n".join(batch) + "\n"
    if "\r" in joined or joined.count("\n") != len(batch):
        for record in batch:
            if "\n" in record or "\r" in record:
                raise ValueError(f"a line has no line end in it, and this record has: {_shown(record)}")
    return joined.encode("utf-8")


def _pickle(batch: list[Any]) -> bytes:
    try:
        return pickle.dumps(batch, 5)
    except Exception as error:
        raise ValueError(f"a record can't be pickled: {type(error).__name__}: {error}") from error


# Parquet


def parquet_modules() -> tuple[Any, Any]:
    """
    C{pyarrow} and its C{parquet}.

    @raise BadInput: it is not installed.
    """
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise BadInput("Parquet needs pyarrow: pip install 'txmapreduce[parquet]'") from None


def _parquet(file: IO[bytes], records: Iterable[Any], compression: str | None) -> int:
    """
    A row for each record. The first row group decides which columns there are, and of which types.
    """
    pyarrow, parquet = parquet_modules()
    writer, count = None, 0
    try:
        for batch in _batches(records, ROW_GROUP):
            table = _table(pyarrow, list(map(_columns, batch)), None if writer is None else writer.schema)
            if writer is None:
                writer = parquet.ParquetWriter(file, table.schema, compression=compression or "snappy")
            writer.write_table(table)
            count += len(batch)
    finally:
        if writer is not None:
            writer.close()
    return count


def _columns(record: Any) -> dict[str, Any]:
    """
    A record by column: a dict has its own, a pair is a key and a value, and anything else a value.
    """
    if isinstance(record, dict):
        return record
    if type(record) is tuple and len(record) == 2:
        return {"key": record[0], "value": record[1]}
    return {"value": record}


def _table(pyarrow: Any, rows: list[dict[str, Any]], schema: Any) -> Any:
    names = list(dict.fromkeys(name for row in rows for name in row))
    odd = [name for name in names if not isinstance(name, str) or (schema is not None and name not in schema.names)]
    if odd:
        raise ValueError(f"a column's name is text, and no columns are added after the first rows: {_shown(odd[0])}")
    columns = {name: [row.get(name) for row in rows] for name in (names if schema is None else schema.names)}
    try:
        return pyarrow.table(columns, schema=schema)
    except (pyarrow.ArrowException, OverflowError) as error:
        raise ValueError(f"the records have no place in a Parquet table: {error}") from error


_WHOLE = tuple(COMPRESSORS)

FORMATS = {
    "jsonl": Format(".jsonl", _by_batch(_jsonl), _WHOLE),
    "tsv": Format(".tsv", _by_batch(_tsv), _WHOLE),
    "text": Format(".txt", _by_batch(_text), _WHOLE),
    "pickle": Format(".pickle", _by_batch(_pickle), _WHOLE),
    "parquet": Format(".parquet", _parquet, PARQUET_CODECS),
}
