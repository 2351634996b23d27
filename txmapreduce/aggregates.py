"""
Ways to reduce many values to one result that say how parts of it come together.

An L{Aggregate} can stand wherever a job takes a binary function to reduce with. The ones that ship do most of their
work in C. To make one of your own, derive from L{Aggregate}, at the top of a module or in C{__main__}::

    class Longest(Aggregate):
        ordered = True  # of two that are equally long, the first counts

        def zero(self):
            return ""

        def add(self, acc, value):
            return value if len(value) > len(acc) else acc

        merge = add

The law: however the values are cut, in input order, into parts, merging what the parts were folded to gives what adding
one value after the other gives. C{zero()} changes nothing, on either side. Sums of floats keep this law but for
rounding; the policy's C{reproducible} makes the rounding the same every time. Values that are compared have to have a
total order, which a float that is NaN has not.
"""

from __future__ import annotations

import heapq
import math
import operator
import random
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice, repeat
from numbers import Rational, Real
from sys import maxsize
from typing import Any, ClassVar

from ._aggregate import Aggregate, Collect, FewValues
from ._context import current_task
from ._shuffle.ordering import HashOrder
from .errors import BadInput

__all__ = ["Aggregate", "Collect", "Counts", "Distinct", "Max", "Mean", "Min", "Sample", "Sum", "TopK", "Variance"]

_SLICE = 10_000
"""Values that are held at once where they have to be gone through twice."""


class _Missing(Enum):
    MISSING = "missing"

    def __repr__(self) -> str:
        return "<missing>"


_MISSING = _Missing.MISSING
"""No value, where C{None} would be one."""


@dataclass(frozen=True)
class Counts(Aggregate):
    """
    How often each value occurs: a C{collections.Counter}. Values have to be hashable.
    """

    ordered = False
    order = HashOrder()
    _by_key = True

    def zero(self) -> Counter[Hashable]:
        return Counter()

    def add(self, acc: Counter[Hashable], value: Hashable) -> Counter[Hashable]:
        acc[value] += 1
        return acc

    def add_many(self, acc: Counter[Hashable], values: Iterable[Hashable]) -> Counter[Hashable]:
        acc.update(iter(values))  # an iterator: of a mapping, update() would take the values to be counts
        return acc

    def merge(self, a: Counter[Hashable], b: Counter[Hashable]) -> Counter[Hashable]:
        if len(a) < len(b):
            a, b = b.copy(), a  # a copy costs much less than adding the larger key by key
        counts = map(operator.add, b.values(), map(a.get, b, repeat(0)))
        dict.update(a, zip(b, counts, strict=True))  # a loop in Python takes half as long again
        return a


@dataclass(frozen=True)
class Sum(FewValues):
    """
    C{sum(values, start)}, for all that C{+} goes with but C{str}. Integers are exact.

    @ivar start: what the sum starts with, once: 0 by default.
    """

    start: Any = 0
    ordered = False

    # The accumulator is [] or [sum]: it needs no zero of the type of the values.

    def add(self, acc: list[Any], value: Any) -> list[Any]:
        return [acc[0] + value] if acc else [value]

    def add_many(self, acc: list[Any], values: Iterable[Any]) -> list[Any]:
        rest = chain(acc, values)
        return [sum(rest, first) for first in rest]

    def finish(self, acc: list[Any]) -> Any:
        return sum(acc, self.start)


@dataclass(frozen=True)
class _Extreme(FewValues):
    key: Callable[[Any], Any] | None = None
    default: Any = _MISSING

    _choose: ClassVar[Callable[..., Any]]

    def __post_init__(self) -> None:
        _need_function(self.key)
        # Values with equal keys can differ, and then the first counts.
        object.__setattr__(self, "ordered", self.key is not None)

    def add_many(self, acc: list[Any], values: Iterable[Any]) -> list[Any]:
        found = type(self)._choose(chain(acc, values), key=self.key, default=_MISSING)
        return [] if found is _MISSING else [found]

    def finish(self, acc: list[Any]) -> Any:
        if not acc and self.default is _MISSING:
            raise ValueError(f"{type(self).__name__}() of no values, and it has no default")
        return acc[0] if acc else self.default


@dataclass(frozen=True)
class Min(_Extreme):
    """
    C{min(values, key=key, default=default)}: the smallest value, the first of several.

    @ivar key: what to compare values by; C{None}, the default: the values themselves.
    @ivar default: the result for no values. Without one that is a C{ValueError}, as with C{min}.
    """

    _choose = min


@dataclass(frozen=True)
class Max(_Extreme):
    """
    C{max(values, key=key, default=default)}: the largest value, the first of several. See L{Min}.
    """

    _choose = max


def _slices(values: Iterable[Any]) -> Iterator[list[Any]]:
    values = iter(values)
    while part := list(islice(values, _SLICE)):
        yield part


def _total(values: list[Any]) -> Any:
    """
    The sum of some values. Of floats, it is rounded once (C{math.fsum}) unless that overflows midway.
    """
    if isinstance(values[0], Real) and not isinstance(values[0], Rational):
        try:
            return math.fsum(values)
        except (OverflowError, TypeError, ValueError):
            pass  # too large, not all of them numbers, or infinite in both directions
    return sum(values[1:], values[0])


def _too_few(message: str) -> Exception:
    from statistics import StatisticsError

    return StatisticsError(message)


@dataclass(frozen=True)
class Mean(Aggregate):
    """
    The arithmetic mean: the sum, divided by the number of values. The sum is exact for integers, fractions and
    decimals; for floats it is rounded once in C{_SLICE} values. Of no values it is a C{statistics.StatisticsError}.
    """

    ordered = False

    # The accumulator is (number of values, their sum).

    def zero(self) -> tuple[int, Any]:
        return (0, 0)

    def add(self, acc: tuple[int, Any], value: Any) -> tuple[int, Any]:
        return self.merge(acc, (1, value))

    def add_many(self, acc: tuple[int, Any], values: Iterable[Any]) -> tuple[int, Any]:
        for part in _slices(values):
            acc = self.merge(acc, (len(part), _total(part)))
        return acc

    def merge(self, a: tuple[int, Any], b: tuple[int, Any]) -> tuple[int, Any]:
        if not (a[0] and b[0]):
            return a if a[0] else b
        return (a[0] + b[0], a[1] + b[1])

    def finish(self, acc: tuple[int, Any]) -> Any:
        count, total = acc
        if not count:
            raise _too_few("Mean() needs at least one value")
        return total / count


@dataclass(frozen=True)
class Variance(Aggregate):
    """
    The mean squared deviation from the mean, in floats: of a sample, unless C{ddof} is 0. Parts come together as in
    T. Chan, G. Golub, R. LeVeque: "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979);
    for a single value that is Welford's method (1962). With C{ddof} values or fewer it is a
    C{statistics.StatisticsError}.

    @ivar ddof: what is taken off the number of values before the sum of squares is divided by it: 1 by default.
    """

    ddof: int = 1
    ordered = False

    # The accumulator is (number of values, their mean, sum of the squared deviations from it).

    def zero(self) -> tuple[int, float, float]:
        return (0, 0.0, 0.0)

    def add(self, acc: tuple[int, float, float], value: float) -> tuple[int, float, float]:
        return self.merge(acc, (1, float(value), 0.0))

    def add_many(self, acc: tuple[int, float, float], values: Iterable[float]) -> tuple[int, float, float]:
        for part in _slices(map(float, values)):
            mean = _total(part) / len(part)
            deviations = [value - mean for value in part]
            acc = self.merge(acc, (len(part), mean, _total(list(map(operator.mul, deviations, deviations)))))
        return acc

    def merge(self, a: tuple[int, float, float], b: tuple[int, float, float]) -> tuple[int, float, float]:
        if not (a[0] and b[0]):
            return a if a[0] else b
        count, apart = a[0] + b[0], b[1] - a[1]
        mean = a[1] + apart * (b[0] / count)
        return (count, mean, a[2] + b[2] + apart * apart * (a[0] * b[0] / count))

    def finish(self, acc: tuple[int, float, float]) -> float:
        if acc[0] <= self.ddof or not acc[0]:
            raise _too_few(f"Variance(ddof={self.ddof}) needs more than {max(self.ddof, 0)} values, and got {acc[0]}")
        return acc[2] / (acc[0] - self.ddof)


def _itself(value: Any) -> Any:
    return value


def _need_function(key: object) -> None:
    if key is not None and not callable(key):
        raise BadInput(f"key has to be a function of a value, not {key!r}")


def _need_number(k: int) -> None:
    if not isinstance(k, int) or isinstance(k, bool) or k < 0:
        raise BadInput(f"k has to be a whole number, 0 or more, not {k!r}")


@dataclass(frozen=True)
class TopK(FewValues):
    """
    C{sorted(values, key=key, reverse=True)[:k]}: the largest values, in descending order, equal ones in input order.
    It holds no more than C{k} values, by C{heapq.nlargest}.

    @ivar k: how many, at most.
    @ivar key: what to compare values by; C{None}, the default: the values themselves.
    """

    k: int
    key: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        _need_number(self.k)
        _need_function(self.key)

    def add(self, acc: list[Any], value: Any) -> list[Any]:
        if acc and len(acc) == self.k:
            key = self.key or _itself
            if not key(acc[-1]) < key(value):
                return acc  # by far the most usual case
        return self.add_many(acc, (value,))

    def add_many(self, acc: list[Any], values: Iterable[Any]) -> list[Any]:
        if not self.k:
            deque(values, 0)  # heapq would leave them unread, and then the mapper would not run
            return acc
        return heapq.nlargest(self.k, chain(acc, values), self.key)


@dataclass(frozen=True)
class Distinct(Aggregate):
    """
    C{set(values)}. Values have to be hashable.
    """

    ordered = False

    def zero(self) -> set[Hashable]:
        return set()

    def add(self, acc: set[Hashable], value: Hashable) -> set[Hashable]:
        acc.add(value)
        return acc

    def add_many(self, acc: set[Hashable], values: Iterable[Hashable]) -> set[Hashable]:
        acc.update(values)
        return acc

    def merge(self, a: set[Hashable], b: set[Hashable]) -> set[Hashable]:
        if len(a) < len(b):
            a, b = b.copy(), a
        a |= b
        return a


_Entry = tuple[float, float, Any]


@dataclass(frozen=True)
class Sample(Aggregate):
    """
    C{k} of the values, drawn at random without replacement, each choice equally likely; all of them when there are no
    more than C{k}. They come in random order. Inside a task it draws with C{current_task().random}, so that the
    policy's C{seed} counts.

    Each value gets a random number, and those with the C{k} smallest numbers stay: merging is exact, whatever the sizes
    of the parts. Numbers that would be too large are not drawn but passed over, as many values at a time as chance
    has it: algorithm L in K.-H. Li: "Reservoir-Sampling Algorithms of Time Complexity O(n(1+log(N/n)))" (1994).

    @ivar k: how many, at most.
    """

    k: int
    ordered = False

    # The accumulator is a heap of (-number, a second number that keeps values from being compared, value).

    def __post_init__(self) -> None:
        _need_number(self.k)

    def zero(self) -> list[_Entry]:
        return []

    def add(self, acc: list[_Entry], value: Any) -> list[_Entry]:
        return self.add_many(acc, (value,))

    def add_many(self, acc: list[_Entry], values: Iterable[Any]) -> list[_Entry]:
        # From zero each time: what is drawn depends on the values of this call alone, not on who folded what before.
        return self.merge(acc, self._draw(iter(values), _uniform()))

    def _draw(self, values: Iterator[Any], uniform: Callable[[], float]) -> list[_Entry]:
        heap = [(-uniform(), uniform(), value) for value in islice(values, self.k)]
        if len(heap) < self.k or not heap:
            deque(values, 0)
            return heap
        heapq.heapify(heap)
        while True:
            limit = -heap[0][0]
            passed_over = min(int(math.log(uniform()) / math.log1p(-limit)), maxsize - 1)
            for value in islice(values, passed_over, passed_over + 1):
                heapq.heapreplace(heap, (-limit * uniform(), uniform(), value))
                break
            else:
                return heap

    def merge(self, a: list[_Entry], b: list[_Entry]) -> list[_Entry]:
        if free := self.k - len(a):
            a.extend(b[:free])
            heapq.heapify(a)
        for entry in b[free:]:
            heapq.heappushpop(a, entry)
        return a

    def finish(self, acc: list[_Entry]) -> list[Any]:
        return [value for _, _, value in sorted(acc, key=operator.itemgetter(0, 1), reverse=True)]


def _uniform() -> Callable[[], float]:
    """
    What draws numbers between 0 and 1, neither of which it gives: the logarithms are finite then.
    """
    try:
        source: Any = current_task().random
    except RuntimeError:
        source = random
    draw: Callable[[], float] = source.random
    return lambda: draw() or 0.5**54
