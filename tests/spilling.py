"""
Jobs by key that spill, and how their output is read back. Workers import it, so it imports nothing that they would not.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from txmapreduce import JsonLines, Parquet, PickleFiles, TextFiles
from txmapreduce.aggregates import Sum
from txmapreduce.testing import functions

BLOCKS, BLOCK, KEYS = 30, 10_000, 150_000


def pairs(block: int) -> Iterator[tuple[int, int]]:
    """
    Some pairs, with keys far apart.
    """
    for n in range(block * BLOCK, (block + 1) * BLOCK):
        yield n * 2_654_435_761 % KEYS, n


def text_of(key: int, values: Iterator[int]) -> Iterator[str]:
    """
    A reducer whose answer depends on the order of the values.
    """
    yield f"{key} {' '.join(map(str, values))}"


def noise(block: int) -> Iterator[tuple[int, bytes]]:
    """
    100 KiB that can't be compressed, by keys of their own.
    """
    chance = random.Random(block)
    for n in range(block * 1000, (block + 1) * 1000):
        yield n, chance.randbytes(100)


def largest(key: int, values: Iterator[bytes]) -> Iterator[bytes]:
    """
    A reducer of it.
    """
    yield max(values)


def lines_of_noise(block: int) -> list[str]:
    """
    As much, as text.
    """
    return [value.hex() for _, value in noise(block)]


@cache
def groups() -> dict[int, list[int]]:
    """
    The values of each key, in input order.
    """
    found: dict[int, list[int]] = {}
    for key, value in (pair for block in range(BLOCKS) for pair in pairs(block)):
        found.setdefault(key, []).append(value)
    return dict(sorted(found.items()))


def sums() -> list[Any]:
    """
    What comes of most jobs.
    """
    return [(key, sum(values)) for key, values in groups().items()]


def texts() -> list[Any]:
    """
    What comes of L{text_of} and values in descending order.
    """
    return [text for key, values in groups().items() for text in text_of(key, reversed(values))]


@dataclass(frozen=True)
class Kind:
    """
    A job by key, and its output.

    @ivar output: the format and the compression. C{source} reads it back, and C{record} makes of what it gives what
        the job gave.
    @ivar ordered: whether keys are in order.
    @ivar limit: how much memory a worker has. One that has nothing takes a little less than two fifths of it, so it
        spills as soon as it has grown by a few MiB; sums that are packed need less for that.
    """

    options: dict[str, Any]
    output: tuple[Any, ...]
    source: Callable[[str], Any]
    record: Callable[[Any], Any]
    expected: Callable[[], list[Any]]
    ordered: bool = True
    limit: str = "72MiB"
    initializer: Callable[[], object] | None = None

    def read(self, folder: str) -> list[Any]:
        """
        The records of a folder of part files.
        """
        found = [self.record(record) for split in self.source(folder).splits(1 << 20) for record in split.read()]
        return found if self.ordered else sorted(found)


def numbers(line: str) -> tuple[int, ...]:
    """
    A line of tab-separated values.
    """
    return tuple(map(int, line.split("\t")))


def with_parquet() -> None:
    """
    An initializer: workers are as large when they map as when they write, so that they spill.
    """
    import pyarrow.parquet  # noqa: F401


def row(columns: dict[str, int]) -> tuple[int, ...]:
    """
    A row of a Parquet file.
    """
    return columns["key"], columns["value"]


KINDS = (
    Kind({"reduce_by_key": operator.add}, ("tsv",), TextFiles, numbers, sums, ordered=False, limit="48MiB"),
    Kind({"reducer": functions.total_of}, ("jsonl", "gzip"), JsonLines, tuple, sums),
    Kind(
        {"reduce_by_key": Sum()},
        ("parquet",),
        Parquet,
        row,
        sums,
        ordered=False,
        limit="192MiB",
        initializer=with_parquet,
    ),
    Kind({"reducer": text_of, "sort_values": operator.neg}, ("text",), TextFiles, str, texts),
    Kind({"reducer": functions.total_of, "combiner": functions.total}, ("pickle",), PickleFiles, tuple, sums),
)
