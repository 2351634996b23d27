"""
txmapreduce, as its documentation tells users to write it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.threads import blockingCallFromThread
from workloads import Input, block_words, decoded, echo, seed_pairs, spin, square, triple, warm, word_pairs, words

from txmapreduce import MapReduce, Policy, Processes, TextFiles, aggregates

KIND = "ours"
NEEDS = "txmapreduce"

ONE_EACH = Policy(chunksize=1)

POOL: dict[str, Any] = {}
"""What else the pool is told: C{levers.py} changes that."""


@contextmanager
def _pool(inp: Input) -> Iterator[Processes]:
    pool = Processes(inp.workers, **POOL)
    MapReduce(warm, policy=ONE_EACH).run_sync(range(2 * inp.workers), backend=pool)
    inp.ready()
    yield pool
    from twisted.internet import reactor

    blockingCallFromThread(reactor, pool.close)


def _run(inp: Input, job: MapReduce, data: Any) -> Any:
    with _pool(inp) as pool:
        return inp.answer(job.run_sync(data, backend=pool))


def _map(inp: Input, function: Callable[[Any], Any], policy: Policy | None = None) -> Any:
    return _run(inp, MapReduce(function, policy=policy), inp.items)


def wordcount_lines(inp: Input) -> Any:
    return _run(inp, MapReduce(words, flat=True, reduce=aggregates.Counts()), TextFiles(inp.files))


def wordcount_lines__pairs(inp: Input) -> Any:
    return _run(inp, MapReduce(word_pairs, reduce_by_key=operator.add), TextFiles(inp.files))


def wordcount_lines__block(inp: Input) -> Any:
    job = MapReduce(block_words, batched=True, reduce=aggregates.Counts())
    return decoded(_run(inp, job, TextFiles(inp.files, blocks=True)))


def tiny_default(inp: Input) -> Any:
    return _map(inp, square)


def tiny_chunk1(inp: Input) -> Any:
    return _map(inp, square, ONE_EACH)


def echo_small(inp: Input) -> Any:
    return _map(inp, echo)


def echo_bytes(inp: Input) -> Any:
    return _map(inp, echo)


def echo_numpy(inp: Input) -> Any:
    return _map(inp, echo)


def cpu(inp: Input) -> Any:
    return _map(inp, spin)


def groupsum(inp: Input) -> Any:
    return _run(inp, MapReduce(seed_pairs, reduce_by_key=operator.add), inp.items)


def stream(inp: Input) -> Any:
    return _run(inp, MapReduce(triple, reduce=operator.add), inp.generate())


def stream__values(inp: Input) -> Any:
    with _pool(inp) as pool:
        return inp.answer(sum(MapReduce(triple).stream(inp.generate(), backend=pool)))


def startup(inp: Input) -> Any:
    return MapReduce(square, policy=ONE_EACH).run_sync(inp.items, backend=Processes(inp.workers))


def warm_run(inp: Input) -> Any:
    job = MapReduce(square, policy=ONE_EACH)
    with _pool(inp) as pool:
        return inp.answer([job.run_sync(inp.items, backend=pool) for _ in range(inp.size)])
