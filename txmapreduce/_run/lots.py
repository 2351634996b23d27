"""
What a run has read and may still need.
"""

from __future__ import annotations

from typing import Any

from .._schedule.events import MapAttempt, Plan
from ..backends import Chunk

__all__ = ["Lots"]


class Lots:
    """
    What each read gave: the records of some chunks, or a split.
    """

    def __init__(self, plan: Plan) -> None:
        self._cut = plan.chunksize is not None and not plan.splits
        self._lots: dict[int, tuple[int, Any]] = {}

    def put(self, number: int, first: int, chunk: Chunk) -> None:
        """
        What read C{number} gave, whose first chunk is number C{first}.
        """
        self._lots[number] = first, chunk

    def of(self, attempt: MapAttempt) -> Chunk:
        """
        What an attempt works on.
        """
        first, chunk = self._lots[attempt.lot]
        if not self._cut:
            return chunk  # type: ignore[no-any-return]
        start = (attempt.first - first) * attempt.chunksize
        return chunk[start : start + attempt.count * attempt.chunksize]  # type: ignore[no-any-return]

    def drop(self, number: int) -> None:
        """
        What read C{number} gave is no longer needed.
        """
        del self._lots[number]

    def clear(self) -> None:
        """
        Nothing is.
        """
        self._lots.clear()
