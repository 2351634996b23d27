"""
Plain data to bytes and back, for C{Policy(trust="data")}: nothing in here can run code of the sender's.

Plain are C{None}, C{bool}, C{int} of any size, C{float}, C{str}, C{bytes}, and C{list}, C{tuple}, C{dict}, C{set},
C{frozenset} and C{Counter} of such values: exactly these types, and they come back as themselves. The bytes are
msgpack. What msgpack has no type for is an array whose first item is a mark (an extension of one byte) that says what
the array stands for, so nothing is packed inside of something else, and each byte is copied once.

The rules:

  - Bytes are walked to their end before msgpack sees them: depth, the number of items and what is announced are known
    to be within the limits before anything is allocated.
  - What L{dump} lets through L{loads} takes, as far as one answer has no more than L{MAX_ITEMS} items in all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgpack

from .._shuffle.tables import Items
from .._tasks.runner import EMPTY
from ..errors import NotSerializable, ProtocolError
from .loading import Buffer

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "dump", "dumps", "loads", "received"]

MAX_DEPTH: Final = 64  # How deep containers may be nested.
MAX_ITEMS: Final = 1 << 25  # How many items an answer may have: 100 bytes each at most, so 4 times the largest frame.

_LEAVES: Final = frozenset({type(None), bool, int, float, str, bytes})
_INT, _MARK = 0, 1  # msgpack's numbers for our extensions: an int of more than 64 bits, and what an array stands for

# What an array may stand for: its type, what is packed behind the mark, and how that becomes the value again.
_Kind = tuple[type, Callable[[Any], Iterable[Any]], Callable[..., Any]]
_KINDS: Final[tuple[_Kind, ...]] = (
    (tuple, list, lambda *items: items),
    (set, list, lambda *items: set(items)),
    (frozenset, list, lambda *items: frozenset(items)),
    (Counter, lambda counts: [dict(counts)], lambda counts: _counter(counts.items())),
    (Items, lambda part: [part.kind is Counter, list(part), list(part.values())], lambda *fields: _items(*fields)),
    (type(EMPTY), lambda _: [], lambda: EMPTY),
)
_NUMBERS: Final = {kind: number for number, (kind, _, _) in enumerate(_KINDS)}


def dumps(value: object) -> list[Buffer]:
    """
    Encode a value, in one buffer.

    @raise NotSerializable: it is not plain. The message names the type, and where in the value it is.
    """
    return [dump(value)]


def dump(value: object) -> bytes:
    """
    Encode a value.
    """
    _check(value, "the result", 0)
    packed: bytes = msgpack.packb(value, default=_marked, strict_types=True, unicode_errors="surrogatepass")
    return packed


def _check(value: Any, place: str, depth: int) -> None:
    kind = type(value)
    if kind in _LEAVES:
        return
    if kind not in _NUMBERS and kind not in (list, dict):
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        raise NotSerializable(f'trust="data" lets nothing but plain data through, and {place} is of type {name}')
    if depth == MAX_DEPTH:
        raise NotSerializable(f'trust="data" lets containers be nested {MAX_DEPTH} deep, and {place} is deeper')
    for part in _contents(value):
        if not _LEAVES.issuperset(map(type, part)):
            for item in part:
                _check(item, f"something in {place}" if depth == 0 else place, depth + 1)


def _contents(value: Any) -> Iterable[Iterable[Any]]:
    if isinstance(value, (dict, Items)):
        return value, value.values()
    return () if value is EMPTY else (value,)


def _marked(value: Any) -> Any:
    """
    What msgpack is given in place of what it has no type for.
    """
    if type(value) is int:
        return msgpack.ExtType(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    number = _NUMBERS[type(value)]
    return [msgpack.ExtType(_MARK, bytes([number])), *_KINDS[number][1](value)]


def received(parts: Iterable[Sequence[Buffer]]) -> list[Sequence[Buffer]]:
    """
    An answer's parts, which are known to load from now on: copied, since the sender may still write to memory that it
    shares.

    @raise ProtocolError: they are not plain data, or there are too many items.
    """
    room = MAX_ITEMS
    taken: list[Sequence[Buffer]] = []
    for part in parts:
        if len(part) != 1:
            raise ProtocolError(f"plain data comes in one buffer, not {len(part)}")
        data = bytes(part[0])
        room = _walk(data, room)
        _unpacked(data)
        taken.append([data])
    return taken


def loads(buffers: Sequence[Buffer]) -> Any:
    """
    Decode what L{dumps} made.

    @raise ProtocolError: it did not make that.
    """
    (data,) = buffers
    _walk(data, MAX_ITEMS)
    return _unpacked(data)


# Unpacking


class _Mark:
    """
    Stands at the beginning of an array, while that is being unpacked.
    """

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make


_MARKS: Final = [_Mark(make) for _, _, make in _KINDS]


def _unpacked(data: Buffer) -> Any:
    try:
        return msgpack.unpackb(
            data, list_hook=_made, ext_hook=_extension, strict_map_key=False, unicode_errors="surrogatepass"
        )
    except Exception as error:
        raise ProtocolError(f"plain data can't be read: {type(error).__name__}: {error}") from error


def _extension(code: int, data: bytes) -> Any:
    return _MARKS[data[0]] if code == _MARK else int.from_bytes(data, "big", signed=True)


def _made(items: list[Any]) -> Any:
    return items[0].make(*items[1:]) if items and type(items[0]) is _Mark else items


def _counter(items: Iterable[tuple[Any, Any]]) -> Counter[Any]:
    counter: Counter[Any] = Counter()
    dict.update(counter, items)
    return counter


def _items(counts: bool, keys: list[Any], values: list[Any]) -> Items:
    if type(keys) is not list or type(values) is not list or len(keys) != len(values):
        raise ValueError("keys and values that don't match")
    return Items(Counter if counts else dict, keys, values)


# The walk. For each of msgpack's tags: how many bytes follow; how wide the length is that stands behind it, of bytes or
# of items, and how many values an item has. Maps have two.
_SCALARS: Final = [0] * 0x80 + [-1] * 0x80
_SCALARS[0xA0:0xC0] = range(32)
_SCALARS[0xE0:] = [0] * 0x20
for _tag, _length in {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}.items():
    _SCALARS[_tag] = _length
for _width in range(4):
    _SCALARS[0xCC + _width] = _SCALARS[0xD0 + _width] = 1 << _width
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_EXTENSIONS: Final = {0xC7: 1, 0xC8: 2, 0xC9: 4} | {0xD4 + power: 0 for power in range(5)}
_CONTAINERS: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
_CONTAINERS.update({tag: (0, 2 if tag < 0x90 else 1) for tag in range(0x80, 0xA0)})


def _walk(data: Buffer, room: int) -> int:
    """
    Go through all of C{data}, which has to be one value.

    @param room: how many items there may be.
    @return: how many more there might have been.
    """
    at, size, left = 0, len(data), 1
    outer: list[int] = []  # How many values are still to come in the containers around, the outermost first.
    begun = -1  # Where the first item of an array stands, which may be a mark.
    while left or outer:
        if not left:
            left = outer.pop()
            continue
        if at >= size:
            raise ProtocolError("plain data that is cut off")
        tag = data[at]
        left -= 1
        if (length := _SCALARS[tag]) >= 0:
            at += 1 + length
        elif tag in _CONTAINERS:
            width, values = _CONTAINERS[tag]
            outer.append(left)
            left = values * (_number(data, at + 1, width) if width else tag & 0x0F)
            at += 1 + width
            room -= left
            begun = at if values == 1 else -1
            if left > size - at or room < 0 or len(outer) > MAX_DEPTH + 1:
                raise ProtocolError(f"plain data of too many items ({MAX_ITEMS}), or nested too deep ({MAX_DEPTH})")
        elif tag in _SIZED:
            at += 1 + _SIZED[tag] + _number(data, at + 1, _SIZED[tag])
        else:
            at = _past_extension(data, at, tag, at == begun)
    if at != size:
        raise ProtocolError("plain data that is cut off, or has something behind it")
    return room


def _past_extension(data: Buffer, at: int, tag: int, first: bool) -> int:
    width = _EXTENSIONS.get(tag)
    if width is None:
        raise ProtocolError(f"plain data with something in it that it never has: {tag:#x}")
    length = _number(data, at + 1, width) if width else 1 << (tag - 0xD4)
    start = at + 1 + width
    code = data[start] if start < len(data) else -1
    mark = data[start + 1] if code == _MARK and length == 1 and start + 1 < len(data) else -1
    if code != _INT and not (first and 0 <= mark < len(_KINDS)):
        raise ProtocolError(f"plain data with an extension that it never has: {code}")
    return start + 1 + length


def _number(data: Buffer, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width], "big")
