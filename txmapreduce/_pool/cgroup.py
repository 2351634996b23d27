"""
What the control group of this process tells: its folders, and how many of its processes the kernel has killed for want
of memory.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["OomKills", "folders", "oom_kills"]

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

_COUNTERS = ("memory.events", "memory.oom_control")
"""Where the number stands, in versions 2 and 1."""


def folders(controller: str, root: Path = ROOT, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """
    The folders in which the files of a controller may be, from this process's own group up to the root, of version 1
    and of version 2.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        group = Path(path.lstrip("/"))
        yield from (base / group, *(base / parent for parent in group.parents))


class OomKills:
    """
    The number of processes of this group that the kernel killed because there was no more memory.

    The workers are in the same group, so when one of them was killed, nobody here has done it, and the number has grown
    in its lifetime, it was that. Each step of the number explains one death, not two.
    """

    def __init__(self, file: Path | None) -> None:
        """
        @param file: where the number stands; C{None}: nowhere.
        """
        self._file = file
        self._explained = 0

    def count(self) -> int | None:
        """
        How many so far, where that can be known.
        """
        try:
            text = "" if self._file is None else self._file.read_text()
        except OSError:
            text = ""
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        return int(found[1]) if found else None

    def explain(self, since: int | None) -> bool:
        """
        Whether a death is one of those that have come since the number was C{since}.
        """
        count = self.count()
        if since is None or count is None or count <= max(since, self._explained):
            return False
        self._explained = max(since, self._explained) + 1
        return True


@functools.cache
def oom_kills() -> OomKills:
    """
    Those of this process's own group.
    """
    return OomKills(_counter(folders("memory")))


def _counter(candidates: Iterator[Path]) -> Path | None:
    """
    The file of the nearest group that has the number.
    """
    files = (folder / name for folder in candidates for name in _COUNTERS)
    return next((file for file in files if file.is_file()), None)
