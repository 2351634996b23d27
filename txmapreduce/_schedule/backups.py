"""
Which map attempts are stragglers, and the backup attempts that have been made of them.

Backups are made when nothing is left to hand out and a worker is idle: a machine that would do nothing costs nothing.
A straggler is an attempt that has taken L{FACTOR} times as long as is usual in this run, and not less than L{LEAST}
seconds, since the loser's worker may have to be replaced. The idea is that of the first MapReduce (Dean and Ghemawat,
2004, section 3.6), the comparison with the median that of Spark.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from statistics import median

from .events import Attempt, MapAttempt
from .limits import HAIR

__all__ = ["FACTOR", "LEAST", "Backups", "may_repeat"]

FACTOR = 3.0
LEAST = 0.5
_SAMPLE = 101
"""How many attempts, of those that ended last, say what is usual."""


class Backups:
    """
    The times of a run's attempts that run, and their twins. One that waits behind another has none yet, so it holds no
    worker: where the one before it stands still, a backup of that helps both.
    """

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._seconds: deque[float] = deque(maxlen=_SAMPLE)
        self._twins: dict[int, int] = {}

    def began(self, id: int, now: float) -> None:
        """
        The attempt begins to run. A backup does when it is submitted, since that is to a worker that is idle; whatever
        is told later counts.
        """
        self._since[id] = now

    @property
    def running(self) -> int:
        """
        How many attempts run.
        """
        return len(self._since)

    def ended(self, id: int, now: float, well: bool) -> int | None:
        """
        The attempt has ended. Its twin, if there is one, has no twin any more.
        """
        since = self._since.pop(id, None)
        if well and since is not None:
            self._seconds.append(now - since)
        twin = self._twins.pop(id, None)
        if twin is not None:
            del self._twins[twin]
        return twin

    def pair(self, id: int, backup: int) -> None:
        """
        There is a backup of the attempt.
        """
        self._twins[id], self._twins[backup] = backup, id

    def stragglers(self, attempts: Iterable[MapAttempt], now: float) -> tuple[list[MapAttempt], float | None]:
        """
        Those of C{attempts} that should have a backup now, the slowest first; and when to look again.
        """
        since = self._since
        single = [attempt for attempt in attempts if attempt.id in since and attempt.id not in self._twins]
        if not single or not self._seconds:
            return [], None
        patience = max(LEAST, FACTOR * median(self._seconds))
        single.sort(key=lambda attempt: since[attempt.id])
        slow = [attempt for attempt in single if since[attempt.id] + patience <= now + HAIR]
        return slow, min((since[attempt.id] + patience for attempt in single[len(slow) :]), default=None)


def may_repeat(running: Mapping[int, Attempt], charges: Counter[int], retries: int) -> Iterator[MapAttempt]:
    """
    The map attempts that may have a backup. That is an attempt like others, the second of the C{retries + 1} that a
    chunk has in all; one that has broken before has none: its next attempt is to show which record does it. What a
    worker keeps can't be taken back there.
    """
    for attempt in running.values():
        if isinstance(attempt, MapAttempt) and not (attempt.hold or attempt.careful):
            chunks = range(attempt.first, attempt.first + attempt.count)
            if retries and not any(map(charges.__getitem__, chunks)):
                yield attempt
