"""
What a job may have beside its functions: files, broadcast data, several steps, several inputs, a checkpoint.
"""

from __future__ import annotations

import operator
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from .._values.broadcast import broadcast
from ..backends.inline import Inline
from ..errors import BadInput, TaskFailed
from ..inputs import TextFiles
from ..job import Policy
from ..joins import cogroup, join
from ..mapreduce import MapReduce
from ..outputs import PartFiles
from ..sorting import sort
from ..sources import PickleFiles
from . import failing, functions
from ._case import BackendCase, failure_of


class FeatureCases(BackendCase):
    """
    What a job may have beside its functions.
    """

    async def test_manyKeys(self) -> None:
        """
        Many keys give what few do, in order where the law says so.
        """
        data = range(100_000)
        ones = MapReduce(functions.key_itself, reduce_by_key=operator.add)
        self.assertEqual(await ones.run(data, backend=self.backend()), dict.fromkeys(data, 1))
        rows = MapReduce(functions.key_itself, reducer=functions.total_of)
        self.assertEqual(await rows.run(data, backend=self.backend()), [(x, 1) for x in data])

    async def test_sortedValues(self) -> None:
        """
        With C{sort_values} a reducer gets each key's values in ascending order.
        """
        job = MapReduce(lambda x: [(x % 3, -x)], reducer=functions.joined, sort_values=True, policy=Policy(chunksize=7))
        expected = [(key, sorted(-x for x in range(50) if x % 3 == key)) for key in range(3)]
        self.assertEqual(await job.run(range(50), backend=self.backend()), expected)

    async def test_ownPartitioner(self) -> None:
        """
        With a partitioner the keys of one partition come together, in ascending order.
        """
        options: dict[str, Any] = {"partitioner": lambda key, n: key % n, "npartitions": 3}
        job = MapReduce(functions.pairs_of_numbers, reducer=functions.joined, **options)
        plain = MapReduce(functions.pairs_of_numbers, reducer=functions.joined)
        expected = sorted(await plain.run(range(90), backend=Inline()), key=lambda row: (row[0] % 3, row[0]))
        self.assertEqual(await job.run(range(90), backend=self.backend()), expected)

    async def test_keyRanges(self) -> None:
        """
        However many partitions own the keys, these come in ascending order, and each once.
        """
        data = [x * 7919 % 10_007 for x in range(10_007)]
        for npartitions in (1, 2, 7):
            job = MapReduce(functions.key_itself, reducer=functions.total_of, npartitions=npartitions)
            result = await job.run(data, backend=self.backend())
            self.assertEqual(result, [(x, 1) for x in range(10_007)])

    async def test_keysWithoutOrder(self) -> None:
        """
        Keys that can't be compared are the fault of the job, which is told what to do, and does it then.
        """
        data: list[Any] = [*range(50), *map(str, range(50))]
        for npartitions in (1, 3):
            options: dict[str, Any] = {"reducer": functions.total_of, "npartitions": npartitions}
            job = MapReduce(functions.key_itself, **options, policy=Policy(chunksize=10))
            error = await failure_of(job.run(data, backend=self.backend()))
            self.assertIsInstance(error, TaskFailed)
            self.assertIsInstance(error.__cause__, TypeError)
            self.assertIn("order_keys=False", str(error))
            job = MapReduce(functions.key_itself, **options, order_keys=False)
            self.assertEqual(set(await job.run(data, backend=self.backend())), {(x, 1) for x in data})

    async def test_broadcast(self) -> None:
        """
        What was broadcast is there in the tasks.
        """
        table = broadcast({x: -x for x in range(100)})
        found = await MapReduce(lambda x: table.value[x]).run(range(100), backend=self.backend())
        self.assertEqual(found, [-x for x in range(100)])

    def _text(self) -> str:
        path: str = os.path.abspath(self.mktemp())
        with open(path, "w") as file:
            file.writelines(f"line {n % 10}\n" for n in range(10_000))
        return path

    async def test_files(self) -> None:
        """
        Text files are read in splits, where they are mapped.
        """
        job = MapReduce(functions.key_itself, reduce_by_key=operator.add, policy=Policy(blocksize="8KiB"))
        result = await job.run(TextFiles(self._text()), backend=self.backend())
        self.assertEqual(result, {f"line {n}": 1000 for n in range(10)})

    async def test_partFiles(self) -> None:
        """
        Part files have the records that the job would have given, whatever it reduces with. Of a run that fails there
        is nothing.
        """
        ways: list[tuple[dict[str, Any], list[Any]]] = [
            ({}, [[(x, 1)] for x in range(300)]),
            ({"flat": True}, [(x, 1) for x in range(300)]),
            ({"reduce_by_key": operator.add}, [(x, 1) for x in range(300)]),
            ({"reducer": functions.total_of}, [(x, 1) for x in range(300)]),
        ]
        for options, expected in ways:
            folder = os.path.abspath(self.mktemp())
            output = PartFiles(folder, "pickle")
            job = MapReduce(functions.key_itself, **options, policy=Policy(chunksize=50))
            written = await job.run(range(300), backend=self.backend(), output=output)
            self.assertEqual(written.records, 300)
            self.assertIn("_SUCCESS", os.listdir(folder))
            back = await MapReduce(functions.identity).run(PickleFiles(folder), backend=Inline())
            self.assertEqual(sorted(back) if "reduce_by_key" in options else back, expected)
            error = await failure_of(job.run(range(300), backend=self.backend(), output=output))
            self.assertIsInstance(error, BadInput)
        folder = os.path.abspath(self.mktemp())
        error = await failure_of(
            MapReduce(failing.fails_at_7).run(range(9), backend=self.backend(), output=PartFiles(folder))
        )
        self.assertIsInstance(error, TaskFailed)
        self.assertFalse(os.path.exists(folder))

    async def test_sameParts(self) -> None:
        """
        Where keys or records are in order, so are the part files, and each has what it has on every backend.
        """
        data = [x * 7919 % 1009 for x in range(1009)]
        policy = Policy(chunksize=100)
        rows = MapReduce(functions.key_itself, reducer=functions.total_of, npartitions=3, policy=policy)
        lines = sort(data, key=functions.tens, npartitions=3, policy=policy)
        for job, inputs in ((rows, (data,)), (lines, ())):
            found = []
            for backend in (Inline(), self.backend()):
                folder = os.path.abspath(self.mktemp())
                await job.run(*inputs, backend=backend, output=PartFiles(folder, "jsonl"))
                names = sorted(name for name in os.listdir(folder) if name.startswith("part-"))
                found.append([(name, Path(folder, name).read_text()) for name in names])
            self.assertEqual(len(found[0]), 3)
            self.assertEqual(found[0], found[1])

    async def test_asyncInput(self) -> None:
        """
        Input may be asynchronous.
        """

        async def numbers() -> AsyncIterator[int]:
            for n in range(100):
                yield n

        job = MapReduce(functions.square, reduce=operator.add, policy=Policy(chunksize=7))
        self.assertEqual(await job.run(numbers(), backend=self.backend()), sum(x * x for x in range(100)))

    async def test_steps(self) -> None:
        """
        A step gets what the step before gives, instances of classes of the user's own among it, and is counted.
        """

        class Weight:
            def __init__(self, grams: int) -> None:
                self.grams = grams

        def light(item: tuple[int, int]) -> list[tuple[int, Weight]]:
            return [(item[0] % 10, Weight(item[0]))]

        def heaviest(key: int, weights: Iterator[Weight]) -> Iterator[Weight]:
            yield max(weights, key=lambda weight: weight.grams)

        counts = MapReduce(functions.key_itself, reduce_by_key=operator.add)
        job = counts.then(MapReduce(light, reducer=heaviest)).then(MapReduce(lambda weight: weight))
        run = job.start(range(20_000), backend=self.backend())
        weights = await run.result
        self.assertEqual({type(weight) for weight in weights}, {Weight})
        self.assertEqual([weight.grams for weight in weights], list(range(19_990, 20_000)))
        self.assertEqual([step.read for step in run.steps], [20_000, 20_000, 10])

    async def test_stepsOfNothing(self) -> None:
        """
        Where a step has no value to give, the job fails like the step alone.
        """
        job = MapReduce(abs, reduce=operator.add).then(MapReduce(abs))
        self.assertEqual(await job.run([-1, 2], backend=self.backend()), [3])
        self.assertIsInstance(await failure_of(job.run([], backend=self.backend())), TypeError)

    async def test_joins(self) -> None:
        """
        Two inputs are joined by their keys.
        """
        left, right = [(x % 5, x) for x in range(10)], [(x, str(x)) for x in range(3, 8)]
        inner = sorted(await join(left, right).run(backend=self.backend()))
        self.assertEqual(inner, sorted((k, (v, w)) for k, v in left for j, w in right if k == j))
        together = await cogroup(left, right).run(backend=self.backend())
        self.assertEqual(sorted(key for key, *_ in together), sorted({key for key, _ in [*left, *right]}))

    async def test_sort(self) -> None:
        """
        A whole input is put in order, and what compares as equal stays in the order that it had.
        """
        data = [x * 7919 % 1009 for x in range(1009)]
        self.assertEqual(await sort(data, key=operator.neg).run(backend=self.backend()), sorted(data, reverse=True))
        lines = [f"{x % 17}" for x in data]
        self.assertEqual(await sort(lines).run(backend=self.backend()), sorted(lines))
        for reverse in (False, True):
            job = sort(data, key=functions.tens, reverse=reverse, npartitions=5, policy=Policy(chunksize=100))
            result = await job.run(backend=self.backend())
            self.assertEqual(result, sorted(data, key=functions.tens, reverse=reverse))

    async def test_checkpoint(self) -> None:
        """
        A second run takes from the journal what the first has done, and maps nothing again.
        """
        log, path = os.path.abspath(self.mktemp()), os.path.abspath(self.mktemp())
        policy = Policy(checkpoint=path, chunksize=10)
        ways: list[dict[str, Any]] = [{}, {"reduce": operator.add}, {"reducer": functions.joined}]
        for options in ways:
            mapper = functions.Logged(log, pairs="reducer" in options)
            job = MapReduce(mapper, **options, policy=policy)
            first = await job.run(range(100), backend=self.backend())
            size = os.path.getsize(log)
            self.assertEqual(size, 100)
            self.assertEqual(await job.run(range(100), backend=self.backend()), first)
            self.assertEqual(os.path.getsize(log), size)
            os.unlink(log)
            os.unlink(path)
