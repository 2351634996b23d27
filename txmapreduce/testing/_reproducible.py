"""
Runs that give the same to the last bit, whatever happens.
"""

from __future__ import annotations

import operator
import struct
from typing import Any

from ..aggregates import Mean, Sample, Sum, Variance
from ..backends.inline import Inline
from ..job import Policy
from ..mapreduce import MapReduce
from . import functions
from ._case import BackendCase


class ReproducibleCases(BackendCase):
    """
    C{reproducible} and C{seed}.
    """

    async def test_reproducible(self) -> None:
        """
        With C{reproducible}, sums of floats are equal to the last bit to those in one process.
        """
        ways: list[tuple[Any, dict[str, Any]]] = [
            (functions.noisy, {"reduce": operator.add}),
            (functions.noisy, {"reduce": operator.add, "initial": 0.1}),
            (functions.noisy, {"reduce": Sum()}),
            (functions.noisy, {"reduce": Mean()}),
            (functions.noisy, {"reduce": Variance()}),
            (functions.noisy_pairs, {"reduce_by_key": operator.add}),
            (functions.noisy_pairs, {"reduce_by_key": Mean()}),
        ]
        for chunksize in (None, 7):
            policy = Policy(reproducible=True, chunksize=chunksize)
            for mapper, options in ways:
                job = MapReduce(mapper, **options, policy=policy)
                got = bits(await job.run(range(900), backend=self.backend()))
                expected = bits(await job.run(range(900), backend=Inline()))
                self.assertEqual(got, expected, f"{options} {chunksize}")

    async def test_seed(self) -> None:
        """
        With a seed, random numbers and samples are those that it gives in one process; with another they are others.
        """
        for chunksize in (None, 10):
            job = MapReduce(functions.drawn, policy=Policy(seed=5, chunksize=chunksize))
            got = await job.run(range(2000), backend=self.backend())
            self.assertEqual(got, await job.run(range(2000), backend=Inline()))
            other = MapReduce(functions.drawn, policy=Policy(seed=6, chunksize=chunksize))
            self.assertNotEqual(await other.run(range(2000), backend=self.backend()), got)
        sample = MapReduce(functions.square, reduce=Sample(5), policy=Policy(seed=3, chunksize=50))
        got = await sample.run(range(2000), backend=self.backend())
        self.assertEqual(got, await sample.run(range(2000), backend=Inline()))

    async def test_noSeed(self) -> None:
        """
        Without a seed each run draws other numbers.
        """
        job, backend = MapReduce(functions.drawn, policy=Policy(chunksize=10)), self.backend()
        self.assertNotEqual(await job.run(range(30), backend=backend), await job.run(range(30), backend=backend))


def bits(value: Any) -> Any:
    """
    A float as its bits, which tell more than C{==}.
    """
    if isinstance(value, float):
        return struct.pack(">d", value).hex()
    if isinstance(value, dict):
        return {key: bits(number) for key, number in value.items()}
    return [bits(number) for number in value] if isinstance(value, list) else value
