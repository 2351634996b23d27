"""
What a child prints, as lines. Memory is bounded, whatever it prints.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Lines"]

_LINE_LIMIT = 8192
_TAIL = 4096


class Lines:
    """
    Cuts what a child prints into lines, of a bounded length, and keeps the end of it.
    """

    def __init__(self, printed: Callable[[str], None]) -> None:
        self._printed = printed
        self._rest = b""
        self.tail = b""

    def feed(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-_TAIL:]
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._printed(line.decode("utf-8", "replace"))
        if len(self._rest) > _LINE_LIMIT:
            self.end()

    def end(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._printed(rest.decode("utf-8", "replace"))
