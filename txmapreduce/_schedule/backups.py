"""
Which map attempts are stragglers, and the backup attempts that have been made of them.

Backups are made when nothing is left to hand out and a worker is idle: a machine that would do nothing costs nothing.
A straggler is an attempt that has taken L{FACTOR} times as long as is usual in this run, and not less than L{LEAST}
seconds, since the loser's worker may have to be replaced. The idea is that of the first MapReduce (Dean and Ghemawat,
2004, section 3.6), the comparison with the median that of Spark.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
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
        self._since: dict[int, float] = {}  # in the order of their time
        self._seconds: deque[float] = deque(maxlen=_SAMPLE)
        self._twins: dict[int, int] = {}

    def began(self, id: int, now: float) -> None:
        """
        The attempt begins to run. A backup does when it is submitted, since that is to a worker that is idle; whatever
        is told later counts.
        """
        self._since.pop(id, None)
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

    def stragglers(
        self, running: Mapping[int, Attempt], charges: Counter[int], retries: int, most: int, now: float
    ) -> tuple[list[MapAttempt], float | None]:
        """
        Which attempts of those C{running} should have a backup now, the slowest first, C{most} of them; and when to
        look again, unless there are so many. Only those that are slow are looked at: there may be thousands that are
        not, and this is asked whenever one has ended.
        """
        slow: list[MapAttempt] = []
        if not self._seconds:
            return slow, None
        patience = max(LEAST, FACTOR * median(self._seconds))
        for id, since in self._since.items():
            if len(slow) == most:
                break
            if id in self._twins:
                continue
            if since + patience > now + HAIR:
                return slow, since + patience
            attempt = running.get(id)
            if isinstance(attempt, MapAttempt) and may_repeat(attempt, charges, retries):
                slow.append(attempt)
        return slow, None


def may_repeat(attempt: Attempt, charges: Counter[int], retries: int) -> bool:
    """
    Whether it may have a backup. That is an attempt like others, the second of the C{retries + 1} that a chunk has in
    all; one that has broken before has none: its next attempt is to show which record does it. What a worker keeps
    can't be taken back there.
    """
    if not isinstance(attempt, MapAttempt) or attempt.hold or attempt.careful or not retries:
        return False
    return not any(map(charges.__getitem__, range(attempt.first, attempt.first + attempt.count)))
