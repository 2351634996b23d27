"""
What an aggregate is: the base of those that ship, in L{txmapreduce.aggregates}, and of those that users make; and the
one that every worker needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Aggregate", "Collect", "FewValues"]


class Aggregate(ABC):
    """
    How to fold values into an accumulator, which can be anything that pickles. Aggregates are sent to workers, so they
    have to pickle too, and they keep nothing of a run in themselves.

    L{add}, L{add_many} and L{merge} return the accumulator to go on with. They may change the one that they are given
    first (C{acc}, C{a}) and return that; nobody uses it any more. They never change C{b}, nor keep a part of it that
    a later call would change.

    @cvar ordered: whether accumulators have to be merged in input order. C{False} lets a worker go on folding into one
        accumulator across chunks that are no neighbours, which is faster. C{True} by default, which is always right.
    """

    ordered: bool = True
    _by_key: bool = False  # accumulators are dicts, and every method goes key by key: see _shuffle.by_key

    @abstractmethod
    def zero(self) -> Any:
        """
        The accumulator of no values: a fresh one at each call.
        """

    @abstractmethod
    def add(self, acc: Any, value: Any) -> Any:
        """
        C{acc} and one more value.
        """

    def add_many(self, acc: Any, values: Iterable[Any]) -> Any:
        """
        C{acc} and more values, in their order. C{values} may be an iterator: it is gone through once, to its end.
        """
        for value in values:
            acc = self.add(acc, value)
        return acc

    @abstractmethod
    def merge(self, a: Any, b: Any) -> Any:
        """
        The accumulator of the values in C{a}, and then of those in C{b}.
        """

    def finish(self, acc: Any) -> Any:
        """
        The result. By default, that is the accumulator itself.
        """
        return acc


class FewValues(Aggregate):
    """
    The base of those whose accumulator is a list of values: merging is adding them.
    """

    def zero(self) -> list[Any]:
        return []

    def add(self, acc: list[Any], value: Any) -> Any:
        return self.add_many(acc, (value,))

    def merge(self, a: list[Any], b: list[Any]) -> Any:
        return self.add_many(a, b)


@dataclass(frozen=True)
class Collect(FewValues):
    """
    C{list(values)}, in input order.
    """

    def add_many(self, acc: list[Any], values: Iterable[Any]) -> list[Any]:
        acc.extend(values)
        return acc
