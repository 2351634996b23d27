"""
Results one by one.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from ..errors import BadInput, TaskFailed
from ..job import Policy
from ..mapreduce import MapReduce
from . import failing, functions
from ._case import BackendCase, pause


class StreamCases(BackendCase):
    """
    Results one by one.
    """

    async def test_stream(self) -> None:
        """
        A stream gives the results one by one: in input order, or as they come; all of a flat mapper's.
        """
        job = MapReduce(functions.square, policy=Policy(chunksize=3))
        expected = [x * x for x in range(50)]
        self.assertEqual([y async for y in job.stream(range(50), backend=self.backend())], expected)
        unordered = [y async for y in job.stream(range(50), ordered=False, backend=self.backend())]
        self.assertEqual(sorted(unordered), expected)
        flat = MapReduce(functions.some, flat=True, policy=Policy(chunksize=1))
        self.assertEqual(
            [y async for y in flat.stream(range(20), backend=self.backend())],
            [y for x in range(20) for y in functions.some(x)],
        )
        self.assertEqual([y async for y in flat.stream([], backend=self.backend())], [])

    async def test_streamOfAReducer(self) -> None:
        """
        The results of the classic form can be streamed, too.
        """
        job = MapReduce(functions.pairs_of_numbers, reducer=functions.joined)
        expected = await job.run(range(50), backend=self.backend())
        self.assertEqual([y async for y in job.stream(range(50), backend=self.backend())], expected)

    async def test_streamOfAReduce(self) -> None:
        """
        A job with one result has nothing to stream.
        """
        ways: list[dict[str, Any]] = [{"reduce": operator.add}, {"reduce_by_key": operator.add}]
        for options in ways:
            with self.assertRaises(BadInput):
                MapReduce(functions.square, **options).stream([1], backend=self.backend())

    async def test_streamFails(self) -> None:
        """
        A stream raises what the run fails with, behind the results of the chunks before.
        """
        job = MapReduce(failing.fails_at_7, policy=Policy(chunksize=1))
        values = []
        with self.assertRaises(TaskFailed):
            async for value in job.stream(range(10), backend=self.backend()):
                values.append(value)
        self.assertEqual(values, list(range(len(values))))

    async def test_streamOfTheEndless(self) -> None:
        """
        A stream reads no further ahead than C{buffersize} chunks of what has been taken, on an endless input; when
        its reader leaves, the input is closed.
        """
        for ordered in (True, False):
            pulled = [0]
            closed: list[bool] = []

            def endless(pulled: list[int] = pulled, closed: list[bool] = closed) -> Iterator[int]:
                try:
                    while True:
                        pulled[0] += 1
                        yield pulled[0]
                finally:
                    closed.append(True)

            job = MapReduce(functions.square, policy=Policy(chunksize=10, buffersize=4))
            stream: Any = job.stream(endless(), ordered=ordered, backend=self.backend()).__aiter__()
            for n in range(1, 400):
                await stream.__anext__()
                self.assertLessEqual(pulled[0], n + 10 * (2 * 4 + 2), f"for result {n}")
            await pause(0.05)  # would it go on by itself?
            self.assertLessEqual(pulled[0], 400 + 10 * (2 * 4 + 2))
            self.assertEqual(closed, [])
            await stream.aclose()
            self.assertEqual(closed, [True])
