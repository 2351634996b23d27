"""
By-key folds whose values have an order: L{InOrder}, and the classic form, L{Group}.

Workers map chunks in any order and keep what comes of them together. So that the values of a key can be put in input
order at the end, those of each task stand behind a L{Tag}, the number of its first chunk. An entry of a table is one
flat list C{[tag, value, ..., tag, value, ...]}, since many small lists would keep the garbage collector busy. Merging
entries is adding such lists. The order is restored once, by L{InOrder.finish}, or as runs are merged, by
L{InOrder.parts_of_key}. So the result depends on the chunks alone.
"""

from __future__ import annotations

import functools
import heapq
import operator
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import Any

from .._aggregate import Aggregate
from .keys import ByKey, ByKeyAggregate
from .ordering import VALUES, KeyOrder, Order, compared
from .tables import Table

__all__ = ["Group", "InOrder", "Part", "Tag", "in_order", "packed"]


class Tag(int):
    """
    Stands for a task: more for a later chunk, or a later piece of one. It is unlike any value of the user's.
    """

    __slots__ = ()


Part = tuple[int, list[Any]]
"""A tag and the values behind it."""

Reducer = Callable[[Any, Iterator[Any]], Iterable[Any]]
Entry = list[Any]
_BY_KEY = KeyOrder()


class Group:
    """
    The classic form: C{reducer(key, values)} for each key in the order of keys, with the values in input order, or
    sorted by C{sort_values}. A C{combiner(key, values)} yields what stands in for some values of a key, on the map
    side; that has the place of the first of them.
    """

    def __init__(
        self,
        reducer: Reducer,
        combiner: Reducer | None = None,
        sort_values: Callable[[Any], Any] | None = None,
        order: Order = _BY_KEY,
    ) -> None:
        self.reducer = reducer
        self.combiner = combiner
        self.sort_values = sort_values
        self.order = order

    def zero(self) -> dict[Any, list[Any]]:
        """
        The table of no pairs.
        """
        return {}

    def add_many(self, acc: dict[Any, list[Any]], values: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
        """
        Add pairs to a table of lists.
        """
        for key, value in values:
            if key in acc:
                acc[key].append(value)
            else:
                acc[key] = [value]
        return acc

    def entries(self, table: dict[Any, list[Any]], tag: Tag) -> dict[Any, Entry]:
        """
        Such a table under its tag.
        """
        if self.combiner is not None:
            return {key: [tag, *self.combined(key, values)] for key, values in table.items()}
        for values in table.values():
            values.insert(0, tag)
        return table

    def combined(self, key: Any, values: Iterable[Any]) -> list[Any]:
        """
        What stands in for some values of a key.
        """
        assert self.combiner is not None
        return list(self.combiner(key, iter(values)))

    def outputs(self, key: Any, values: Iterator[Any]) -> Iterable[Any]:
        """
        What comes of one key.
        """
        return self.reducer(key, values)

    def gathered(self, outputs: Iterable[Any]) -> list[Any]:
        """
        What comes of several keys.
        """
        return list(outputs)


class _OneEach:
    """
    One value per key.
    """

    sort_values = None
    combiner = None

    def gathered(self, outputs: Iterable[Any]) -> dict[Any, Any]:
        """
        What comes of several keys.
        """
        return dict(outputs)


class _Reduced(_OneEach):
    """
    L{ByKey}, whose values are reduced for each task, and what comes of that in input order.
    """

    def __init__(self, aggregate: ByKey | ByKeyAggregate) -> None:
        self.aggregate: Any = aggregate
        self.order = aggregate.order
        self.zero, self.add_many = aggregate.zero, aggregate.add_many

    def __reduce__(self) -> Any:
        return type(self), (self.aggregate,)

    def entries(self, table: dict[Any, Any], tag: Tag) -> dict[Any, Entry]:
        """
        A table of one value for each key, under its tag.
        """
        return {key: [tag, value] for key, value in table.items()}

    def outputs(self, key: Any, values: Iterator[Any]) -> Iterable[Any]:
        """
        The key and its value.
        """
        return [(key, functools.reduce(self.aggregate.op, values))]


class _Aggregated(_Reduced):
    """
    The same of L{ByKeyAggregate}: what comes of a task is an accumulator.
    """

    def outputs(self, key: Any, values: Iterator[Any]) -> Iterable[Any]:
        """
        The key and its value.
        """
        aggregate = self.aggregate.aggregate
        return [(key, aggregate.finish(functools.reduce(aggregate.merge, values, aggregate.zero())))]


def tagged(entry: Entry) -> list[Part]:
    """
    The parts of an entry.
    """
    kinds = list(map(type, entry))  # with index, at C speed
    parts, start = [], 0
    for _ in range(kinds.count(Tag)):
        try:
            end = kinds.index(Tag, start + 1)
        except ValueError:
            end = len(entry)
        parts.append((entry[start], entry[start + 1 : end]))
        start = end
    return parts


_tag_of: Callable[[Part], int] = operator.itemgetter(0)


def _alone(value: Any) -> list[Any]:
    return [value]


def packed(parts: Iterable[Part], most: int) -> Iterator[Entry]:
    """
    The entries that have these parts, with C{most} values each, or some more.
    """
    entry, last, count = list[Any](), -1, 0
    for tag, values in parts:
        entry += values if entry and tag == last else (tag, *values)
        last, count = tag, count + len(values)
        if count >= most:
            yield entry
            entry, count = [], 0
    if entry:
        yield entry


def in_order(aggregate: ByKey | ByKeyAggregate | Group, reproducible: bool = False) -> InOrder:
    """
    The same fold with its values in input order.

    @param reproducible: only the values of one task are ever combined.
    """
    if isinstance(aggregate, Group):
        return InOrder(aggregate, aggregate.combiner is not None and not reproducible)
    return InOrder(_Aggregated(aggregate) if isinstance(aggregate, ByKeyAggregate) else _Reduced(aggregate), False)


class InOrder(Aggregate):
    """
    Tables of tagged values. L{file} is how they are made; C{add} is not, since it would not know the tag.
    """

    ordered = False
    _by_key = True

    def __init__(self, inner: Group | _Reduced, combines: bool) -> None:
        """
        @param combines: values of several tasks may be combined.
        """
        self.inner = inner
        self._combines = combines
        self.order = inner.order

    def zero(self) -> dict[Any, Entry]:
        return {}

    def add(self, acc: dict[Any, Entry], value: tuple[Any, Any]) -> dict[Any, Entry]:
        raise NotImplementedError("values are added to a table of the task, which is filed under its tag")

    def fresh(self) -> dict[Any, Any]:
        """
        The table of a task that has just begun.
        """
        return self.inner.zero()

    def gather(self, fresh: dict[Any, Any], values: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
        """
        Add pairs to the table of the task.
        """
        return self.inner.add_many(fresh, values)

    def file(self, acc: dict[Any, Entry], fresh: dict[Any, Any], tag: Tag) -> dict[Any, Entry]:
        """
        Add a table that L{inner} has made of a task.
        """
        entries = self.inner.entries(fresh, tag)
        return self._merged(acc, entries) if acc else entries

    def merge(self, a: dict[Any, Entry], b: Table) -> dict[Any, Entry]:
        return self._merged(a, {key: list(entry) for key, entry in b.items()})

    def _merged(self, a: dict[Any, Entry], b: dict[Any, Entry]) -> dict[Any, Entry]:
        for key, entry in b.items():
            if key in a:
                a[key] += entry
            else:
                a[key] = entry
        return a

    def combined(self, table: dict[Any, Entry]) -> dict[Any, Entry]:
        """
        A table with the values of each key combined, where that may be: what comes of them takes the first one's place.
        """
        if self._combines and isinstance(self.inner, Group):
            for key, entry in table.items():
                first, *more = tagged(entry)
                if more:
                    table[key] = [min(tag for tag, _ in (first, *more)), *self.inner.combined(key, self._values(entry))]
        return table

    def finish(self, acc: dict[Any, Entry]) -> Any:
        outputs, values = self.inner.outputs, self._values
        return self.inner.gathered(
            chain.from_iterable(outputs(key, iter(values(acc[key]))) for key in self.order.keys(acc))
        )

    def _values(self, entry: Entry) -> list[Any]:
        """
        The values of an entry in their order.
        """
        parts = tagged(entry) if len(entry) > 2 else [(entry[0], entry[1:])]
        if len(parts) > 1:
            parts.sort(key=_tag_of)
        values = list(chain.from_iterable(values for _, values in parts))
        if self.inner.sort_values is None:
            return values
        with compared(*VALUES):
            return sorted(values, key=self.inner.sort_values)

    # One key that is larger than a block

    def slices(self, entry: Entry, count: int) -> Iterator[Entry]:
        """
        An entry in about C{count} smaller ones, which are in order. What has one value only can't be cut.
        """
        each = max(1, -(-len(entry) // count))
        return packed(
            ((tag, values[at : at + each]) for tag, values in self._parts(entry) for at in range(0, len(values), each)),
            each,
        )

    def _parts(self, entry: Entry) -> Iterable[Part]:
        """
        The parts of an entry, sorted as L{_rank} says. Where values are sorted each is a part of its own, which is made
        when it is asked for: all of them at once would take several times the memory that the entry does.
        """
        if self.inner.sort_values is None:
            return sorted(tagged(entry), key=_tag_of)
        by_tag: dict[int, list[Any]] = {}
        for tag, values in tagged(entry):
            by_tag.setdefault(tag, []).extend(values)
        with compared(*VALUES):
            for values in by_tag.values():
                values.sort(key=self.inner.sort_values)
        return heapq.merge(*(zip(repeat(tag), map(_alone, values)) for tag, values in by_tag.items()), key=self._rank)

    def _rank(self, part: Part) -> Any:
        tag, values = part
        return tag if self.inner.sort_values is None else (self.inner.sort_values(values[0]), tag)

    def parts_of_key(self, key: Any, streams: Iterable[Iterator[Table]], others: dict[Any, Entry]) -> Iterator[Part]:
        """
        The parts of one key in their order, as they are read.

        @param streams: of each run, the entries of all keys that have the same rank.
        @param others: gets those of other keys.
        """

        def parts_of(stream: Iterator[Table]) -> Iterator[Part]:
            for table in stream:
                for other, entry in table.items():
                    if other == key:
                        yield from self._parts(entry)
                    else:
                        self.merge(others, {other: entry})

        with compared(*VALUES):
            yield from heapq.merge(*map(parts_of, streams), key=self._rank)
