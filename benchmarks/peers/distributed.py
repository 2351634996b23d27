"""
dask.distributed on one machine: worker processes of one thread each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask.bag
from distributed import Client, LocalCluster, as_completed
from workloads import (
    Input,
    batches,
    count_lines,
    echo,
    merge,
    spin,
    square,
    sum_seed,
    sum_triples,
    warm,
    words,
)

NEEDS = "distributed"
LIMITS = {"tiny_default": 20_000, "echo_small": 20_000, "tiny_chunk1": 2_000, "stream__sums": 200_000}


@contextmanager
def _cluster(inp: Input) -> Iterator[Any]:
    with (
        LocalCluster(n_workers=inp.workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _client(inp: Input) -> Iterator[Any]:
    with _cluster(inp) as client:
        client.gather(client.map(warm, range(2 * inp.workers), pure=False))
        inp.ready()
        yield client


def _map(inp: Input, function: Callable[[Any], Any]) -> Any:
    with _client(inp) as client:
        return inp.answer(client.gather(client.map(function, inp.items, pure=False)))


def _bag(inp: Input, function: Callable[[Any], Any]) -> Any:
    with _client(inp):
        return inp.answer(dask.bag.from_sequence(inp.items).map(function).compute())


def _echo(inp: Input) -> Any:
    with _client(inp) as client:
        futures = client.scatter(inp.items, hash=False)
        return inp.answer(client.gather(client.map(echo, futures, pure=False)))


def wordcount_lines(inp: Input) -> Any:
    counts: Counter[str] = Counter()
    with _client(inp) as client:
        for _, part in as_completed(client.map(count_lines, inp.spans(), pure=False), with_results=True):
            counts.update(part)
        return inp.answer(counts)


def wordcount_lines__bag(inp: Input) -> Any:
    with _client(inp):
        bag = dask.bag.read_text(inp.files, blocksize="16MiB")
        return inp.answer(bag.map(words).flatten().frequencies().compute())


def tiny_default(inp: Input) -> Any:
    return _bag(inp, square)


def tiny_chunk1(inp: Input) -> Any:
    return _map(inp, square)


def echo_small(inp: Input) -> Any:
    return _bag(inp, echo)


def echo_bytes(inp: Input) -> Any:
    return _echo(inp)


def echo_numpy(inp: Input) -> Any:
    return _echo(inp)


def cpu(inp: Input) -> Any:
    return _map(inp, spin)


def groupsum(inp: Input) -> Any:
    sums: dict[Any, int] = {}
    with _client(inp) as client:
        for _, part in as_completed(client.map(sum_seed, inp.items, pure=False), with_results=True):
            merge(sums, part)
        return inp.answer(sums)


def _totals(client: Any, rest: Iterator[list[int]]) -> Iterator[int]:
    """
    The sums of the batches, with eight of them under way.
    """
    first = [client.submit(sum_triples, batch, pure=False) for _, batch in zip(range(8), rest, strict=False)]
    done = as_completed(first, with_results=True)
    for _, total in done:
        yield total
        for batch in rest:
            done.add(client.submit(sum_triples, batch, pure=False))
            break


def stream__sums(inp: Input) -> Any:
    with _client(inp) as client:
        return inp.answer(sum(_totals(client, batches(inp.generate()))))


def startup(inp: Input) -> Any:
    with _cluster(inp) as client:
        return client.gather(client.map(square, inp.items, pure=False))
