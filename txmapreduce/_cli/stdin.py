"""
Standard input as records, without ever keeping the reactor waiting for it.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

__all__ = ["stdin_lines"]

READ_SIZE = 1 << 18
"""Bytes that are read from standard input at once."""


class _Ready:
    """
    Waits in the reactor until a descriptor can be read from, and tells whether there can be more than its end.
    """

    def __init__(self, reactor: Any, fd: int, ready: Callable[[bool], None]) -> None:
        self._reactor = reactor
        self._fd = fd
        self._ready = ready
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return "stdin"

    def doRead(self) -> None:
        self._reactor.removeReader(self)
        self._ready(True)

    def connectionLost(self, reason: object) -> None:
        self._ready(False)


async def stdin_lines(reactor: Any, fd: int, encoding: str, errors: str) -> AsyncIterator[str]:
    """
    The lines that come, without their ends, as those of C{TextFiles}. The reactor never waits for the next.
    """
    from twisted.internet.defer import Deferred

    decoder = codecs.getincrementaldecoder(encoding)(errors)
    parts: list[str] = []
    data = b"-"
    while data:
        ready: Deferred[bool] = Deferred()
        _Ready(reactor, fd, ready.callback)
        data = os.read(fd, READ_SIZE) if await ready else b""
        head, end, rest = decoder.decode(data, final=not data).rpartition("\n")
        if end:
            for line in "".join([*parts, head]).split("\n"):
                yield line.removesuffix("\r")
            parts = []
        parts.append(rest)
    if last := "".join(parts):
        yield last.removesuffix("\r")
