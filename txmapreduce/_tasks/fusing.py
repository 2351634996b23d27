"""
Two mappers as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

__all__ = ["Fused"]

Mapper = Callable[[Any], Any]


class Fused:
    """
    A mapper that gives what a second one gives for all that a first one gives.

    @ivar single: it takes a record, and gives what the second mapper gives for one.
    @ivar batched: it takes a list of records. Unless it is single, it gives all values, one after the other.
    """

    def __init__(
        self, first: Mapper, first_flat: bool, first_batched: bool, second: Mapper, many: bool, second_batched: bool
    ) -> None:
        """
        @param many: what the second mapper gives for a record is several values, or pairs; for a batch, that each of
            what it gives is.
        """
        self._first = first
        self._first_flat = first_flat
        self._first_batched = first_batched
        self._second = second
        self._many = many
        self._second_batched = second_batched
        self.batched = first_batched or second_batched
        self.single = not (first_flat or self.batched)

    def __call__(self, records: Any) -> Any:
        """
        The values of one record, or of a batch of them.
        """
        return self._second(self._first(records)) if self.single else self._values(self._between(records))

    def _between(self, records: Any) -> Iterator[Any]:
        """
        What the first mapper gives. (Generators, since they make an error of its StopIteration.)
        """
        if self._first_batched:
            values: Iterable[Any] = self._first(records)
        elif self.batched and not isinstance(records, bytes):  # a block is a batch of its own
            values = (self._first(record) for record in records)
        else:
            values = (self._first(record) for record in (records,))
        return chain.from_iterable(values) if self._first_flat else iter(values)

    def _values(self, between: Iterator[Any]) -> Iterator[Any]:
        if not self._second_batched:
            values: Iterable[Any] = (self._second(value) for value in between)
        elif batch := list(between):
            values = self._second(batch)
        else:
            return iter(())
        return chain.from_iterable(values) if self._many else iter(values)
