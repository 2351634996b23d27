"""
Ranges of ranks that partitions own, where each partial is cut while nobody has seen all of them: a L{sample} of each
says where.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

from .merge import Keyed
from .ordering import END, compared
from .rows import Rows, Sorted
from .tables import Items, as_dict

__all__ = ["ranges", "sample"]


def sample(partial: Any, aggregate: Keyed, count: int) -> list[Any]:
    """
    C{count} ranks of a partial in memory at the most: sorted, and at equal distances.

    @raise TypeError: they can't be compared.
    """
    ranks = aggregate.order.arranged(as_dict(partial))[0]
    step = max(1, -(-len(ranks) // count))
    return list(ranks[step // 2 :: step])


def ranges(partial: Any, aggregate: Keyed, samples: Iterable[Any], npartitions: int) -> list[Any]:
    """
    A partial in C{npartitions} parts, each with the ranks that the partition owns.

    @param samples: of all partials.
    @raise TypeError: ranks can't be compared.
    """
    order = aggregate.order
    with compared(*order.names):
        in_order = sorted(samples if order.rank is None else map(order.rank, samples))
        if not isinstance(aggregate, Sorted):  # a key that several partials have counts once, as it does in their fold
            in_order = [rank for rank, _ in groupby(in_order)]
        bounds = [order.range(n, npartitions, in_order)[1] for n in range(npartitions)]
        if isinstance(aggregate, Sorted):
            return list(_cut_rows(partial, aggregate, bounds))
        ranks, keys, entries = order.arranged(as_dict(partial))
        return [Items(dict, list(keys[a:b]), list(entries[a:b])) for a, b in _places(ranks, order.rank, bounds)]


def _cut_rows(partial: Rows, aggregate: Sorted, bounds: Sequence[Any]) -> Iterator[Rows]:
    """
    The rows of each task are sorted by themselves, so that those of equal rank keep their order.
    """
    parts: list[list[Any]] = [[] for _ in bounds]
    for tag, compares, values in partial.parts:
        ranks, records, _ = aggregate.order.arranged(Rows([(tag, compares, values)]))
        for part, (a, b) in zip(parts, _places(ranks, aggregate.order.rank, bounds), strict=True):
            if a < b:
                some = ranks[a:b]
                part.append((tag, some, some if ranks is records else records[a:b]))
    return map(Rows, parts)


def _places(ranks: Sequence[Any], rank: Any, bounds: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """
    Where each range begins and ends in sorted ranks.
    """
    ends = (len(ranks) if bound is END else bisect_left(ranks, bound, key=rank) for bound in bounds)
    return pairwise([0, *ends])
