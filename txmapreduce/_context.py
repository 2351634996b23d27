"""
What a user's function can ask about the task that runs it.

L{current_task} gives the L{Task} of this thread of this process; the code that runs tasks enters and leaves it.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

__all__ = ["Task", "TaskCounter", "current_task"]


class TaskCounter:
    """
    One named number of a task. What committed map tasks added up is found in C{Run.counters}.
    """

    __slots__ = ("_key", "_totals")

    def __init__(self, totals: Counter[tuple[str, str]], key: tuple[str, str]) -> None:
        self._totals = totals
        self._key = key

    def increment(self, n: int = 1) -> None:
        """
        Add C{n} to the counter.
        """
        self._totals[self._key] += n


class Task:
    """
    The task that is running.

    @ivar index: the number of the chunk, counted from 0 in input order; -1 in a reduce task, which has none.
    @ivar attempt: which try of it this is, counted from 1.
    """

    def __init__(self, seed: int | None) -> None:
        self.index = 0
        self.attempt = 1
        self.counters: Counter[tuple[str, str]] = Counter()
        self.status_text = ""
        self._seed = seed
        self._random: tuple[int, random.Random] | None = None

    def begin(self, index: int, attempt: int) -> None:
        """
        Start afresh with another attempt.
        """
        self.index = index
        self.attempt = attempt
        self.counters.clear()
        self.status_text = ""
        self._random = None

    def counter(self, group: str, name: str) -> TaskCounter:
        """
        The counter C{name} of C{group}, made at its first use.
        """
        return TaskCounter(self.counters, (str(group), str(name)))

    def status(self, text: str) -> None:
        """
        Say in a few words what the task is doing. The last text of a task goes to the log when the task ends.
        """
        self.status_text = str(text)

    @property
    def random(self) -> random.Random:
        """
        A random generator of this chunk's own. It depends on the policy's C{seed} and the chunk's number alone, so it
        gives the same numbers for any number of workers and at any attempt. Without a seed it differs at every run.
        """
        if self._random is None or self._random[0] != self.index:
            material: Any = None if self._seed is None else f"{self._seed}:{self.index}"
            self._random = (self.index, random.Random(material))
        return self._random[1]


_running: dict[int, list[Task]] = {}
"""The tasks that run, by the number of their thread."""


def current_task() -> Task:
    """
    The task that runs the calling function.

    @raise RuntimeError: when no task is running in this process.
    """
    here = _running.get(threading.get_ident())
    if here is None:  # a thread of the user's own
        here = next(iter(_running.values()), None)
    if here is None:
        raise RuntimeError("current_task() has no answer here: call it from a function that a MapReduce job runs")
    return here[-1]


def enter(task: Task) -> None:
    """
    Make C{task} the current one of this thread, until L{leave}.
    """
    _running.setdefault(threading.get_ident(), []).append(task)


def leave() -> None:
    """
    Undo the last L{enter}.
    """
    here = _running[threading.get_ident()]
    here.pop()
    if not here:
        del _running[threading.get_ident()]
