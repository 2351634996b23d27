"""
loky's reusable executor: fresh interpreters as workers, functions sent with cloudpickle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from typing import Any

from loky import get_reusable_executor
from workloads import Input, count_lines, echo, merge, spin, square, sum_seed, warm

NEEDS = "loky"


@contextmanager
def _executor(inp: Input) -> Iterator[Any]:
    executor = get_reusable_executor(max_workers=inp.workers)
    list(executor.map(warm, range(2 * inp.workers)))
    inp.ready()
    yield executor
    executor.shutdown(wait=True)


def _map(inp: Input, function: Callable[[Any], Any], chunksize: int = 1) -> Any:
    with _executor(inp) as executor:
        return inp.answer(list(executor.map(function, inp.items, chunksize=chunksize)))


def wordcount_lines(inp: Input) -> Any:
    counts: Counter[str] = Counter()
    with _executor(inp) as executor:
        for part in as_completed([executor.submit(count_lines, span) for span in inp.spans()]):
            counts.update(part.result())
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
    with _executor(inp) as executor:
        for part in executor.map(sum_seed, inp.items):
            merge(sums, part)
        return inp.answer(sums)


def startup(inp: Input) -> Any:
    return list(get_reusable_executor(max_workers=inp.workers).map(square, inp.items))
