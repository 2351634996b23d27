"""
Ray on one machine. Its end isn't timed: arrays that come back are views of its object store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.util.multiprocessing import Pool
from workloads import Input, batches, count_lines, echo, merge, spin, square, sum_seed, sum_triples, warm

NEEDS = "ray"


def _start(inp: Input) -> None:
    ray.init(num_cpus=inp.workers, include_dashboard=False, logging_level="ERROR")
    inp.cleanup = ray.shutdown


def _warm(inp: Input) -> None:
    _start(inp)
    ray.get([ray.remote(warm).remote(x) for x in range(2 * inp.workers)])
    inp.ready()


def _map(inp: Input, function: Callable[[Any], Any]) -> Any:
    _warm(inp)
    task = ray.remote(function)
    return inp.answer(ray.get([task.remote(item) for item in inp.items]))


def _pool(inp: Input, function: Callable[[Any], Any]) -> Any:
    _start(inp)
    with Pool(inp.workers) as pool:
        pool.map(warm, range(2 * inp.workers))
        inp.ready()
        return inp.answer(pool.map(function, inp.items))


def _as_done(tasks: list[Any]) -> Iterator[Any]:
    while tasks:
        done, tasks = ray.wait(tasks, num_returns=1)
        yield ray.get(done[0])


def wordcount_lines(inp: Input) -> Any:
    _warm(inp)
    counts: Counter[str] = Counter()
    task = ray.remote(count_lines)
    for part in _as_done([task.remote(span) for span in inp.spans()]):
        counts.update(part)
    return inp.answer(counts)


def tiny_default(inp: Input) -> Any:
    return _pool(inp, square)


def tiny_chunk1(inp: Input) -> Any:
    return _map(inp, square)


def echo_small(inp: Input) -> Any:
    return _pool(inp, echo)


def echo_bytes(inp: Input) -> Any:
    return _map(inp, echo)


def echo_numpy(inp: Input) -> Any:
    return _map(inp, echo)


def cpu(inp: Input) -> Any:
    return _map(inp, spin)


def groupsum(inp: Input) -> Any:
    _warm(inp)
    sums: dict[Any, int] = {}
    task = ray.remote(sum_seed)
    for part in _as_done([task.remote(seed) for seed in inp.items]):
        merge(sums, part)
    return inp.answer(sums)


def stream__sums(inp: Input) -> Any:
    _warm(inp)
    task, total, waiting = ray.remote(sum_triples), 0, []
    for batch in batches(inp.generate()):
        waiting.append(task.remote(batch))
        if len(waiting) > 8:
            done, waiting = ray.wait(waiting, num_returns=1)
            total += ray.get(done[0])
    return inp.answer(total + sum(ray.get(waiting)))


def startup(inp: Input) -> Any:
    _start(inp)
    task = ray.remote(square)
    return ray.get([task.remote(x) for x in inp.items])
