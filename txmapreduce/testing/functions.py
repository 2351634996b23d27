"""
Functions and classes that the suite sends to workers. They are apart so that a worker need not import the suite.
"""

from __future__ import annotations

import enum
import functools
import operator
import random
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .._context import current_task


def square(x: int) -> int:
    return x * x


def some(x: int) -> list[int]:
    """None at all, for many."""
    return [x] * (x % 3)


def some_lazily(x: int) -> Iterator[int]:
    for n in range(x % 3):
        yield x + n


def pairs(x: int) -> Iterator[tuple[Any, int]]:
    yield x % 5, x
    if x % 2:
        yield "odd", 1


def squares(chunk: Sequence[int]) -> list[int]:
    return [x * x for x in chunk]


def somes(chunk: Sequence[int]) -> list[list[int]]:
    return [some(x) for x in chunk]


def of_chunk(chunk: Sequence[int]) -> Iterator[tuple[str, int]]:
    yield type(chunk).__name__, len(chunk)
    yield "sum", sum(chunk)


def all_pairs(chunk: Sequence[int]) -> list[tuple[Any, int]]:
    return [pair for x in chunk for pair in pairs(x)]


def as_matrix(x: int) -> tuple[int, int, int, int]:
    return (x, 1, 1, 0)


def product(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return (
        (a[0] * b[0] + a[1] * b[2]) % 9973,
        (a[0] * b[1] + a[1] * b[3]) % 9973,
        (a[2] * b[0] + a[3] * b[2]) % 9973,
        (a[2] * b[1] + a[3] * b[3]) % 9973,
    )


def single(x: int) -> tuple[int]:
    return (x,)


def extended(a: list[int], b: list[int]) -> list[int]:
    a += b
    return a


def single_list(x: int) -> list[int]:
    return [x]


def joined(key: Any, values: Iterator[int]) -> Iterator[tuple[Any, list[int]]]:
    yield key, list(values)


def total(key: Any, values: Iterator[int]) -> Iterator[int]:
    yield sum(values)


def total_of(key: Any, values: Iterator[int]) -> Iterator[tuple[Any, int]]:
    yield key, sum(values)


def pairs_of_numbers(x: int) -> list[tuple[int, int]]:
    return [(x % 7, x), (x % 3, 1)]


def tens(x: int) -> int:
    return x // 10


def identity(x: Any) -> Any:
    return x


def last(a: Any, b: Any) -> Any:
    return b


def one_key(x: Any) -> list[tuple[str, Any]]:
    return [("key", x)]


def key_itself(x: Any) -> list[tuple[Any, int]]:
    return [(x, 1)]


class Stopping:
    """
    Raises StopIteration at one record.
    """

    def __init__(self, at: int, options: dict[str, Any]) -> None:
        self.at = at
        self.options = options

    def __call__(self, x: Any) -> Any:
        if x == self.at or (type(x) is list and self.at in x):
            raise StopIteration
        if "batched" in self.options:
            return x
        if "reduce_by_key" in self.options:
            return [(x, x)]
        return [x] if "flat" in self.options else x


class Adder:
    """
    Something to call, with a method.
    """

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, x: int) -> int:
        return x + self.n

    def method(self, x: int) -> int:
        return x - self.n

    @classmethod
    def of_class(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x

    @staticmethod
    def static(x: int) -> int:
        return -x


def times(n: int, x: int) -> int:
    return n * x


def kinds_of_functions() -> dict[str, Callable[[int], Any]]:
    base = 3

    def closure(x: int) -> int:
        return x + base

    def factorial(x: int) -> int:
        return 1 if x < 2 else x * factorial(x - 1)

    def generator(x: int) -> tuple[int, ...]:
        def inner() -> Iterator[int]:
            yield from range(x)

        return tuple(inner())

    class Local:
        def __call__(self, x: int) -> int:
            return x ^ base

    return {
        "of a module": square,
        "lambda": lambda x: x * 2 + base,
        "closure": closure,
        "recursive closure": factorial,
        "method": Adder(4).method,
        "class method": Adder.of_class,
        "static method": Adder.static,
        "object": Adder(5),
        "partial": functools.partial(times, 6),
        "partial of a lambda": functools.partial(lambda a, b: a - b, 7),
        "of a local class": Local(),
        "with a generator inside": generator,
        "built in": abs,
        "type": float,
        "itemgetter": operator.methodcaller("bit_length"),
        "cached": functools.lru_cache(lambda x: x + base),
    }


def kinds_of_operators() -> dict[str, Callable[[int, int], int]]:
    extra = 0

    def closure(a: int, b: int) -> int:
        return a + b + extra

    return {
        "built in": max,
        "of operator": operator.add,
        "lambda": lambda a, b: a + b,
        "closure": closure,
        "partial": functools.partial(lambda n, a, b: a + b + n, 0),
    }


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Flags(enum.IntFlag):
    A = 1
    B = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: float


Place = namedtuple("Place", "lat lon")


def noisy(x: int) -> float:
    return random.Random(x).uniform(-1, 1) * 10.0 ** (x % 17 - 8)


def noisy_pairs(x: int) -> list[tuple[int, float]]:
    return [(x % 3, noisy(x))]


def drawn(x: int) -> tuple[int, float]:
    task = current_task()
    return task.index, task.random.random()


def counting(x: int) -> int:
    task = current_task()
    task.counter("seen", "records").increment()
    task.counter("seen", "sum").increment(x)
    return x


def counting_pairs(x: int) -> list[tuple[int, int]]:
    return [(x % 2, counting(x))]


def generator_of(x: int) -> Iterator[int]:
    return (n for n in range(x))


def slow(seconds: float, x: Any) -> Any:
    time.sleep(seconds)
    return x


class Logged:
    """
    Notes in a file how often it was called: a byte each time.
    """

    def __init__(self, path: str, pairs: bool = False) -> None:
        self.path = path
        self.pairs = pairs

    def __call__(self, x: int) -> Any:
        with open(self.path, "ab") as log:
            log.write(b".")
        return pairs_of_numbers(x) if self.pairs else x
