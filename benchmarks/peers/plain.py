"""
One process, plain Python: what parallel systems have to beat.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from workloads import Input, echo, spin, square, sum_pairs, sum_seeds, triple, word_pairs, words

KIND = "reference"


def wordcount_lines(inp: Input) -> Any:
    counts: Counter[str] = Counter()
    for path in inp.files:
        with open(path, encoding="utf-8") as file:
            for line in file:
                counts.update(words(line))
    return counts


def wordcount_lines__pairs(inp: Input) -> Any:
    return sum_pairs(pair for path in inp.files for line in open(path, encoding="utf-8") for pair in word_pairs(line))


def tiny_default(inp: Input) -> Any:
    return [square(x) for x in inp.items]


def echo_small(inp: Input) -> Any:
    return [echo(x) for x in inp.items]


def cpu(inp: Input) -> Any:
    return [spin(rounds) for rounds in inp.items]


def groupsum(inp: Input) -> Any:
    return sum_seeds(inp.items)


def stream(inp: Input) -> Any:
    return sum(triple(x) for x in inp.generate())


def startup(inp: Input) -> Any:
    return [square(x) for x in inp.items]
