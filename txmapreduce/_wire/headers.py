"""
The header of a frame, or a report: refuse first what msgpack should not get to see.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from .._values.loading import Buffer
from ..errors import ProtocolError

__all__ = ["MAX_BUFFERS", "MAX_ITEMS", "check_items", "unpacked"]

MAX_BUFFERS: Final = 65_536  # How many buffers a message may have, and how many items any array in a header.
MAX_ITEMS: Final = 4 * MAX_BUFFERS  # How many items a header may have, in all its arrays.


def unpacked(header: Buffer) -> tuple[Any, ...]:
    check_items(header)
    try:
        fields = msgpack.unpackb(
            header,
            use_list=False,
            unicode_errors="surrogatepass",
            max_array_len=min(len(header), MAX_BUFFERS),
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"A header can't be read: {str(error) or type(error).__name__}") from error
    if type(fields) is not tuple:
        raise ProtocolError(f"A header is not an array but {type(fields).__name__}.")
    return fields


# Where msgpack's tags say how much follows: that many bytes, a length in that many bytes, a count in that many bytes.
_SKIP: Final = (
    dict.fromkeys([*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3], 0)
    | {0xA0 + length: length for length in range(32)}
    | {tag + size: 1 << size for tag in (0xCC, 0xD0) for size in range(4)}
    | {0xCA: 4, 0xCB: 8}
)
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY: Final = dict.fromkeys(range(0x90, 0xA0), 0) | {0xDC: 2, 0xDD: 4}
_DEPTH: Final = 3  # A header, a field in it, an item in that.


def check_items(header: Buffer, longest: int = MAX_BUFFERS, items: int = MAX_ITEMS) -> None:
    """
    Refuse arrays that are too long or nested deeper than in any message, and maps and extensions, before they are
    unpacked: msgpack allocates each array when it is announced, and lets a thousand stand in one another.

    @param longest: how many items an array may have. C{items}: how many there may be in all.
    """
    if len(header) <= 1024:
        return  # It can't make msgpack allocate more than a few megabytes.
    at, room = 0, items
    left = [1]  # How many items are still to come here and in the arrays around, the outermost first.
    while left and at < len(header):
        tag = header[at]
        at += 1
        left[-1] -= 1
        if tag in _SKIP:
            at += _SKIP[tag]
        elif tag in _SIZED:
            at += _SIZED[tag] + _number(header, at, _SIZED[tag])
        elif tag not in _ARRAY or len(left) > _DEPTH:
            raise ProtocolError(f"A header has something in it that no message has: {tag:#x}, {len(left) - 1} deep.")
        else:
            left.append(_number(header, at, _ARRAY[tag]) if _ARRAY[tag] else tag & 0x0F)
            at += _ARRAY[tag]
            room -= left[-1]
            if left[-1] > longest or room < 0:
                raise ProtocolError(f"A header has too many items. The limit is {longest}, or {items} in all.")
        while left and not left[-1]:
            left.pop()


def _number(header: Buffer, at: int, width: int) -> int:
    return int.from_bytes(header[at : at + width], "big")
