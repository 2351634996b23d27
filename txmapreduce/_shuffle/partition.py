"""
Which partition owns a key: the same in every process, on every machine and in every version of Python.

Python's own hash of a number keeps that promise and that of text does not, so text goes through CRC-32. What is made of
such parts (tuples, frozen dataclasses, dates, enums) is hashed by them. A partition is a range of hashes: of so many
partitions, the one with number C{hash * npartitions >> 32} owns a key.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any

__all__ = ["HASHES", "stable_hash", "stable_hashes"]

HASHES = 1 << 32
"""How many different hashes there are: they are numbers from 0 to this, without it."""

_NUMBERS = (int, float, complex, Decimal, Fraction)
_KNOWN_EQUALITIES = (str.__eq__, bytes.__eq__, tuple.__eq__)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def stable_hashes(keys: Iterable[Any]) -> list[int]:
    """
    The L{stable_hash} of each key; in a third of the time where all are C{str}, all C{bytes} or all C{int}.
    """
    keys = list(keys)
    kinds = set(map(type, keys))
    if kinds == {str}:
        with suppress(UnicodeEncodeError):
            return list(map(zlib.crc32, map(str.encode, keys)))
    if kinds == {bytes}:
        return list(map(zlib.crc32, keys))
    if kinds == {int}:
        return [(hash(key) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 32 for key in keys]
    return list(map(stable_hash, keys))


def stable_hash(key: Any) -> int:
    """
    A number from 0 to L{HASHES}, the same for equal keys and in every process. It is known of text, bytes, numbers,
    tuples, frozensets, dates and times, enums, UUIDs and frozen dataclasses, and what is nested of them; it is 0 for
    other types, and for those derived from text, bytes or tuples that have an C{__eq__} of their own.
    """
    if type(key).__module__ == "numpy" and hasattr(key, "item"):
        key = key.item()  # what it equals, and hashes as
    if isinstance(key, (str, bytes, tuple)) and type(key).__eq__ not in _KNOWN_EQUALITIES:
        return 0
    if isinstance(key, str):
        return zlib.crc32(key.encode("utf-8", "surrogatepass"))
    if isinstance(key, _NUMBERS):
        # CPython's hash of a number keeps small numbers as they are: mix, so that steps in the keys do no harm.
        return (hash(key) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 32
    if isinstance(key, bytes):
        return zlib.crc32(key)
    if isinstance(key, tuple):
        return _combined(key)
    if isinstance(key, frozenset):
        return sum(map(stable_hash, key)) % HASHES
    return _of_other(key)


def _combined(parts: Iterable[Any]) -> int:
    total = len(parts := tuple(parts))
    for part in parts:
        total = (total * 1_000_003 ^ stable_hash(part)) & 0xFFFFFFFF
    return total


def _of_other(key: Any) -> int:
    kind = type(key)
    for known, parts in _PARTS:
        if isinstance(key, known):
            return _combined(parts(key))
    if isinstance(key, Enum) and "__eq__" not in {name for base in kind.__mro__[:-1] for name in vars(base)}:
        return _combined((kind.__qualname__, key.name or repr(key.value)))
    if (kind.__module__, kind.__qualname__) == ("uuid", "UUID"):
        return stable_hash(key.int)
    if _compares_fields(kind):
        return _combined(getattr(key, field.name) for field in fields(key) if field.compare)
    return 0


def _compares_fields(kind: type) -> bool:
    """
    Whether C{kind} is a frozen dataclass whose C{__eq__} was made by C{dataclass}: that has no source file.
    """
    parameters = getattr(kind, "__dataclass_params__", None)
    code = getattr(kind.__eq__, "__code__", None)
    return bool(parameters and parameters.frozen and code is not None and code.co_filename == "<string>")


def _date_time(key: datetime) -> tuple[int, ...]:
    if key.utcoffset() is not None:
        return _duration(key - _EPOCH)  # the same in all zones
    return key.toordinal(), key.hour, key.minute, key.second, key.microsecond


def _duration(key: timedelta) -> tuple[int, ...]:
    return key.days, key.seconds, key.microseconds


def _time(key: time) -> tuple[int, ...]:
    offset = key.utcoffset()
    since = timedelta(hours=key.hour, minutes=key.minute, seconds=key.second, microseconds=key.microsecond)
    return _duration(since if offset is None else since - offset)


_PARTS: tuple[tuple[type, Callable[[Any], tuple[int, ...]]], ...] = (
    (datetime, _date_time),
    (date, lambda key: (key.toordinal(),)),
    (timedelta, _duration),
    (time, _time),
)
