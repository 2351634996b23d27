"""
Jobs whose data is larger than their memory, in small: exact, within their bounds, and on the disk only where that must
be.
"""

from __future__ import annotations

import operator
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.support import PoolCase
from txmapreduce import MapReduce, PartFiles, Policy, TextFiles, aggregates
from txmapreduce.errors import SpillFailed
from txmapreduce.testing._case import in_thread

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import large

LIMIT = 72 << 20
"""A worker that has nothing takes a quarter of it, and one that has two fifths spills."""

SIZE = large.Size(600_000, 300_000)
BLOCKS = SIZE.pairs // large.BLOCK


def some_pairs(block: int) -> Iterator[tuple[int, int]]:
    """
    Pairs with keys of which each is there twice in all.
    """
    return large.even(SIZE, block)


def few_keys(block: int) -> Iterator[tuple[int, int]]:
    """
    As many pairs, of a hundred keys.
    """
    return ((key % 100, value) for key, value in large.even(SIZE, block))


class LargeTests(PoolCase):
    """
    The jobs of C{benchmarks/large.py}, and jobs that are not large.
    """

    timeout = 120

    async def within_bounds(self, name: str, size: Any) -> dict[int, int]:
        """
        The records that a job has written, after a look at what its processes had.
        """
        folder = Path(os.path.abspath(self.mktemp()))
        folder.mkdir(parents=True)
        record = await in_thread(partial(large.watched, name, size, folder, limit=str(LIMIT)))
        self.assertLessEqual(record["workers"][0], large.MARGIN * LIMIT)
        self.assertLessEqual(record["coordinator"], large.COORDINATOR)
        self.assertEqual(record["left"], 0)
        self.assertTrue((folder / "out" / "_SUCCESS").exists())
        lines = [line for part in folder.glob("out/part-*") for line in part.read_text("ascii").splitlines()]
        self.assertEqual(len(lines), record["records"])
        found = {int(key): int(value) for key, value in (line.split("\t") for line in lines)}
        self.assertEqual(len(found), len(lines))
        return found

    def sums(self, name: str, size: Any) -> dict[int, int]:
        """
        What plain Python makes of the same pairs.
        """
        sums: dict[int, int] = defaultdict(int)
        for block in range(-(-size.pairs // large.BLOCK)):
            for key, value in large.JOBS[name].pairs(size, block):
                sums[key] += value
        return dict(sums)

    async def test_groupAndSum(self) -> None:
        """
        One value for each of many keys, by an operator and by an aggregate.
        """
        for name in ("groupsum", "groupsum_aggregate"):
            self.assertEqual(await self.within_bounds(name, SIZE), self.sums(name, SIZE))

    async def test_skew(self) -> None:
        """
        A key that every other record has, by an operator and by a reducer.
        """
        for name in ("skew", "skew_reducer"):
            self.assertEqual(await self.within_bounds(name, SIZE), self.sums(name, SIZE))

    async def test_oneKey(self) -> None:
        """
        A key with more values than a worker may have in memory; the reducer has them one by one, in order.
        """
        size = large.Size(10_000_000, 1)
        self.assertGreater(size.pairs * 8, LIMIT)  # a list of them is larger
        found = await self.within_bounds("one_key", size)
        weights = [n % 7 + 1 for n in range(7000)]  # values repeat after 1000, weights after 7
        whole, rest = divmod(size.pairs, 7000)
        values = [n * 7919 % 1000 for n in range(7000)]
        period = list(map(operator.mul, values, weights))
        self.assertEqual(found, {0: whole * sum(period) + sum(period[:rest])})

    async def test_spillsWhereItMust(self) -> None:
        """
        Where the folder for spilling can't be made, a job that fits into memory doesn't notice, and one with a small
        result neither. The same job in less memory needs the folder.
        """
        nowhere = Policy(spill_folder=os.path.abspath(os.path.join(self.mktemp(), "missing")))
        many = MapReduce(some_pairs, reduce_by_key=operator.add, policy=nowhere)
        self.assertEqual(await many.run(range(BLOCKS), backend=self.pool), self.sums("groupsum", SIZE))
        tight = self.processes(2, memory_limit=LIMIT)
        await self.assertFailure(many.run(range(BLOCKS), backend=tight), SpillFailed)
        for how in ({"reduce_by_key": operator.add}, {"reduce_by_key": aggregates.Sum()}):
            few: Any = MapReduce(few_keys, policy=nowhere, **how)
            self.assertEqual(len(await few.run(range(BLOCKS), backend=tight)), 100)

    async def test_small(self) -> None:
        """
        What is small is written to no file on the way to its part files.
        """
        nowhere = Policy(spill_folder=os.path.abspath(os.path.join(self.mktemp(), "missing")))
        folder = os.path.abspath(self.mktemp())
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        job = MapReduce(few_keys, reducer=large.summed, policy=nowhere)
        tight = self.processes(2, memory_limit=LIMIT)
        written = await job.run(range(1), backend=tight, output=PartFiles(folder, "tsv"))
        self.assertEqual(written.records, 100)
        lines = await MapReduce(str).run(TextFiles(folder), backend=self.pool)
        self.assertEqual(len(lines), 100)
