"""
From records to mapped values, at C speed around the user's function; and which record it was, when that raises.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from .._wire.messages import NO_CHUNK

__all__ = ["Progress", "all_values", "check_pairs", "good_values"]

_TEXT_LIMIT = 500
"""Characters of a bad record that are kept for the report."""


class Progress:
    """
    Where in its task a runner is, for error messages.

    @ivar careful: each record is noted down before it is taken up.
    """

    def __init__(self, start: int = 0, mark: Callable[[int, object], None] | None = None) -> None:
        """
        @param start: the number of the first record. C{mark}: called with the number of each record and the record.
        """
        self._start = self._done = start
        self._mark = mark
        self.careful = mark is not None
        self._batch = 0
        self._records: Iterator[Any] = iter(())
        self._through = True

    def begin(self, records: Sequence[Any]) -> Iterator[Any]:
        """
        An iterator over the next C{records}.
        """
        self._done += self._batch
        self._batch = len(records)
        self._records = iter(records)
        self._taken = self._records if self._mark is None else self._marked(self._mark)
        self._through = False
        return self._taken

    def _marked(self, mark: Callable[[int, object], None]) -> Iterator[Any]:
        for record in self._records:
            mark(self.position, record)
            yield record
        mark(NO_CHUNK, None)

    def map(self, mapper: Callable[[Any], Any]) -> Iterator[Any]:
        """
        The built-in C{map} over the records, but a StopIteration of the mapper's is an error and not their end.
        """
        return chain(map(mapper, chain(self._taken, self._reached_end())), self._checked_end())

    def _reached_end(self) -> Iterator[Any]:
        self._through = True
        yield from ()

    def _checked_end(self) -> Iterator[Any]:
        if not self._through:
            raise RuntimeError("the mapper raised StopIteration")
        yield from ()

    @property
    def position(self) -> int:
        """
        The number of the record that was taken last: the iterators of lists and ranges tell for free what is left.
        """
        return self._done + self._batch - operator.length_hint(self._records) - 1

    @property
    def total(self) -> int:
        """
        How many records there have been.
        """
        return self._done + self._batch - self._start


def all_values(
    mapper: Callable[[Any], Any],
    batched: bool,
    flatten: int,
    records: Iterator[Any],
    progress: Progress,
    skipped: list[tuple[int, str]],
) -> Iterable[Any]:
    """
    The values of all C{records}, at C speed around the user's function.
    """
    values: Iterable[Any] = mapper(list(records)) if batched else progress.map(mapper)
    for _ in range(flatten):
        values = chain.from_iterable(values)
    return values


def good_values(
    mapper: Callable[[Any], Any],
    batched: bool,
    flatten: int,
    check: Callable[[list[Any]], None] | None,
    records: Iterator[Any],
    progress: Progress,
    skipped: list[tuple[int, str]],
) -> Iterator[Any]:
    """
    The values of those C{records} whose mapping raises nothing; the others are noted in C{skipped}. A record counts
    whole or not at all, so its values are made before the first is passed on. A batch that raises is tried again
    record by record.

    @param check: raises when the values can't be used.
    """

    def made(argument: Any, depth: int) -> list[Any]:
        values = _listed(mapper(argument), depth)
        if check is not None:
            check(values)
        return values

    steps: Iterable[tuple[int, Any, Any]]
    if batched and progress.careful:
        steps = ((progress.position, record, [record]) for record in records)
        flatten += 1
    elif batched:
        batch = list(records)
        try:
            yield from made(batch, flatten + 1)
            return
        except BaseException:
            start = progress.position - len(batch) + 1
            steps = ((start + n, record, [record]) for n, record in enumerate(batch))
            flatten += 1
    else:
        steps = ((progress.position, record, record) for record in records)
    for position, record, argument in steps:
        try:
            values = made(argument, flatten)
        except BaseException as error:  # what ends a program elsewhere is an error of the user's function here
            skipped.append((position, _describe(record, error)))
        else:
            yield from values


def check_pairs(values: list[Any]) -> None:
    """
    Raise what folding the values by key would raise where they are no pairs, or their keys have no hash.
    """
    for key, _ in values:
        hash(key)


def _listed(value: Any, flatten: int) -> list[Any]:
    """
    All the values of C{value}, which is nested C{flatten} deep.
    """
    values = [value]
    for _ in range(flatten):
        values = list(chain.from_iterable(values))
    return values


def _describe(record: object, error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error} in {record!r}"
    except Exception:
        text = f"{type(error).__name__} in a record that has no text"
    return text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "..."
