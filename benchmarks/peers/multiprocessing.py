"""
multiprocessing.Pool of the standard library, each workload written by hand for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pool
from typing import Any

from workloads import (
    Input,
    count_block,
    count_lines,
    count_pairs,
    decoded,
    echo,
    merge,
    spin,
    square,
    sum_seed,
    sum_seeds,
    triple,
    warm,
)


@contextmanager
def _pool(inp: Input) -> Iterator[Any]:
    with Pool(inp.workers) as pool:
        pool.map(warm, range(2 * inp.workers), chunksize=1)
        inp.ready()
        yield pool


def _map(inp: Input, function: Callable[[Any], Any], chunksize: int | None = None) -> Any:
    with _pool(inp) as pool:
        return inp.answer(pool.map(function, inp.items, chunksize=chunksize))


def _count(inp: Input, function: Callable[[Any], Any]) -> Any:
    counts: Counter[Any] = Counter()
    with _pool(inp) as pool:
        for part in pool.imap_unordered(function, inp.spans()):
            counts.update(part)
        return inp.answer(counts)


def wordcount_lines(inp: Input) -> Any:
    return _count(inp, count_lines)


def wordcount_lines__pairs(inp: Input) -> Any:
    return _count(inp, count_pairs)


def wordcount_lines__block(inp: Input) -> Any:
    return decoded(_count(inp, count_block))


def tiny_default(inp: Input) -> Any:
    return _map(inp, square)


def tiny_chunk1(inp: Input) -> Any:
    return _map(inp, square, 1)


def echo_small(inp: Input) -> Any:
    return _map(inp, echo)


def echo_bytes(inp: Input) -> Any:
    return _map(inp, echo)


def echo_bytes__chunk1(inp: Input) -> Any:
    return _map(inp, echo, 1)


def echo_numpy(inp: Input) -> Any:
    return _map(inp, echo)


def echo_numpy__chunk1(inp: Input) -> Any:
    return _map(inp, echo, 1)


def cpu(inp: Input) -> Any:
    return _map(inp, spin)


def cpu__chunk1(inp: Input) -> Any:
    return _map(inp, spin, 1)


def _sum(inp: Input, function: Callable[[Any], Any], shares: list[Any]) -> Any:
    sums: dict[Any, int] = {}
    with _pool(inp) as pool:
        for part in pool.imap_unordered(function, shares):
            merge(sums, part)
        return inp.answer(sums)


def groupsum(inp: Input) -> Any:
    return _sum(inp, sum_seed, inp.items)


def groupsum__combined(inp: Input) -> Any:
    return _sum(inp, sum_seeds, [inp.items[first :: inp.workers] for first in range(inp.workers)])


def stream(inp: Input) -> Any:
    with _pool(inp) as pool:
        return inp.answer(sum(pool.imap(triple, inp.generate(), chunksize=1000)))


def startup(inp: Input) -> Any:
    with Pool(inp.workers) as pool:
        return pool.map(square, inp.items, chunksize=1)


def warm_run(inp: Input) -> Any:
    with _pool(inp) as pool:
        return inp.answer([pool.map(square, inp.items, chunksize=1) for _ in range(inp.size)])
