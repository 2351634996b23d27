"""
pebble.ProcessPool: the pool with a time limit for each task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pebble import ProcessPool
from workloads import Input, count_lines, echo, merge, spin, square, sum_seed, warm

NEEDS = "pebble"


@contextmanager
def _pool(inp: Input) -> Iterator[Any]:
    with ProcessPool(max_workers=inp.workers) as pool:
        list(pool.map(warm, range(2 * inp.workers)).result())
        inp.ready()
        yield pool


def _map(inp: Input, function: Callable[[Any], Any], chunksize: int = 1) -> Any:
    with _pool(inp) as pool:
        return inp.answer(list(pool.map(function, inp.items, chunksize=chunksize).result()))


def wordcount_lines(inp: Input) -> Any:
    counts: Counter[str] = Counter()
    with _pool(inp) as pool:
        for part in pool.map(count_lines, inp.spans()).result():
            counts.update(part)
        return inp.answer(counts)


def tiny_default__chunk1000(inp: Input) -> Any:
    return _map(inp, square, 1000)


def tiny_chunk1(inp: Input) -> Any:
    return _map(inp, square)


def echo_small__chunk1000(inp: Input) -> Any:
    return _map(inp, echo, 1000)


def echo_bytes(inp: Input) -> Any:
    return _map(inp, echo)


def echo_numpy(inp: Input) -> Any:
    return _map(inp, echo)


def cpu(inp: Input) -> Any:
    return _map(inp, spin)


def groupsum(inp: Input) -> Any:
    sums: dict[Any, int] = {}
    with _pool(inp) as pool:
        for part in pool.map(sum_seed, inp.items).result():
            merge(sums, part)
        return inp.answer(sums)


def startup(inp: Input) -> Any:
    with ProcessPool(max_workers=inp.workers) as pool:
        return list(pool.map(square, inp.items).result())
