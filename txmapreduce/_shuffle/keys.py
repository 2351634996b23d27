"""
Keys: how the values of each key come together.

L{ByKey} and L{ByKeyAggregate} are aggregates of C{(key, value)} pairs; their accumulators are dicts, which
L{txmapreduce._shuffle.tables} cuts into partitions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from .._aggregate import Aggregate
from .ordering import HashOrder, Order
from .tables import Table

__all__ = ["ByKey", "ByKeyAggregate", "by_key"]

_HASHED = HashOrder()


def by_key(aggregate: Aggregate) -> bool:
    """
    Whether its accumulators are dicts that can be cut; where order does not count, they are folded and finished
    part by part, too. It is not known of classes derived from such a one.
    """
    return bool(vars(type(aggregate)).get("_by_key", False))


class ByKey(Aggregate):
    """
    One value per key: C{{key: functools.reduce(op, values of the key)}}. C{op} has to be associative and commutative.
    """

    ordered = False
    _by_key = True

    def __init__(self, op: Callable[[Any, Any], Any], order: Order = _HASHED) -> None:
        self.op = op
        self.order = order

    def zero(self) -> dict[Any, Any]:
        return {}

    def add(self, acc: dict[Any, Any], value: tuple[Any, Any]) -> dict[Any, Any]:
        return self.add_many(acc, [value])

    def add_many(self, acc: dict[Any, Any], values: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
        if self.op is operator.add:
            # The most common operator, spelled out: a call per pair would take longer than the addition.
            for key, value in values:
                if key in acc:
                    acc[key] = acc[key] + value
                else:
                    acc[key] = value
            return acc
        op = self.op
        for key, value in values:
            if key in acc:
                acc[key] = op(acc[key], value)
            else:
                acc[key] = value
        return acc

    def merge(self, a: dict[Any, Any], b: Table) -> dict[Any, Any]:
        return self.add_many(a, b.items()) if a else b.copy()


class ByKeyAggregate(Aggregate):
    """
    One aggregate per key: C{{key: finish(fold of the key's values)}}.
    """

    _by_key = True

    def __init__(self, aggregate: Aggregate, order: Order = _HASHED) -> None:
        self.aggregate = aggregate
        self.order = order
        self.ordered = aggregate.ordered

    def zero(self) -> dict[Any, Any]:
        return {}

    def add(self, acc: dict[Any, Any], value: tuple[Any, Any]) -> dict[Any, Any]:
        return self.add_many(acc, [value])

    def add_many(self, acc: dict[Any, Any], values: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
        zero, add = self.aggregate.zero, self.aggregate.add
        for key, value in values:
            acc[key] = add(acc[key] if key in acc else zero(), value)
        return acc

    def merge(self, a: dict[Any, Any], b: Table) -> dict[Any, Any]:
        zero, merge = self.aggregate.zero, self.aggregate.merge
        for key, other in b.items():
            a[key] = merge(a[key] if key in a else zero(), other)
        return a

    def finish(self, acc: dict[Any, Any]) -> dict[Any, Any]:
        finish = self.aggregate.finish
        return {key: finish(value) for key, value in acc.items()}
