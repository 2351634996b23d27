"""
mpire.WorkerPool: forked workers; C{use_dill} sends functions of any kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mpire import WorkerPool
from workloads import Input, count_block, count_lines, decoded, echo, merge, spin, square, sum_seed, triple, warm

NEEDS = "mpire"


@contextmanager
def _pool(inp: Input, use_dill: bool = False) -> Iterator[Any]:
    with WorkerPool(n_jobs=inp.workers, keep_alive=True, use_dill=use_dill) as pool:
        pool.map(warm, range(2 * inp.workers), chunk_size=1)
        inp.ready()
        yield pool


def _map(inp: Input, function: Callable[[Any], Any], use_dill: bool = False, chunk_size: int | None = None) -> Any:
    with _pool(inp, use_dill) as pool:
        # Results that are arrays would be joined to one otherwise.
        return inp.answer(pool.map(function, inp.items, chunk_size=chunk_size, concatenate_numpy_output=False))


def _count(inp: Input, function: Callable[[Any], Any]) -> Any:
    counts: Counter[Any] = Counter()
    with _pool(inp) as pool:
        for part in pool.imap_unordered(function, [(span,) for span in inp.spans()], chunk_size=1):
            counts.update(part)
        return inp.answer(counts)


def wordcount_lines(inp: Input) -> Any:
    return _count(inp, count_lines)


def wordcount_lines__block(inp: Input) -> Any:
    return decoded(_count(inp, count_block))


def tiny_default(inp: Input) -> Any:
    return _map(inp, square)


def tiny_default__dill(inp: Input) -> Any:
    return _map(inp, square, use_dill=True)


def tiny_chunk1(inp: Input) -> Any:
    return _map(inp, square, chunk_size=1)


def echo_small(inp: Input) -> Any:
    return _map(inp, echo)


def echo_bytes(inp: Input) -> Any:
    return _map(inp, echo)


def echo_numpy(inp: Input) -> Any:
    return _map(inp, echo)


def cpu(inp: Input) -> Any:
    return _map(inp, spin)


def groupsum(inp: Input) -> Any:
    sums: dict[Any, int] = {}
    with _pool(inp) as pool:
        for part in pool.imap_unordered(sum_seed, inp.items, chunk_size=1):
            merge(sums, part)
        return inp.answer(sums)


def stream(inp: Input) -> Any:
    with _pool(inp) as pool:
        return inp.answer(sum(pool.imap(triple, inp.generate(), iterable_len=inp.size, chunk_size=1000)))


def startup(inp: Input) -> Any:
    with WorkerPool(n_jobs=inp.workers) as pool:
        return pool.map(square, inp.items, chunk_size=1)
