"""
Keys: which partition owns a key, and how the values of each key come together.

L{ByKey} and L{ByKeyAggregate} are aggregates of C{(key, value)} pairs; their accumulators are dicts, which L{split}
cuts into partitions.
"""

from __future__ import annotations

import functools
import io
import operator
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

from .._aggregate import Aggregate
from .ordering import HashOrder, Order

__all__ = [
    "SLICE",
    "ByKey",
    "ByKeyAggregate",
    "Items",
    "Partition",
    "Stream",
    "as_dict",
    "by_key",
    "join",
    "pieces",
    "split",
    "whole",
]

_UNSHARED = {str, bytes}
"""Types of keys that lead to nothing else."""
SLICE = 50_000
"""How many entries one piece of a large result has: some 5 ms of decoding, so that the reactor stays free."""
_HASHED = HashOrder()
_BUCKETS = 128
"""How many buckets all partitions have together, about. The dict of one then stays in the processor's cache, where
merging takes a third of the time (650,000 keys into as many others: 757 ms in one dict, 255 ms in 32)."""


def by_key(aggregate: Aggregate) -> bool:
    """
    Whether its accumulators are dicts that L{split} can cut; where order does not count, they are folded and finished
    part by part, too. It is not known of classes derived from such a one.
    """
    return bool(vars(type(aggregate)).get("_by_key", False))


class Items:
    """
    The items of a dict as two lists: made, sent and read in half the time of a dict, which has to be built each time.

    @ivar kind: the class of the dict.
    """

    __slots__ = ("_keys", "_values", "kind")

    def __init__(self, kind: type[dict[Any, Any]], keys: list[Any], values: list[Any]) -> None:
        self.kind = kind
        self._keys = keys
        self._values = values

    def __reduce__(self) -> tuple[Any, ...]:
        if set(map(type, self._keys)) <= _UNSHARED:
            return _unpacked, (self.kind, _packed(self._keys), self._values)
        return Items, (self.kind, self._keys, self._values)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keys)

    def values(self) -> Sequence[Any]:
        """
        Values, as a dict gives them.
        """
        return self._values

    def items(self) -> Iterator[tuple[Any, Any]]:
        """
        Pairs, as a dict gives them.
        """
        return zip(self._keys, self._values, strict=True)

    def copy(self) -> dict[Any, Any]:
        """
        The dict.
        """
        whole = self.kind()
        dict.update(whole, self.items())  # what a Counter makes of pairs is something else
        return whole


def _packed(keys: list[Any]) -> bytes:
    """
    A pickle of C{keys} without pickle's memo, which would take six times as long as the rest: no key is there twice.
    """
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5)
    pickler.fast = True
    pickler.dump(keys)
    return file.getvalue()


def _unpacked(kind: type[dict[Any, Any]], keys: bytes, values: list[Any]) -> Items:
    return Items(kind, pickle.loads(keys), values)


class Partition:
    """
    The items of one partition, in buckets: what shares a bucket here shares one in the same partition of every other
    worker, so each bucket is merged by itself.

    @ivar kind: the class of the dict that was cut.
    @ivar buckets: L{Items}, or dicts.
    """

    __slots__ = ("buckets", "kind")

    def __init__(self, kind: type[dict[Any, Any]], buckets: list[Any]) -> None:
        self.kind = kind
        self.buckets = buckets

    def __reduce__(self) -> tuple[Any, ...]:
        return Partition, (self.kind, self.buckets)

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.buckets)

    def values(self) -> Iterator[Any]:
        """
        Values, as a dict gives them.
        """
        return chain.from_iterable(bucket.values() for bucket in self.buckets)

    def items(self) -> Iterator[tuple[Any, Any]]:
        """
        Pairs, as a dict gives them.
        """
        return chain.from_iterable(bucket.items() for bucket in self.buckets)

    def copy(self) -> dict[Any, Any]:
        """
        All of it as one dict.
        """
        whole = self.kind()
        dict.update(whole, self.items())
        return whole

    def update(self, function: Callable[..., dict[Any, Any]], *others: Partition) -> Partition:
        """
        Put C{function(bucket, *buckets of the others)} in the place of each bucket.
        """
        for n, buckets in enumerate(zip(self.buckets, *(other.buckets for other in others), strict=True)):
            self.buckets[n] = function(*buckets)
        return self


class Stream:
    """
    A result in pieces, each made when it is asked for.
    """

    def __init__(self, pieces: Iterator[Any]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[Any]:
        return self._pieces


Table = dict[Any, Any] | Items | Partition


def as_dict(table: Any) -> Any:
    """
    A table as a dict; anything else as it is.
    """
    return table.copy() if isinstance(table, (Items, Partition)) else table


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


def split(acc: dict[Any, Any] | Partition, npartitions: int, order: Order = _HASHED) -> list[Any]:
    """
    Cut a dict into C{npartitions} by the buckets of its keys: L{Items} if that is one, or else L{Partition}s.
    """
    kind = acc.kind if isinstance(acc, Partition) else type(acc)
    if npartitions == 1:
        return [Items(kind, list(acc), list(acc.values()))]
    each = max(1, _BUCKETS // npartitions)
    numbers = order.buckets(acc, npartitions, each)
    assert numbers is not None
    count = each * npartitions
    keys: list[list[Any]] = [[] for _ in range(count)]
    values: list[list[Any]] = [[] for _ in range(count)]
    for number, key, value in zip(numbers, acc, acc.values(), strict=True):
        keys[number].append(key)
        values[number].append(value)
    buckets = list(map(partial(Items, kind), keys, values))
    return [Partition(kind, buckets[n : n + each]) for n in range(0, count, each)]


def pieces(value: Any) -> Iterator[Any]:
    """
    A large list, dict or Counter, a L{Partition}, or a L{Stream}, in pieces that are quick to decode; anything else
    whole. L{join} undoes it.
    """
    if isinstance(value, Partition):
        for bucket in value.buckets:
            yield from _sliced(bucket) if type(bucket) in (dict, Counter) else pieces(bucket)
    elif isinstance(value, Stream):
        yield from value
    elif type(value) is list and len(value) > SLICE:
        for start in range(0, len(value), SLICE):
            yield value[start : start + SLICE]
    elif type(value) in (dict, Counter) and len(value) > SLICE:
        yield from _sliced(value)
    else:
        yield value


def _sliced(table: dict[Any, Any]) -> Iterator[Items]:
    keys, values = list(table), list(table.values())
    for start in range(0, len(keys), SLICE) or [0]:
        yield Items(type(table), keys[start : start + SLICE], values[start : start + SLICE])


def whole(value: Any) -> Any:
    """
    C{value}, or what the pieces of a L{Stream} make together.
    """
    return functools.reduce(join, value, None) if isinstance(value, Stream) else value


def join(whole: Any, piece: Any) -> Any:
    """
    Put C{piece} behind C{whole}, a list or a dict; the first piece becomes the whole.
    """
    if whole is None:
        return piece.copy() if isinstance(piece, (Items, Partition)) else piece
    if isinstance(whole, list):
        whole.extend(piece)
    else:
        dict.update(whole, dict(piece.items()))  # a dict goes into another faster than pairs do
    return whole
