"""
The workers' part of joins: records of several inputs, what they are keyed by, and what is made of the values of a key.

A record of a run over several L{Sides} is C{(side, small, record)}: the number of the input, and the handle of a small
other side, where that does not go through the shuffle but is broadcast. The mapper, L{Keyed}, makes a pair of it, whose
value is C{(side, value, partners)}; C{partners} are the values of the small side with the same key, C{None} where there
is no small side. The reducers, L{Rows} and L{Groups}, rely on the values of a key coming in input order: one side after
the other.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from .._values.broadcast import Broadcast
from ..inputs import Split

__all__ = ["LEFT", "RIGHT", "Groups", "Keyed", "RecordsSplit", "Rows", "SideSplit", "Sides", "Small"]

LEFT, RIGHT = 0, 1

Key = Callable[[Any], Any]
Value = tuple[int, Any, "Sequence[Any] | None"]


@dataclass(frozen=True)
class Sides:
    """
    Several inputs of one run.

    @ivar inputs: whatever a run takes as data, each.
    @ivar order: the numbers of the inputs, as they are read.
    @ivar small: which of them may be broadcast instead, the first that is small enough.
    """

    inputs: tuple[Any, ...]
    order: tuple[int, ...]
    small: tuple[int, ...] = ()


@dataclass(frozen=True)
class SideSplit:
    """
    A split of one side.
    """

    side: int
    small: Broadcast[Small] | None
    split: Split
    blocks = False

    @property
    def nbytes(self) -> int:
        return self.split.nbytes

    @property
    def pieces(self) -> Any:
        """
        The pieces of files that a checkpoint looks at.
        """
        return getattr(self.split, "pieces", ())

    def read(self) -> Iterator[Any]:
        """
        The records, one by one.
        """
        return chain.from_iterable(self.batches())

    def batches(self) -> Iterator[list[Any]]:
        """
        The records in lists.
        """
        side, small = self.side, self.small
        return ([(side, small, record) for record in batch] for batch in self.split.batches())

    def __str__(self) -> str:
        return str(self.split)


@dataclass(frozen=True)
class RecordsSplit:
    """
    Some records as a split, for a side that workers can't read.
    """

    records: Sequence[Any]
    nbytes = 0
    blocks = False

    def read(self) -> Iterator[Any]:
        """
        The records, one by one.
        """
        return iter(self.records)

    def batches(self) -> Iterator[list[Any]]:
        """
        The records in a list.
        """
        if self.records:
            yield list(self.records)

    def __str__(self) -> str:
        return f"{len(self.records)} records"


class Small:
    """
    A side that each worker has as a whole, as a table that is made at first need.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = splits
        self._table: dict[Any, list[Any]] | None = None

    def __reduce__(self) -> Any:
        return Small, (self._splits,)

    def table(self, key: Key | None) -> dict[Any, list[Any]]:
        """
        The values of each key.
        """
        if self._table is None:
            table: dict[Any, list[Any]] = {}
            for record in chain.from_iterable(split.read() for split in self._splits):
                found, value = pair_of(key, record)
                table.setdefault(found, []).append(value)
            self._table = table
        return self._table


def pair_of(key: Key | None, record: Any) -> Sequence[Any]:
    """
    The key and the value of a record: the record itself where it is a pair.
    """
    if key is not None:
        return key(record), record
    if isinstance(record, (tuple, list)) and len(record) == 2:
        return record
    raise TypeError(
        f"a record has to be a (key, value) pair, not {reprlib.repr(record)}: give a function that makes its key, key="
    )


class Keyed:
    """
    The mapper.
    """

    def __init__(self, keys: tuple[Key | None, ...], alone: tuple[bool, ...]) -> None:
        """
        @param keys: what gives the key of each side's records.
        @param alone: whether a record of each side counts also where the small side has nothing for its key.
        """
        self.keys = keys
        self.alone = alone

    def __call__(self, tagged: tuple[int, Broadcast[Small] | None, Any]) -> Iterable[tuple[Any, Value]]:
        """
        The pairs of a record: one, or none.
        """
        side, small, record = tagged
        key, value = pair_of(self.keys[side], record)
        if small is None:
            return ((key, (side, value, None)),)
        partners = small.value.table(self.keys[1 - side]).get(key)
        if partners is None and not self.alone[side]:
            return ()
        return ((key, (side, value, partners or ())),)


class Rows:
    """
    The reducer of a join. The values of the right side come first and are kept, those of the left side are not.
    """

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, key: Any, values: Iterator[Value]) -> Iterator[tuple[Any, tuple[Any, Any]]]:
        """
        The rows of one key: for each value of the left side those with each of the right.
        """
        rights: list[Any] = []
        lefts: Sequence[Any] | None = None
        alone = self.how in ("right", "outer")
        for side, value, partners in values:
            if side == RIGHT:
                rights.append(value)
                lefts = partners
                continue
            alone = False
            found = rights if partners is None else partners
            if found:
                for right in found:
                    yield key, (value, right)
            elif self.how in ("left", "outer"):
                yield key, (value, None)
        if lefts:
            for left in lefts:
                for right in rights:
                    yield key, (left, right)
        elif alone:
            for right in rights:
                yield key, (None, right)


class Groups:
    """
    The reducer of a cogroup.
    """

    def __init__(self, sides: int) -> None:
        self.sides = sides

    def __call__(self, key: Any, values: Iterator[Value]) -> Iterator[tuple[Any, tuple[list[Any], ...]]]:
        """
        The key, and its values on each side.
        """
        groups: tuple[list[Any], ...] = tuple([] for _ in range(self.sides))
        for side, value, _ in values:
            groups[side].append(value)
        yield key, groups
