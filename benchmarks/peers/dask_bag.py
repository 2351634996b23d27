"""
dask.bag with its default scheduler for one machine, processes. It keeps no pool, so the start of the workers counts.
"""

from __future__ import annotations

from operator import add
from typing import Any

import dask.bag
from workloads import Input, echo, seed_pairs, spin, square, words

NEEDS = "dask"
LIMITS = {"tiny_chunk1": 2_000, "echo_bytes": 32, "echo_numpy": 32}


def _compute(inp: Input, bag: Any) -> Any:
    return bag.compute(scheduler="processes", num_workers=inp.workers)


def wordcount_lines(inp: Input) -> Any:
    bag = dask.bag.read_text(inp.files, blocksize="16MiB")
    return _compute(inp, bag.map(words).flatten().frequencies())


def tiny_default(inp: Input) -> Any:
    return _compute(inp, dask.bag.from_sequence(inp.items).map(square))


def tiny_chunk1(inp: Input) -> Any:
    return _compute(inp, dask.bag.from_sequence(inp.items, partition_size=1).map(square))


def echo_small(inp: Input) -> Any:
    return _compute(inp, dask.bag.from_sequence(inp.items).map(echo))


def echo_bytes(inp: Input) -> Any:
    return _compute(inp, dask.bag.from_sequence(inp.items).map(echo))


def echo_numpy(inp: Input) -> Any:
    return _compute(inp, dask.bag.from_sequence(inp.items).map(echo))


def cpu(inp: Input) -> Any:
    return _compute(inp, dask.bag.from_sequence(inp.items).map(spin))


def _key(pair: tuple[str, int]) -> str:
    return pair[0]


def _add(total: int, pair: tuple[str, int]) -> int:
    return total + pair[1]


def groupsum(inp: Input) -> Any:
    pairs = dask.bag.from_sequence(inp.items).map(seed_pairs).flatten()
    return dict(_compute(inp, pairs.foldby(_key, _add, 0, add, 0)))


def startup(inp: Input) -> Any:
    return _compute(inp, dask.bag.from_sequence(inp.items, partition_size=1).map(square))
