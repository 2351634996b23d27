"""
Keys: which partition owns a key, and how the values of each key come together.

L{ByKey} and L{Group} are aggregates of C{(key, value)} pairs; their accumulators are dicts, which L{split} cuts into
partitions. A partition is chosen by L{partition_of}, whose answer is the same in every process and on every machine.
"""

from __future__ import annotations

import io
import operator
import pickle
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from functools import partial
from itertools import chain
from typing import Any

from ._aggregate import Aggregate

__all__ = [
    "ByKey",
    "ByKeyAggregate",
    "Group",
    "Items",
    "Partition",
    "by_key",
    "join",
    "partition_of",
    "pieces",
    "split",
]

_NUMBERS = (int, float, complex, Decimal, Fraction)
_KNOWN_EQUALITIES = (str.__eq__, bytes.__eq__, tuple.__eq__)
_UNSHARED = {str, bytes}
"""Types of keys that lead to nothing else."""
_SLICE = 50_000
"""How many entries one piece of a large result has: some 5 ms of decoding, so that the reactor stays free."""
_BUCKETS = 128
"""How many buckets all partitions have together, about. The dict of one then stays in the processor's cache, where
merging takes a third of the time (650,000 keys into as many others: 757 ms in one dict, 255 ms in 32)."""


def partition_of(key: Hashable, npartitions: int) -> int:
    """
    The number of the partition that owns C{key}.

    Equal keys have equal partitions, across types as well (C{1 == 1.0 == True}), in any process. Python's own hash of a
    number keeps that promise and that of text does not, so text goes through CRC-32. Keys of any other type than
    text, bytes, numbers and tuples of them share partition 0, and so do those with an C{__eq__} of their own: that is
    always right, if not always balanced.
    """
    if type(key) is str:  # the common case, without another call
        return zlib.crc32(key.encode("utf-8", "surrogatepass")) % npartitions
    return _stable_hash(key) % npartitions


def _stable_hash(key: Any) -> int:
    if type(key).__module__ == "numpy" and hasattr(key, "item"):
        key = key.item()  # what it equals, and hashes as
    if isinstance(key, (str, bytes, tuple)) and type(key).__eq__ not in _KNOWN_EQUALITIES:
        return 0
    if isinstance(key, str):
        return zlib.crc32(key.encode("utf-8", "surrogatepass"))
    if isinstance(key, _NUMBERS):
        # CPython's hash of a number keeps small numbers as they are: mix, so that steps in the keys do no harm.
        return (hash(key) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 32
    if isinstance(key, bytes):
        return zlib.crc32(key)
    if isinstance(key, tuple):
        total = len(key)
        for item in key:
            total = (total * 1_000_003 ^ _stable_hash(item)) & 0xFFFFFFFF
        return total
    return 0


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


Table = dict[Any, Any] | Items | Partition


class ByKey(Aggregate):
    """
    One value per key: C{{key: functools.reduce(op, values of the key)}}. C{op} has to be associative and commutative.
    """

    ordered = False
    _by_key = True

    def __init__(self, op: Callable[[Any, Any], Any]) -> None:
        self.op = op

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

    def __init__(self, aggregate: Aggregate) -> None:
        self.aggregate = aggregate
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


class Group(Aggregate):
    """
    The classic form: the values of each key in input order, then C{reducer(key, values)} for each key in ascending
    order. A C{combiner(key, values)} yields what stands in for some values of a key, on the map side.
    """

    ordered = True
    _by_key = True

    def __init__(
        self,
        reducer: Callable[[Any, Iterator[Any]], Iterable[Any]],
        combiner: Callable[[Any, Iterator[Any]], Iterable[Any]] | None,
    ) -> None:
        self.reducer = reducer
        self.combiner = combiner

    def zero(self) -> dict[Any, list[Any]]:
        return {}

    def add(self, acc: dict[Any, list[Any]], value: tuple[Any, Any]) -> dict[Any, list[Any]]:
        return self.add_many(acc, [value])

    def add_many(self, acc: dict[Any, list[Any]], values: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
        groups = acc if self.combiner is None else {}
        for key, value in values:
            if key in groups:
                groups[key].append(value)
            else:
                groups[key] = [value]
        if self.combiner is None:
            return acc
        return self.merge(acc, {key: list(self.combiner(key, iter(group))) for key, group in groups.items()})

    def merge(self, a: dict[Any, list[Any]], b: Table) -> dict[Any, list[Any]]:
        for key, values in b.items():
            if key in a:
                a[key].extend(values)
            else:
                a[key] = list(values)
        return a

    def finish(self, acc: dict[Any, list[Any]]) -> list[Any]:
        reducer = self.reducer
        return [out for key in sorted(acc) for out in reducer(key, iter(acc[key]))]


def split(acc: dict[Any, Any] | Partition, npartitions: int) -> list[Any]:
    """
    Cut a dict into C{npartitions} by L{partition_of} its keys: L{Items} if that is one, or else L{Partition}s.
    """
    kind = acc.kind if isinstance(acc, Partition) else type(acc)
    if npartitions == 1:
        return [Items(kind, list(acc), list(acc.values()))]
    count = max(1, _BUCKETS // npartitions) * npartitions
    keys: list[list[Any]] = [[] for _ in range(count)]
    values: list[list[Any]] = [[] for _ in range(count)]
    for number, key, value in zip(_numbers(acc, count), acc, acc.values(), strict=True):
        keys[number].append(key)
        values[number].append(value)
    buckets = list(map(partial(Items, kind), keys, values))
    return [Partition(kind, buckets[n::npartitions]) for n in range(npartitions)]


def _numbers(keys: Iterable[Any], count: int) -> Iterable[int]:
    """
    C{[partition_of(key, count) for key in keys]}, without a call for each key where all are text.
    """
    if set(map(type, keys)) == {str}:
        with suppress(UnicodeEncodeError):
            return [number % count for number in map(zlib.crc32, map(str.encode, keys))]
    return [partition_of(key, count) for key in keys]


def pieces(value: Any) -> Iterator[Any]:
    """
    A large list, dict or Counter, or a L{Partition}, in pieces that are quick to decode; anything else whole. L{join}
    undoes it.
    """
    if isinstance(value, Partition):
        for bucket in value.buckets:
            yield from _sliced(bucket) if type(bucket) in (dict, Counter) else pieces(bucket)
    elif type(value) is list and len(value) > _SLICE:
        for start in range(0, len(value), _SLICE):
            yield value[start : start + _SLICE]
    elif type(value) in (dict, Counter) and len(value) > _SLICE:
        yield from _sliced(value)
    else:
        yield value


def _sliced(table: dict[Any, Any]) -> Iterator[Items]:
    keys, values = list(table), list(table.values())
    for start in range(0, len(keys), _SLICE) or [0]:
        yield Items(type(table), keys[start : start + _SLICE], values[start : start + _SLICE])


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
