"""
What a worker does in a careful attempt, at a chunk that has killed its worker before: it notes down each record before
it takes it up, where the coordinator can read that after its death; and it maps a piece of the chunk, where that is
asked for.

The note is a page of memory. Its numbers 0 to 2 say what runs, number 3 is that of the record, number 4 the length of
the record's text, which stands behind it.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .._wire.messages import NO_CHUNK

__all__ = ["RECORD", "TEXT", "marker", "piece"]

RECORD = 3
"""Where in the note the number of the record stands."""
TEXT = 1024
"""Bytes of a record's text that are noted."""

_REPR = reprlib.Repr()
_REPR.maxother = _REPR.maxstring = _REPR.maxlong = 200


def marker(note: memoryview) -> Callable[[int, object], None]:
    """
    What writes the number and the text of a record into the note; L{NO_CHUNK}: it is at none.
    """

    def mark(number: int, record: object) -> None:
        data = b"" if number == NO_CHUNK else _text(record).encode("utf-8", "backslashreplace")[:TEXT]
        words = memoryview(data + bytes(-len(data) % 8)).cast("q")
        note[RECORD] = NO_CHUNK
        note[RECORD + 2 : RECORD + 2 + len(words)] = words
        note[RECORD + 1] = len(data)
        note[RECORD] = number

    return mark


def _text(record: object) -> str:
    try:
        return repr(record[:TEXT]) if isinstance(record, (str, bytes)) else _REPR.repr(record)
    except Exception:
        return "a record that has no text"


def piece(start: int, stop: int, chunks: Iterable[tuple[int, Sequence[Any]]]) -> Iterable[tuple[int, Sequence[Any]]]:
    """
    Of the records of one chunk, which come some at a time, those from C{start} up to C{stop} (-1: to the end).
    """
    at, stop = 0, sys.maxsize if stop < 0 else stop
    for index, records in chunks:
        if at >= stop:
            return
        if part := records[max(0, start - at) : stop - at]:
            yield index, part
        at += len(records)
