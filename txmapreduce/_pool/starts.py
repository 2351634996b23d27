"""
Starts of children that fail: how often in a row, and how long to wait before the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["MAX_FAILED_STARTS", "Starts"]

MAX_FAILED_STARTS = 5

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class Starts:
    """
    The starts of one pool. C{again}: called when it has waited long enough.
    """

    def __init__(self, reactor: Any, again: Callable[[], None]) -> None:
        self._reactor = reactor
        self._again = again
        self._failures = 0
        self._pause: Any = None

    @property
    def paused(self) -> bool:
        """
        Whether nothing may be started for now.
        """
        return self._pause is not None

    def succeeded(self) -> None:
        """
        A child has shown that it works.
        """
        self._failures = 0

    def failed(self, words: str, alone: bool) -> str:
        """
        One more has failed, with these last words: wait before the next, longer each time.

        @param alone: there is no other child that works.
        @return: why there is no use in trying again; empty while there is.
        """
        self._failures += 1
        if self._failures >= MAX_FAILED_STARTS and alone:
            self._failures = 0
            return f"no worker could be started, {MAX_FAILED_STARTS} tries in a row failed:\n{words.strip()}"
        if self._pause is None:
            pause = min(_FIRST_PAUSE * 2 ** (self._failures - 1), _LONGEST_PAUSE)
            self._pause = self._reactor.callLater(pause, self._resume)
        return ""

    def _resume(self) -> None:
        self._pause = None
        self._again()

    def stop(self) -> None:
        """
        Start nothing more.
        """
        if self._pause is not None and self._pause.active():
            self._pause.cancel()
