"""
The workloads: the functions that get mapped, each workload's input at a size, and the check of its exact answer.

The worker processes of every system import this module, so it imports little.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

__all__ = ["SIZES", "VIEWS", "WORKLOADS", "Input", "Workload", "WrongAnswer", "prepared"]

MEBIBYTE = 1 << 20
ECHO_BYTES = 4 * MEBIBYTE

Span = tuple[str, int, int]
"""A file's path, and the first and the last byte of a range: the lines that start in it."""


class WrongAnswer(Exception):
    """
    A system's answer isn't the right one.
    """


@dataclass
class Input:
    """
    What an adapter gets: the input of one workload, and two clocks to stop.

    @ivar size: how much of it, in the workload's own measure.
    @ivar workers: how many processes are to share the work.
    @ivar folder: where files are.
    @ivar units: what the rate counts.
    @ivar items: what to map over, where that is a sequence.
    @ivar files: what to read, where those are files.
    @ivar expected: what L{Workload.check} compares with.
    @ivar serial_cpu: CPU seconds that one process takes, measured in this very process; C{None} where nobody asks.
    @ivar look: called when the answer is there, and the workers still are.
    @ivar cleanup: called when the answer has been checked.
    """

    size: int
    workers: int
    folder: str = ""
    units: int = 0
    items: Any = ()
    files: list[str] = field(default_factory=list)
    expected: Any = None
    serial_cpu: float | None = None
    look: Callable[[], object] | None = None
    cleanup: Callable[[], object] | None = None
    ready_at: float | None = None
    answered_at: float | None = None

    def ready(self) -> None:
        """
        The workers are up and warm: the work begins.
        """
        self.ready_at = time.perf_counter()

    def answer(self, value: Any) -> Any:
        """
        The answer is there: what follows is the end of the workers.
        """
        self.answered_at = time.perf_counter()
        if self.look is not None:
            self.look()
        return value

    def generate(self) -> Iterator[Any]:
        """
        The items one by one, from a generator.
        """
        yield from self.items

    def spans(self) -> list[Span]:
        """
        The files in byte ranges, for systems that don't read files themselves.
        """
        return spans_of(self.files)


@dataclass(frozen=True)
class Workload:
    """
    One thing to do.

    @ivar unit: what its rate counts: C{"B"}, or the plural of a word.
    @ivar sizes: the C{Input.size} for each of L{SIZES}.
    @ivar prepare: makes the input and what is expected, in the process that is measured, before the clock starts.
    @ivar check: raises L{WrongAnswer}.
    """

    unit: str
    sizes: dict[str, int]
    prepare: Callable[[Input], None]
    check: Callable[[Input, Any], None]


SIZES = ("tiny", "small", "full")


def _sizes(tiny: int, small: int, full: int) -> dict[str, int]:
    return dict(zip(SIZES, (tiny, small, full), strict=True))


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise WrongAnswer(message)


def _same(got: Iterable[Any], wanted: list[Any]) -> None:
    got = list(got)
    _expect(len(got) == len(wanted), f"{len(got)} values, where {len(wanted)} are right")
    _expect(got == wanted, "wrong values, or in another order")


# Word count.

WORD = re.compile(r"[a-z']+")
LETTERS = bytes(ord(c.lower()) if c.isalpha() or c == "'" else 32 for c in map(chr, range(128))) + b" " * 128


def words(line: str) -> list[str]:
    """
    The words of a line.
    """
    return WORD.findall(line.lower())


def word_pairs(line: str) -> Iterator[tuple[str, int]]:
    """
    The words of a line, each with a 1: the textbook's mapper.
    """
    for word in WORD.findall(line.lower()):
        yield word, 1


def block_words(block: bytes) -> list[bytes]:
    """
    The words of many lines at once.
    """
    return block.translate(LETTERS).split()


def spans_of(files: list[str], size: int = 8 * MEBIBYTE) -> list[Span]:
    """
    Byte ranges, those of the largest file first.
    """
    sizes = sorted(((os.path.getsize(path), path) for path in files), reverse=True)
    return [(path, start, min(start + size, length)) for length, path in sizes for start in range(0, length, size)]


def read_span(span: Span) -> bytes:
    """
    The lines that start in a byte range.
    """
    path, start, end = span
    with open(path, "rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()
        length = end - file.tell()
        if length <= 0:
            return b""
        block = file.read(length)
        return block if block.endswith(b"\n") else block + file.readline()


def count_lines(span: Span) -> Counter[str]:
    """
    What one writes by hand: a C{Counter}, line by line.
    """
    counts: Counter[str] = Counter()
    for line in read_span(span).decode().split("\n"):
        counts.update(words(line))
    return counts


def count_pairs(span: Span) -> dict[str, int]:
    """
    The textbook's mapper, its pairs added up where they are made.
    """
    return sum_pairs(pair for line in read_span(span).decode().split("\n") for pair in word_pairs(line))


def count_block(span: Span) -> Counter[bytes]:
    """
    A whole range at once.
    """
    return Counter(block_words(read_span(span)))


def decoded(counts: dict[bytes, int]) -> dict[str, int]:
    """
    What L{count_block} counted, with words as text.
    """
    return {word.decode(): count for word, count in counts.items()}


def _prepare_text(inp: Input) -> None:
    with open(os.path.join(inp.folder, "text.json"), encoding="utf-8") as file:
        index = json.load(file)
    inp.files = [os.path.join(inp.folder, name) for name in index["files"]]
    inp.expected = index["counts"]
    inp.units = sum(map(os.path.getsize, inp.files))


def _check_counts(inp: Input, got: Any) -> None:
    got = dict(got)
    _expect(len(got) == len(inp.expected), f"{len(got)} words, where {len(inp.expected)} are right")
    _expect(got == inp.expected, "wrong counts")


# Small items: what a task and an item cost.


def square(x: int) -> int:
    return x * x


def echo(x: Any) -> Any:
    return x


def warm(x: int) -> int:
    """
    Mapped over a few items so that all workers are up: slow enough for each to get one.
    """
    time.sleep(0.02)
    return os.getpid()


def _prepare_numbers(inp: Input) -> None:
    inp.items = range(inp.size)
    inp.units = inp.size


def _check_squares(inp: Input, got: Any) -> None:
    _same(got, [x * x for x in inp.items])


def _prepare_small(inp: Input) -> None:
    make = random.Random(1).randbytes
    inp.items = [make(100) for _ in range(inp.size)]
    inp.units = inp.size


def _check_echo(inp: Input, got: Any) -> None:
    _same(got, inp.items)


def _check_runs(inp: Input, got: Any) -> None:
    _same(got, [[4, 9]] * inp.size)


def _prepare_runs(inp: Input) -> None:
    inp.items = [2, 3]
    inp.units = inp.size


def _prepare_startup(inp: Input) -> None:
    inp.items = [2, 3]
    inp.units = 1


# Large items: what a byte costs.


def _prepare_bytes(inp: Input) -> None:
    make = random.Random(2).randbytes
    inp.items = [make(ECHO_BYTES) for _ in range(inp.size)]
    inp.units = 2 * inp.size * ECHO_BYTES
    inp.expected = [zlib.crc32(item) for item in inp.items]


def _check_bytes(inp: Input, got: Any) -> None:
    got = list(got)
    _expect(all(type(item) is bytes for item in got), "not bytes any more")
    _same(map(zlib.crc32, got), inp.expected)


def _prepare_arrays(inp: Input) -> None:
    import numpy

    make = numpy.random.default_rng(2).random
    inp.items = [make(ECHO_BYTES // 8) for _ in range(inp.size)]
    inp.units = 2 * inp.size * ECHO_BYTES
    inp.expected = [zlib.crc32(item) for item in inp.items]


def _check_arrays(inp: Input, got: Any) -> None:
    import numpy

    got = list(got)
    _expect(all(type(item) is numpy.ndarray and item.dtype == numpy.float64 for item in got), "not arrays of float64")
    _same((zlib.crc32(numpy.ascontiguousarray(item).data) for item in got), inp.expected)


# Pure CPU, in tasks of very different length.

ROUNDS_PER_MILLISECOND = 13_000


def spin(rounds: int) -> int:
    """
    Keep a processor busy.
    """
    x = rounds
    for _ in range(rounds):
        x = (x * 69069 + 1) & 0xFFFFFFFF
    return x


def _prepare_spins(inp: Input) -> None:
    lengths = random.Random(3)
    inp.items = [int(lengths.uniform(1, 60) * ROUNDS_PER_MILLISECOND) for _ in range(inp.size)]
    inp.units = inp.size
    sample = inp.items[::4]
    before = time.process_time()
    inp.expected = [spin(rounds) for rounds in sample]
    inp.serial_cpu = (time.process_time() - before) * sum(inp.items) / sum(sample)


def _check_spins(inp: Input, got: Any) -> None:
    got = list(got)
    _expect(len(got) == inp.size, f"{len(got)} values, where {inp.size} are right")
    _same(got[::4], inp.expected)


# Sums by key, with nearly as many keys as pairs.

KEYS = 1_500_000
PAIRS_PER_SEED = 100_000


def seed_pairs(seed: int) -> Iterator[tuple[str, int]]:
    """
    Pairs of a key of 16 characters and a number.
    """
    draw = random.Random(seed).random
    for _ in range(PAIRS_PER_SEED):
        number = int(draw() * KEYS)
        yield f"{number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF:016x}", number & 1023


def sum_pairs(pairs: Iterable[tuple[Any, int]]) -> dict[Any, int]:
    """
    The sum of the values of each key.
    """
    sums: dict[Any, int] = {}
    get = sums.get
    for key, value in pairs:
        sums[key] = get(key, 0) + value
    return sums


def sum_seed(seed: int) -> dict[str, int]:
    return sum_pairs(seed_pairs(seed))


def sum_seeds(seeds: Iterable[int]) -> dict[str, int]:
    return sum_pairs(pair for seed in seeds for pair in seed_pairs(seed))


def merge(sums: dict[Any, int], more: dict[Any, int]) -> dict[Any, int]:
    """
    Add C{more} to C{sums}, and give that back.
    """
    get = sums.get
    for key, value in more.items():
        sums[key] = get(key, 0) + value
    return sums


def _prepare_seeds(inp: Input) -> None:
    inp.items = list(range(inp.size))
    inp.units = inp.size * PAIRS_PER_SEED


def _digest(sums: dict[str, int]) -> list[int]:
    mixed = sum(zlib.crc32(key.encode()) * value for key, value in sums.items())
    return [len(sums), sum(sums.values()), mixed & 0xFFFFFFFFFFFFFFFF]


def _check_sums(inp: Input, got: Any) -> None:
    path = os.path.join(inp.folder, f"sums-{inp.size}.json")
    if not os.path.exists(path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(_digest(sum_seeds(inp.items)), file)
    with open(path, encoding="utf-8") as file:
        wanted = json.load(file)
    _expect(_digest(got) == wanted, f"{_digest(got)} instead of {wanted}")


# A long stream of items, of which only the sum is kept.


def triple(x: int) -> int:
    return 3 * x + 1


def sum_triples(numbers: Iterable[int]) -> int:
    return sum([3 * x + 1 for x in numbers])


def batches(items: Iterable[Any], size: int = 1000) -> Iterator[list[Any]]:
    """
    The items in lists of C{size}.
    """
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _check_total(inp: Input, got: Any) -> None:
    wanted = 3 * (inp.size * (inp.size - 1) // 2) + inp.size
    _expect(got == wanted, f"{got} instead of {wanted}")


MEGABYTE = 1_000_000

WORKLOADS = {
    "wordcount_lines": Workload(
        "B", _sizes(300_000, 30 * MEGABYTE, 300 * MEGABYTE), prepare=_prepare_text, check=_check_counts
    ),
    "tiny_default": Workload("items", _sizes(1000, 200_000, 200_000), prepare=_prepare_numbers, check=_check_squares),
    "tiny_chunk1": Workload("items", _sizes(100, 10_000, 20_000), prepare=_prepare_numbers, check=_check_squares),
    "echo_small": Workload("items", _sizes(1000, 200_000, 200_000), prepare=_prepare_small, check=_check_echo),
    "echo_bytes": Workload("B", _sizes(2, 32, 128), prepare=_prepare_bytes, check=_check_bytes),
    "echo_numpy": Workload("B", _sizes(2, 32, 128), prepare=_prepare_arrays, check=_check_arrays),
    "cpu": Workload("tasks", _sizes(8, 60, 400), prepare=_prepare_spins, check=_check_spins),
    "groupsum": Workload("pairs", _sizes(1, 8, 60), prepare=_prepare_seeds, check=_check_sums),
    "stream": Workload("items", _sizes(5000, 500_000, 3_000_000), prepare=_prepare_numbers, check=_check_total),
    "startup": Workload("runs", _sizes(1, 1, 1), prepare=_prepare_startup, check=_check_squares),
    "warm_run": Workload("runs", _sizes(3, 300, 2000), prepare=_prepare_runs, check=_check_runs),
}

VIEWS = {"memory": "wordcount_lines"}
"""Workloads that show another side of the runs of one of L{WORKLOADS}."""


def prepared(workload: Workload, size: int, workers: int, folder: str = "") -> Input:
    """
    The input of a workload.
    """
    inp = Input(size=size, workers=workers, folder=folder)
    workload.prepare(inp)
    return inp
