"""
concurrent.futures.ProcessPoolExecutor of the standard library.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from workloads import Input, count_block, count_lines, decoded, echo, merge, spin, square, sum_seed, triple, warm

LIMITS = {"tiny_default": 10_000}


@contextmanager
def _executor(inp: Input) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(inp.workers) as executor:
        list(executor.map(warm, range(2 * inp.workers)))
        inp.ready()
        yield executor


def _map(inp: Input, function: Callable[[Any], Any], chunksize: int = 1) -> Any:
    with _executor(inp) as executor:
        return inp.answer(list(executor.map(function, inp.items, chunksize=chunksize)))


def _count(inp: Input, function: Callable[[Any], Any]) -> Any:
    counts: Counter[Any] = Counter()
    with _executor(inp) as executor:
        for part in as_completed([executor.submit(function, span) for span in inp.spans()]):
            counts.update(part.result())
        return inp.answer(counts)


def wordcount_lines(inp: Input) -> Any:
    return _count(inp, count_lines)


def wordcount_lines__block(inp: Input) -> Any:
    return decoded(_count(inp, count_block))


def tiny_default(inp: Input) -> Any:
    return _map(inp, square)


def tiny_default__chunk1000(inp: Input) -> Any:
    return _map(inp, square, 1000)


def tiny_chunk1(inp: Input) -> Any:
    return _map(inp, square)


def echo_small(inp: Input) -> Any:
    return _map(inp, echo, 1000)


def echo_bytes(inp: Input) -> Any:
    return _map(inp, echo)


def echo_numpy(inp: Input) -> Any:
    return _map(inp, echo)


def cpu(inp: Input) -> Any:
    return _map(inp, spin)


def groupsum(inp: Input) -> Any:
    sums: dict[Any, int] = {}
    with _executor(inp) as executor:
        for part in executor.map(sum_seed, inp.items):
            merge(sums, part)
        return inp.answer(sums)


def stream(inp: Input) -> Any:
    with _executor(inp) as executor:
        return inp.answer(sum(executor.map(triple, inp.generate(), chunksize=1000)))


def startup(inp: Input) -> Any:
    with ProcessPoolExecutor(inp.workers) as executor:
        return list(executor.map(square, inp.items))
