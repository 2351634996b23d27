"""
Records that tasks write.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

__all__ = ["Watched"]

_first = itemgetter(0)


class Watched:
    """
    Records on their way to the output.

    @ivar error: what was raised when they were made. C{count}: how many there were.
    """

    def __init__(self, records: Iterable[Iterable[Any]]) -> None:
        self._records = records
        self.error: BaseException | None = None
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        counter = itertools.count()
        try:
            for some in self._records:
                yield from map(_first, zip(some, counter, strict=False))
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.count = next(counter)
