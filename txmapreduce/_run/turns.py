"""
How long a run may work in the reactor's thread before it lets the reactor turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["LEAST", "SLICE", "Turns"]

SLICE = 0.01
"""Seconds that a run works at the most: a fifth of what an application may notice."""

LEAST = 0.001
"""Seconds that it works in any case, or it would never get done."""


class Turns:
    """
    Slices of time for one run. What is left when a slice is over goes into the reactor's next turn; and the longer
    others work until that comes, the shorter the next slice is, so that a run backs off where the application is busy.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._slice = SLICE

    def begin(self) -> Callable[[], bool]:
        """
        Begin a slice.

        @return: tells whether it is over.
        """
        seconds = self._reactor.seconds
        until = seconds() + self._slice
        return lambda: seconds() > until

    def later(self, call: Callable[[], object]) -> Any:
        """
        Have C{call} go on in the next turn.

        @return: the delayed call.
        """
        asked = self._reactor.seconds()

        def go_on() -> None:
            others = self._reactor.seconds() - asked
            self._slice = max(LEAST, SLICE * SLICE / (SLICE + others))
            call()

        return self._reactor.callLater(0, go_on)
