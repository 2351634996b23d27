"""
Functions that raise, kill or hang, which the suite sends to workers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

from .._context import current_task
from .functions import counting


class TwoArguments(Exception):
    """
    Its constructor can't be called with its C{args}.
    """

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"{name} is {number}")
        self.name = name


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("this does not pickle")


class Passing(Exception):
    """
    Something that may go away by itself.
    """


class PassingKind(Passing):
    pass


def fails_at_7(x: int) -> int:
    if x == 7:
        raise ValueError(f"{x} is not good")
    return x


def fails_midway(x: int) -> Iterator[int]:
    yield x
    if x % 10 == 7:
        raise ValueError("midway")
    yield -x


def fails_in_batch(chunk: list[int]) -> list[int]:
    return [fails_at_7(x % 10) for x in chunk]


def pairs_fail_midway(x: int) -> Iterator[tuple[str, int]]:
    yield "all", 1
    if x % 10 == 7:
        raise ValueError("midway")
    yield "good", 1


def raises(error: Any, x: Any) -> Any:
    raise error


def raises_two_arguments(x: Any) -> Any:
    raise TwoArguments("x", 5)


def raises_no_text(x: Any) -> Any:
    raise NoText


def raises_unpicklable(x: Any) -> Any:
    raise Unpicklable("but it has a text")


def chained(x: Any) -> Any:
    try:
        return dict[str, Any]()["missing"]
    except KeyError as error:
        raise ValueError("outer") from error


def until_attempt(good: int, x: int) -> int:
    """
    Fails in all attempts before C{good}, behind some counting.
    """
    counting(x)
    if x == 5 and current_task().attempt < good:
        raise PassingKind(f"attempt {current_task().attempt}")
    return x


def pairs_until_attempt(good: int, x: int) -> list[tuple[int, int]]:
    return [(x % 3, until_attempt(good, x))]


def random_until_attempt(good: int, x: int) -> float:
    drawn = current_task().random.random()
    until_attempt(good, x)
    return drawn


def reducer_that_fails(key: Any, values: Iterator[Any]) -> Iterator[Any]:
    yield key
    raise ValueError(f"no {key}")


def fails_to_add(a: Any, b: Any) -> Any:
    raise ArithmeticError("no sum")


class FailsToMergeOnce:
    """
    Adds, and fails at its first call in this process that C{path} does not know of yet, in the midst of a merge.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, a: int, b: int) -> int:
        if a > 20:
            try:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                raise Passing("the first time")
        return a + b


def kills_at_70(x: int) -> int:
    if x == 70:
        os.kill(os.getpid(), signal.SIGKILL)
    return counting(x)


def kills_once(x: int) -> int:
    return counting(x) if current_task().attempt > 1 else kills_at_70(x)


def hangs_once(x: int) -> int:
    while x == 5 and current_task().attempt == 1:
        pass
    return x
