"""
How cost grows: the same jobs of ours, along one axis at a time.

C{Input.size} is the place on the axis: so many items, bytes of an item, keys, workers or chunks.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from workloads import Input, Workload, WrongAnswer, square, warm

__all__ = ["GROWTH", "Axis"]

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Axis:
    """
    One axis.

    @ivar about: what grows, and what is done.
    @ivar unit: what time and memory are divided by, in the singular.
    @ivar points: places on the axis, in the order of their size.
    @ivar beyond: more places, for C{--full}.
    @ivar workers: how many workers a place on the axis has; C{None}: what was asked for.
    @ivar share: whether memory is divided by units, too: where a result grows with them.
    """

    about: str
    unit: str
    workload: Workload
    points: tuple[int, ...]
    beyond: tuple[int, ...]
    workers: Callable[[int], int] | None = None
    share: bool = False


@contextmanager
def _pool(inp: Input) -> Iterator[Any]:
    from twisted.internet.threads import blockingCallFromThread

    from txmapreduce import MapReduce, Policy, Processes

    pool: Any = Processes(inp.workers)
    MapReduce(warm, policy=Policy(chunksize=1)).run_sync(range(2 * inp.workers), backend=pool)
    inp.ready()
    yield pool
    from twisted.internet import reactor

    blockingCallFromThread(reactor, pool.close)


def _run(inp: Input, mapper: Callable[[Any], Any], data: Any, chunksize: int | None = None, **reduce: Any) -> Any:
    from txmapreduce import MapReduce, Policy

    with _pool(inp) as pool:
        job = MapReduce(mapper, policy=Policy(chunksize=chunksize), **reduce)
        return inp.answer(job.run_sync(data, backend=pool))


def _axis_sizes(units: Callable[[int], int]) -> Callable[[Input], None]:
    def prepare(inp: Input) -> None:
        inp.units = units(inp.size)

    return prepare


def _expect(got: Any, wanted: Any) -> None:
    if got != wanted:
        raise WrongAnswer(f"{str(got)[:100]} instead of {str(wanted)[:100]}")


# Items, and chunks: the sum of squares, of so many items in chunks as they come, or of one item each.


def items(inp: Input) -> Any:
    return _run(inp, square, range(inp.units), reduce=operator.add)


def chunks(inp: Input) -> Any:
    return _run(inp, square, range(inp.units), chunksize=1, reduce=operator.add)


def listed(inp: Input) -> Any:
    return sum(_run(inp, square, range(inp.units)))


def _check_squares(inp: Input, got: Any) -> None:
    n = inp.units
    _expect(got, (n - 1) * n * (2 * n - 1) // 6)


# The size of an item: some are made one by one, sent, sent back and dropped.

TRAFFIC = 64 * MEBIBYTE
MOST_ITEMS = 100_000


def _count(size: int) -> int:
    return min(MOST_ITEMS, max(4, TRAFFIC // size))


def item_size(inp: Input) -> Any:
    from txmapreduce import MapReduce

    made = (bytes(inp.size) for _ in range(_count(inp.size)))
    with _pool(inp) as pool:
        return inp.answer(sum(map(len, MapReduce(bytes).stream(made, backend=pool))))


def _check_size(inp: Input, got: Any) -> None:
    _expect(got, inp.units)


# Keys: pairs of a number as key and 1, in records of a thousand.

PAIRS_PER_RECORD = 1000
LEAST_PAIRS = 1_000_000


def _pairs(keys: int) -> int:
    return max(LEAST_PAIRS, keys)


def spread(record: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """
    A thousand pairs, with keys from everywhere.
    """
    first, keys = record
    for number in range(first, first + PAIRS_PER_RECORD):
        yield number * 7919 % keys, 1


def keys(inp: Input) -> Any:
    records = [(first, inp.size) for first in range(0, inp.units, PAIRS_PER_RECORD)]
    return _run(inp, spread, records, reduce_by_key=operator.add)


def _check_keys(inp: Input, got: Any) -> None:
    _expect((len(got), set(got.values())), (inp.size, {inp.units // inp.size}))


# Workers: tasks of one item each.

TASKS = 20_000


def workers(inp: Input) -> Any:
    return _run(inp, square, range(inp.units), chunksize=1)


def _check_list(inp: Input, got: Any) -> None:
    _expect(got, [x * x for x in range(inp.units)])


def _workload(units: Callable[[int], int], check: Callable[[Input, Any], None]) -> Workload:
    return Workload(unit="units", sizes={}, prepare=_axis_sizes(units), check=check)


def _same(size: int) -> int:
    return size


GROWTH = {
    "items": Axis(
        "a sum over so many items",
        "item",
        _workload(_same, _check_squares),
        points=(1000, 10_000, 100_000, 1_000_000),
        beyond=(10_000_000, 100_000_000),
    ),
    "listed": Axis(
        "a list of so many results",
        "item",
        _workload(_same, _check_squares),
        points=(1000, 10_000, 100_000),
        beyond=(1_000_000, 10_000_000),
        share=True,
    ),
    "item_size": Axis(
        "items of so many bytes, sent and sent back, streamed",
        "byte",
        _workload(lambda size: _count(size) * size, _check_size),
        points=(10, 1000, 100_000, 10_000_000),
        beyond=(MEBIBYTE, 16 * MEBIBYTE, 64 * MEBIBYTE, 256 * MEBIBYTE),
    ),
    "keys": Axis(
        "sums by so many keys",
        "pair",
        _workload(_pairs, _check_keys),
        points=(10, 1000, 100_000),
        beyond=(1_000_000, 10_000_000),
        share=True,
    ),
    "workers": Axis(
        "tasks of one item each, for so many workers",
        "task",
        _workload(lambda size: TASKS, _check_list),
        points=(1, 2, 4, 8),
        beyond=(16, 32, 64),
        workers=_same,
    ),
    "chunks": Axis(
        "a sum over so many chunks of one item each",
        "chunk",
        _workload(_same, _check_squares),
        points=(100, 1000, 10_000),
        beyond=(100_000, 1_000_000),
    ),
}
