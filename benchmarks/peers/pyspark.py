"""
PySpark on one machine. It needs Java.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import add
from typing import Any

from pyspark import SparkConf, SparkContext
from workloads import Input, echo, seed_pairs, spin, square, warm, word_pairs

NEEDS = "pyspark"
COMMAND = "java"
LIMITS = {"tiny_chunk1": 500, "echo_bytes": 32, "echo_numpy": 32}
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.memory": "4g",
    "spark.driver.maxResultSize": "0",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
}


@contextmanager
def _context(inp: Input) -> Iterator[Any]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = SparkConf().setMaster(f"local[{inp.workers}]").setAll(list(SETTINGS.items()))
    context = SparkContext(conf=settings)
    context.setLogLevel("ERROR")
    yield context
    context.stop()


@contextmanager
def _warm(inp: Input) -> Iterator[Any]:
    with _context(inp) as context:
        context.parallelize(range(2 * inp.workers), 2 * inp.workers).map(warm).collect()
        inp.ready()
        yield context


def _map(inp: Input, function: Callable[[Any], Any], slices: int | None = None) -> Any:
    with _warm(inp) as context:
        return inp.answer(context.parallelize(inp.items, slices).map(function).collect())


def wordcount_lines__pairs(inp: Input) -> Any:
    with _warm(inp) as context:
        lines = context.textFile(",".join(inp.files))
        return inp.answer(lines.flatMap(word_pairs).reduceByKey(add).collectAsMap())


def tiny_default(inp: Input) -> Any:
    return _map(inp, square)


def tiny_chunk1(inp: Input) -> Any:
    return _map(inp, square, len(inp.items))


def echo_small(inp: Input) -> Any:
    return _map(inp, echo)


def echo_bytes(inp: Input) -> Any:
    return _map(inp, echo, min(32, len(inp.items)))


def echo_numpy(inp: Input) -> Any:
    return _map(inp, echo, min(32, len(inp.items)))


def cpu(inp: Input) -> Any:
    return _map(inp, spin, max(1, len(inp.items) // 4))


def groupsum(inp: Input) -> Any:
    with _warm(inp) as context:
        pairs = context.parallelize(inp.items, len(inp.items)).flatMap(seed_pairs)
        return inp.answer(pairs.reduceByKey(add).collectAsMap())


def startup(inp: Input) -> Any:
    with _context(inp) as context:
        return context.parallelize(inp.items, 2).map(square).collect()
