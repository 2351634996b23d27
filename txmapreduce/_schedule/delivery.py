"""
What chunks gave, on its way to the user: in input order, where that counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from .events import MapAttempt, Outcome

__all__ = ["Delivery"]


class Delivery:
    """
    Results that are there, and those of a stream that nobody has taken yet.

    @ivar taken: how many chunks the results cover that were taken.
    """

    def __init__(self, in_order: bool) -> None:
        self.taken = 0
        self._in_order = in_order
        self._next = 0
        self._there: dict[int, tuple[int, Sequence[Outcome]]] = {}
        self._untaken: deque[int] = deque()  # how many chunks each covers

    def add(self, attempt: MapAttempt, outcomes: Sequence[Outcome]) -> None:
        """
        A result is there: one, or as many as the pieces that its chunk was mapped in.
        """
        self._there[attempt.first] = (attempt.count, outcomes)

    def ready(self, streams: bool) -> Iterator[Outcome]:
        """
        Take out what is next in input order, or all, where order does not count. C{streams}: it is to be taken.
        """
        while self._there:
            first = self._next if self._in_order else next(iter(self._there))
            if first not in self._there:
                return
            count, outcomes = self._there.pop(first)
            self._next += count
            if streams and outcomes:
                self._untaken.extend([count, *[0] * (len(outcomes) - 1)])
            elif streams:
                self.taken += count  # nothing is left of it, so there is nothing to take
            yield from outcomes

    def take(self, count: int) -> None:
        """
        The next C{count} results were taken.
        """
        self.taken += sum(self._untaken.popleft() for _ in range(count))

    @property
    def waiting(self) -> int:
        """
        How many results are there, or wait to be taken.
        """
        return len(self._there) + len(self._untaken)
