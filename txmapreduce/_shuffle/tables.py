"""
Tables of C{(key, value)} pairs: how they are cut into partitions and buckets, packed, sent and put together.

A dict of a million keys is far larger than any cache of a processor, and each look into it waits for memory several
times. So what is large is kept in buckets by the hashes of keys. What shares a bucket in one table shares it in all
others; each bucket is folded by itself, in a dict that stays in the cache. A bucket that waits for that is L{Packed}.
This is the radix partitioning of databases (Boncz, Manegold, Kersten: Database Architecture Optimized for the New
Bottleneck, Memory Access, VLDB 1999), with pickles in place of tuples in memory.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from .ordering import HashOrder, Order

__all__ = [
    "BUCKETS",
    "SLICE",
    "Items",
    "Packed",
    "Partition",
    "Stream",
    "Table",
    "as_dict",
    "gathered",
    "is_packable",
    "join",
    "pieces",
    "scattered",
    "split",
    "whole",
]

SLICE = 50_000
"""How many entries one piece of a large result has: some 5 ms of decoding, so that the reactor stays free."""

BUCKETS = 128
"""How many buckets all partitions have together, about: with a million keys, the dict of one has 1 to 2 MB."""

_UNSHARED = {str, bytes}
"""Types of keys that lead to nothing else."""

_PLAIN_KEYS = {str, bytes, int, bool, type(None)}
_PLAIN = {*_PLAIN_KEYS, float, complex}
"""
Types of keys and values of which nobody can tell a copy from the original, so that they can be packed. A key that is no
number (NaN) equals itself alone.
"""

_HASHED = HashOrder()


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
            return _items, (self.kind, _without_memo(self._keys), self._values)
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


def _without_memo(value: Any) -> bytes:
    """
    A pickle of C{value} without pickle's memo, which would take six times as long as the rest: nothing is there twice
    whose identity counts.
    """
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5)
    pickler.fast = True
    pickler.dump(value)
    return file.getvalue()


def _items(kind: type[dict[Any, Any]], keys: bytes, values: list[Any]) -> Items:
    return Items(kind, pickle.loads(keys), values)


class Packed:
    """
    The items of a dict of plain keys and values, pickled until they are needed: that takes a fraction of the memory,
    and none of them has to be touched to send them on.
    """

    __slots__ = ("_kind", "_pickle", "_size")

    def __init__(self, kind: type[dict[Any, Any]], pickled: bytes, size: int) -> None:
        self._kind = kind
        self._pickle = pickled
        self._size = size

    @classmethod
    def of(cls, kind: type[dict[Any, Any]], keys: list[Any], values: list[Any]) -> Packed:
        """
        Pack a dict of class C{kind}, given by its keys and its values.
        """
        return cls(kind, _without_memo((keys, values)), len(keys))

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self._kind, self._pickle, self._size)

    def __len__(self) -> int:
        return self._size

    def items(self) -> Iterator[tuple[Any, Any]]:
        """
        Pairs, as a dict gives them.
        """
        return self.unpacked().items()

    def unpacked(self) -> Items:
        """
        The items.
        """
        return Items(self._kind, *pickle.loads(self._pickle))


Table = dict[Any, Any] | Items
"""What aggregates merge."""


class Partition:
    """
    Tables that have not been folded yet, by bucket: those of one partition, or of several.

    @ivar count: how many buckets there are: of all partitions, where keys belong where their hashes say, or else of
        this one.
    @ivar buckets: of each bucket that has any, the tables, by its number.
    """

    __slots__ = ("buckets", "count")

    def __init__(self, count: int, buckets: dict[int, list[Table | Packed]]) -> None:
        self.count = count
        self.buckets = buckets

    def __reduce__(self) -> tuple[Any, ...]:
        return Partition, (self.count, self.buckets)

    def __len__(self) -> int:
        """
        How many entries there are. A key counts once for each table that has it.
        """
        return sum(map(len, self.tables()))

    def tables(self) -> Iterator[Table | Packed]:
        """
        All tables.
        """
        return chain.from_iterable(self.buckets.values())

    def add(self, other: Partition) -> None:
        """
        Put the tables of another one, which has as many buckets, behind those that there are.
        """
        for number, tables in other.buckets.items():
            self.buckets.setdefault(number, []).extend(tables)

    def copy(self) -> Partition:
        """
        One with the same tables, to which others can be added.
        """
        return Partition(self.count, {number: list(tables) for number, tables in self.buckets.items()})

    def cut(self, npartitions: int) -> list[Partition]:
        """
        The partitions in C{npartitions} by hash. A bucket that belongs to two of them is unpacked.
        """
        parts = [Partition(self.count, {}) for _ in range(npartitions)]
        for number, tables in self.buckets.items():
            first, last = number * npartitions // self.count, ((number + 1) * npartitions - 1) // self.count
            if first == last:
                parts[first].buckets[number] = tables
                continue
            for table in tables:
                for owner, share in _grouped(table, lambda keys: _HASHED.buckets(keys, npartitions, 1)).items():
                    parts[owner].buckets.setdefault(number, []).append(share)
        return parts

    def part(self, partition: int, npartitions: int) -> Partition:
        """
        What belongs to one of C{npartitions} by hash: often all of it.
        """
        firsts = {number * npartitions // self.count for number in self.buckets}
        lasts = {((number + 1) * npartitions - 1) // self.count for number in self.buckets}
        return self if firsts | lasts <= {partition} else self.cut(npartitions)[partition]

    def folded(
        self, merge: Callable[[Any, Table], Any], zero: Callable[[], Any]
    ) -> Iterator[tuple[int, dict[Any, Any]]]:
        """
        The number of each bucket and what its tables are together, in the order of numbers. As a bucket is folded, its
        tables are dropped.
        """
        for number in sorted(self.buckets):
            tables = self.buckets.pop(number)
            yield number, functools.reduce(merge, map(_unpacked, tables), zero())

    def reduced(self, merge: Callable[[Any, Table], Any], zero: Callable[[], Any]) -> Partition:
        """
        The same with one table in each bucket. This one is empty then.
        """
        return Partition(self.count, {number: [_packed(table)] for number, table in self.folded(merge, zero)})


class Stream:
    """
    A result in pieces, each made when it is asked for.
    """

    def __init__(self, pieces: Iterator[Any]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[Any]:
        return self._pieces


def as_dict(table: Any) -> Any:
    """
    A table as a dict; anything else as it is.
    """
    return table.copy() if isinstance(table, Items) else table


def _unpacked(table: Table | Packed) -> Table:
    return table.unpacked() if isinstance(table, Packed) else table


def is_packable(table: dict[Any, Any]) -> bool:
    """
    Whether all keys and values of a dict are plain.
    """
    return _PLAIN_KEYS.issuperset(map(type, table)) and _PLAIN.issuperset(map(type, table.values()))


def scattered(table: Table) -> Partition:
    """
    A table in buckets by the hashes of its keys.
    """
    grouped = _grouped(table, lambda keys: _HASHED.buckets(keys, BUCKETS, 1))
    return Partition(BUCKETS, {number: [share] for number, share in grouped.items()})


def split(table: Table | Partition, npartitions: int, order: Order = _HASHED) -> list[Any]:
    """
    Cut a table into C{npartitions}, which are L{Partition}s, or one table.
    """
    if isinstance(table, Partition):
        return [table] if npartitions == 1 else list(table.cut(npartitions))
    if npartitions == 1:
        return [Items(type(table), list(table), list(table.values()))] if isinstance(table, dict) else [table]
    if isinstance(order, HashOrder):
        return list(scattered(table).cut(npartitions))
    each = max(1, BUCKETS // npartitions)
    parts = [Partition(each, {}) for _ in range(npartitions)]
    for number, share in _grouped(table, lambda keys: order.buckets(keys, npartitions, each)).items():
        parts[number // each].buckets[number % each] = [share]
    return parts


def _grouped(table: Table | Packed, numbered: Callable[[list[Any]], Sequence[int] | None]) -> dict[int, Items | Packed]:
    """
    The shares of a table by their numbers, packed where that can be.
    """
    table = as_dict(_unpacked(table))
    assert isinstance(table, dict)
    pack = Packed.of if is_packable(table) else Items
    numbers = numbered(list(table))
    assert numbers is not None
    shares: list[tuple[list[Any], list[Any]]] = [([], []) for _ in range(max(numbers, default=-1) + 1)]
    add_key = [keys.append for keys, _ in shares]
    add_value = [values.append for _, values in shares]
    for number, key, value in zip(numbers, table, table.values(), strict=True):
        add_key[number](key)
        add_value[number](value)
    return {number: pack(type(table), *share) for number, share in enumerate(shares) if share[0]}


def _packed(table: dict[Any, Any]) -> Items | Packed:
    pack = Packed.of if is_packable(table) else Items
    return pack(type(table), list(table), list(table.values()))


def pieces(value: Any) -> Iterator[Any]:
    """
    A large list, dict or Counter, or a L{Stream}, in pieces that are quick to decode; anything else whole. L{join}
    undoes it.
    """
    if isinstance(value, Stream):
        yield from value
    elif type(value) is list and len(value) > SLICE:
        for start in range(0, len(value), SLICE):
            yield value[start : start + SLICE]
    elif type(value) in (dict, Counter) and len(value) > SLICE:
        keys, values = list(value), list(value.values())
        for start in range(0, len(keys), SLICE):
            yield Items(type(value), keys[start : start + SLICE], values[start : start + SLICE])
    else:
        yield value


def whole(value: Any) -> Any:
    """
    C{value}, or what the pieces of a L{Stream} make together.
    """
    return functools.reduce(join, value, None) if isinstance(value, Stream) else value


def gathered(kind: type[dict[Any, Any]], tables: Iterable[dict[Any, Any]]) -> Iterator[Items]:
    """
    Dicts of class C{kind} that have no key in common, as pieces of about L{SLICE} entries: one at the least.
    """
    keys: list[Any] = []
    values: list[Any] = []
    given = False
    for table in tables:
        keys.extend(table)
        values.extend(table.values())
        if len(keys) >= SLICE // 2:
            yield Items(kind, keys, values)
            keys, values, given = [], [], True
    if keys or not given:
        yield Items(kind, keys, values)


def join(whole: Any, piece: Any) -> Any:
    """
    Put C{piece} behind C{whole}, a list or a dict; the first piece becomes the whole.
    """
    if whole is None:
        return piece.copy() if isinstance(piece, Items) else piece
    if isinstance(whole, list):
        whole.extend(piece)
    else:
        dict.update(whole, dict(piece.items()))  # a dict goes into another faster than pairs do
    return whole
