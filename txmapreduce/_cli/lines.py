"""
What a run gives, as lines of text: JSON, or columns separated by tabs.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

__all__ = ["lines"]


def lines(result: Any, format: str) -> Iterator[str]:
    """
    A result in lines: one for each item of a list or a set, one for each key of a dict, one for anything else.
    """
    if isinstance(result, Mapping):
        pairs = _sorted(result.items(), operator.itemgetter(0))
        if format == "tsv":
            return (f"{_cell(key)}\t{_cell(value)}\n" for key, value in pairs)
        return (f"{_json({'key': key, 'value': value})}\n" for key, value in pairs)
    if isinstance(result, (set, frozenset)):
        result = _sorted(result)
    items = result if isinstance(result, list) else [result]
    if format == "tsv":
        return ("\t".join(map(_cell, item if isinstance(item, (tuple, list)) else [item])) + "\n" for item in items)
    return (f"{_json(item)}\n" for item in items)


def _sorted(items: Iterable[Any], key: Callable[[Any], Any] = lambda item: item) -> list[Any]:
    """
    In ascending order where that is defined, else in some order that is the same every time.
    """
    items = list(items)
    try:
        return sorted(items, key=key)
    except TypeError:
        return sorted(items, key=lambda item: (type(key(item)).__name__, repr(key(item))))


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError):  # a key that is no text, or a number that is none
        return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """
    C{value} in the types that JSON has.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else _cell(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return [_plain(each) for each in _sorted(value)]
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "backslashreplace")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def _cell(value: Any) -> str:
    value = _plain(value)
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    return "" if value is None else json.dumps(value, ensure_ascii=False)
