"""
joblib.Parallel with its default backend (loky), which batches small tasks by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from workloads import (
    Input,
    batches,
    count_block,
    count_lines,
    decoded,
    echo,
    merge,
    spin,
    square,
    sum_seed,
    sum_triples,
    triple,
    warm,
)

NEEDS = "joblib"
LIMITS = {"stream": 100_000}


def _call(inp: Input, function: Callable[[Any], Any], items: Iterable[Any], **options: Any) -> Any:
    return Parallel(n_jobs=inp.workers, **options)(delayed(function)(item) for item in items)


@contextmanager
def _warm(inp: Input) -> Iterator[None]:
    _call(inp, warm, range(2 * inp.workers))  # the executor is kept, and used again
    inp.ready()
    yield
    get_reusable_executor().shutdown(wait=True)


def _map(inp: Input, function: Callable[[Any], Any], **options: Any) -> Any:
    with _warm(inp):
        return inp.answer(_call(inp, function, inp.items, **options))


def _count(inp: Input, function: Callable[[Any], Any]) -> Any:
    counts: Counter[Any] = Counter()
    with _warm(inp):
        for part in _call(inp, function, inp.spans(), return_as="generator_unordered"):
            counts.update(part)
        return inp.answer(counts)


def wordcount_lines(inp: Input) -> Any:
    return _count(inp, count_lines)


def wordcount_lines__block(inp: Input) -> Any:
    return decoded(_count(inp, count_block))


def tiny_default(inp: Input) -> Any:
    return _map(inp, square)


def tiny_chunk1(inp: Input) -> Any:
    return _map(inp, square, batch_size=1)


def echo_small(inp: Input) -> Any:
    return _map(inp, echo)


def echo_bytes(inp: Input) -> Any:
    return _map(inp, echo)


def echo_numpy(inp: Input) -> Any:
    return _map(inp, echo)  # large arrays go as memory maps of temporary files


def cpu(inp: Input) -> Any:
    return _map(inp, spin)


def groupsum(inp: Input) -> Any:
    sums: dict[Any, int] = {}
    with _warm(inp):
        for part in _call(inp, sum_seed, inp.items, return_as="generator_unordered"):
            merge(sums, part)
        return inp.answer(sums)


def stream(inp: Input) -> Any:
    with _warm(inp):
        return inp.answer(sum(_call(inp, triple, inp.generate(), return_as="generator")))


def stream__sums(inp: Input) -> Any:
    with _warm(inp):
        return inp.answer(sum(_call(inp, sum_triples, batches(inp.generate()), return_as="generator")))


def startup(inp: Input) -> Any:
    return _call(inp, square, inp.items)
