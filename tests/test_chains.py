"""
Jobs of several steps: each gives what its steps give one after the other, and nothing in between is left.
"""

from __future__ import annotations

import operator
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from tests.mappers import spills_always
from tests.support import PoolCase
from txmapreduce import Inline, MapReduce, PartFiles, Policy, TextFiles, current_task, join
from txmapreduce._shuffle.interim import SECTION, SMALL_PART, Interim, PartWriter
from txmapreduce._shuffle.spill import Spill, Store
from txmapreduce._tasks.fusing import Fused
from txmapreduce._values.codec import Codec
from txmapreduce.chains import Chain
from txmapreduce.errors import BadInput, SpillFailed, TaskFailed, WorkerDied
from txmapreduce.testing._case import in_thread, until
from txmapreduce.testing.functions import identity, pairs_of_numbers, square, tens


def by_tens(x: int) -> list[tuple[int, int]]:
    return [(x // 10, x)]


def all_of(key: int, values: Iterator[int]) -> Iterator[int]:
    yield from values


def up_to(x: int) -> range:
    return range(x % 4)


def doubled(batch: list[int]) -> list[int]:
    return [2 * x for x in batch]


def ranges(batch: list[int]) -> list[range]:
    return [range(x % 3) for x in batch]


def value_of(pair: tuple[Any, Any]) -> Any:
    return pair[1]


def swapped(pair: tuple[Any, Any]) -> list[tuple[Any, Any]]:
    return [pair[::-1]]


def sorted_values(key: Any, values: Iterator[Any]) -> Iterator[tuple[Any, list[Any]]]:
    yield key, sorted(values)


def long_text(x: int) -> str:
    return f"{x:>400}"


def by_remainder(batch: list[int]) -> list[tuple[int, int]]:
    return [(x % 7, x) for x in batch]


def single_list(x: int) -> list[int]:
    return [x]


def by_key(fold: Callable[[list[int]], int], data: list[int], key: Callable[[int], int]) -> dict[int, int]:
    return {key(x): fold([y for y in data if key(y) == key(x)]) for x in data}


MAPPERS: dict[tuple[bool, bool], tuple[Callable[[Any], Any], Callable[[list[int]], list[int]]]] = {
    (False, False): (square, lambda data: [x * x for x in data]),
    (True, False): (up_to, lambda data: [y for x in data for y in range(x % 4)]),
    (False, True): (doubled, lambda data: [2 * x for x in data]),
    (True, True): (ranges, lambda data: [y for x in data for y in range(x % 3)]),
}
"""By C{flat} and C{batched}: a mapper, and what it comes to."""

kinds = st.sampled_from(sorted(MAPPERS))
numbers = st.lists(st.integers(0, 50), max_size=60)


class LawTests(PoolCase):
    """
    C{job.then(following).run(data)} is C{following.run(job.run(data))}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.backends = [Inline(), self.pool, self.processes(2, initializer=spills_always)]

    async def test_maps(self) -> None:
        """
        Mappers of all kinds, three after one another, which become one step; or three where bad records are skipped.
        """
        policies = st.sampled_from([Policy(), Policy(chunksize=3), Policy(bad_records="skip")])

        @settings(max_examples=120, deadline=None, database=None)
        @given(st.lists(kinds, min_size=3, max_size=3), policies, numbers, st.sampled_from(self.backends))
        def holds(steps: list[tuple[bool, bool]], policy: Policy, data: list[int], backend: Any) -> None:
            job: Any = None
            expected = data
            for flat, batched in steps:
                mapper, meaning = MAPPERS[flat, batched]
                step = MapReduce(mapper, flat=flat, batched=batched, policy=policy)
                job = step if job is None else job.then(step)
                expected = meaning(expected)
            self.assertEqual(len(job.jobs), 3 if policy.bad_records == "skip" else 1)
            self.assertEqual(job.run_sync(data, backend=backend), expected)

        await in_thread(holds)

    async def test_fused_with_reduce(self) -> None:
        """
        A mapper of each kind before each way to reduce, and before mappers by key that take batches.
        """
        ways: list[tuple[dict[str, Any], Callable[[list[int]], Any]]] = [
            ({"mapper": square, "reduce": operator.add, "initial": 5}, lambda data: 5 + sum(x * x for x in data)),
            ({"mapper": by_tens, "reducer": all_of}, lambda data: sorted(data, key=tens)),
            ({"mapper": by_tens, "reduce_by_key": max}, lambda data: by_key(max, data, tens)),
            (
                {"mapper": by_remainder, "batched": True, "reduce_by_key": operator.add},
                lambda data: by_key(sum, data, lambda x: x % 7),
            ),
        ]

        @settings(max_examples=100, deadline=None, database=None)
        @given(kinds, st.sampled_from(ways), numbers, st.sampled_from(self.backends))
        def holds(kind: tuple[bool, bool], way: Any, data: list[int], backend: Any) -> None:
            mapper, meaning = MAPPERS[kind]
            options, result = way
            job = MapReduce(mapper, flat=kind[0], batched=kind[1]).then(MapReduce(**options))
            self.assertEqual(len(job.jobs), 1)
            self.assertEqual(job.run_sync(data, backend=backend), result(meaning(data)))

        await in_thread(holds)

    async def test_reduced_records(self) -> None:
        """
        The records of a result: what a reducer yields in its order, the pairs of C{reduce_by_key}, the one value of
        C{reduce}, which may be a list.
        """

        @settings(max_examples=60, deadline=None, database=None)
        @given(numbers, st.sampled_from(self.backends))
        def holds(data: list[int], backend: Any) -> None:
            plain = MapReduce(identity)
            in_order = MapReduce(by_tens, reducer=all_of).then(plain)
            self.assertEqual(in_order.run_sync(data, backend=backend), sorted(data, key=tens))
            summed = MapReduce(by_tens, reduce_by_key=operator.add).then(plain)
            sums = by_key(sum, data, tens)
            self.assertEqual(sorted(summed.run_sync(data, backend=backend)), sorted(sums.items()))
            listed = MapReduce(single_list, reduce=operator.add, initial=[]).then(plain)
            self.assertEqual(listed.run_sync(data, backend=backend), [data])

        await in_thread(holds)

    async def test_many_records(self) -> None:
        """
        What is too much for memory goes through files and comes back whole, each record once.
        """
        job = (
            MapReduce(pairs_of_numbers, reduce_by_key=operator.add)
            .then(MapReduce(swapped, reducer=sorted_values))
            .then(MapReduce(value_of, flat=True, policy=Policy(bad_records="skip")))
        )
        self.assertEqual(len(job.jobs), 3)
        expected = dict[int, int]()
        for x in range(20_000):
            for key, value in pairs_of_numbers(x):
                expected[key] = expected.get(key, 0) + value
        for backend in self.backends:
            result = await job.run(range(20_000), backend=backend)
            self.assertEqual(result, [key for _, key in sorted((value, key) for key, value in expected.items())])

    async def test_large_records(self) -> None:
        """
        A part of many bytes is a file.
        """
        job = MapReduce(long_text, reduce_by_key=None, policy=Policy(bad_records="skip")).then(MapReduce(int))
        for backend in self.backends:
            self.assertEqual(await job.run(range(5000), backend=backend), list(range(5000)))

    async def test_own_classes(self) -> None:
        """
        Instances of classes that go by value are instances of the same classes at every step, also of those that no
        function names.
        """

        class Weight:
            def __init__(self, grams: int) -> None:
                self.grams = grams

        weights = [Weight(n) for n in range(50)]

        def by_last_digit(weight: Any) -> list[tuple[int, Any]]:
            return [(weight.grams % 10, weight)]

        job = MapReduce(by_last_digit, reducer=all_of).then(MapReduce(identity))
        for backend in self.backends:
            result = await job.run(weights, backend=backend)
            self.assertEqual({type(weight) for weight in result}, {Weight})
            self.assertEqual([weight.grams for weight in result], sorted(range(50), key=lambda n: (n % 10, n)))

    async def test_only_data(self) -> None:
        """
        With C{trust="data"} the result has to be plain data, and what lies between steps need not be.
        """
        policy = Policy(trust="data", bad_records="skip")
        job = MapReduce(complex, policy=policy).then(MapReduce(abs, policy=policy))
        for backend in self.backends:
            self.assertEqual(await job.run(range(2000), backend=backend), [float(n) for n in range(2000)])

    async def test_ways(self) -> None:
        """
        All ways to run; what is asked of a run is about all of its steps.
        """

        def counted(pair: tuple[int, int]) -> int:
            current_task().counter("step", "two").increment()
            return pair[0]

        def counting(x: int) -> list[tuple[int, int]]:
            current_task().counter("step", "one").increment()
            return [(x % 5, 1), (x % 3, 1)]

        job = MapReduce(counting, reduce_by_key=operator.add, name="first").then(MapReduce(counted, name="second"))
        for backend in self.backends:
            run = job.start(range(100), backend=backend)
            self.assertIs(await run.partial(), None)
            self.assertEqual(sorted(await run.result), [0, 1, 2, 3, 4])
            self.assertEqual(run.counters, {("step", "one"): 100, ("step", "two"): 5})
            self.assertEqual(sorted(await run.partial()), [0, 1, 2, 3, 4])
            first, second = run.steps
            self.assertEqual((first.name, first.read, first.emitted, first.groups), ("first", 100, 200, 5))
            self.assertTrue(5 <= first.combined <= 200)
            self.assertEqual((second.name, second.read, second.emitted, second.groups), ("second", 5, 5, 0))
            progress = run.progress()
            self.assertEqual((progress.records, progress.fraction), (105, 1.0))
            streamed = [value async for value in job.stream(range(100), backend=backend)]
            self.assertEqual(sorted(streamed), [0, 1, 2, 3, 4])
            self.assertEqual(sorted(await job.run_async(range(100), backend=backend)), [0, 1, 2, 3, 4])

    async def test_joined(self) -> None:
        """
        A join may be the first step.
        """
        job = join([(1, "a"), (2, "b")], [(1, "c"), (1, "d")]).then(MapReduce(value_of))
        for backend in self.backends:
            self.assertEqual(await job.run(backend=backend), [("a", "c"), ("a", "d")])

    async def test_blocks(self) -> None:
        """
        A mapper that takes a block of a text file may be followed by one that takes batches.
        """
        path = Path(self.mktemp())
        path.write_text("one two\nthree\n")
        job = MapReduce(bytes.split, flat=True).then(MapReduce(len)).then(MapReduce(doubled, batched=True))
        for backend in self.backends:
            self.assertEqual(await job.run(TextFiles(str(path), blocks=True), backend=backend), [6, 6, 10])

    async def test_stop_iteration(self) -> None:
        """
        A StopIteration of a mapper's is an error, and not the end of the values.
        """

        def stops(x: int) -> int:
            raise StopIteration

        for first in (MapReduce(stops), MapReduce(up_to, flat=True)):
            job = first.then(MapReduce(stops))
            for backend in self.backends:
                await self.assertFailure(job.run([7], backend=backend), TaskFailed)


class FailureTests(PoolCase):
    """
    Whatever happens in a step ends the run, and leaves nothing.
    """

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.policy = Policy(spill_folder=self.folder, bad_records="skip")

    def tearDown(self) -> None:
        self.assertEqual(list(self.folder.iterdir()), [])

    async def test_files_go(self) -> None:
        """
        Files of a step are there while the next one runs, and go when it has ended: the one after that waits for it.
        """

        def look(_: object) -> int:
            return sum(len(files) for _, _, files in os.walk(folder))

        def wait(seen: int) -> int:
            while look(None):
                time.sleep(0.005)
            return seen

        folder = str(self.folder.absolute())
        looks = MapReduce(look, policy=self.policy)
        job = MapReduce(long_text, policy=self.policy).then(looks).then(MapReduce(wait))
        seen = await job.run(range(3000), backend=self.pool)
        self.assertEqual(len(seen), 3000)
        self.assertGreater(min(seen), 0)

    async def test_second_fails(self) -> None:
        """
        What a later step raises fails the run.
        """

        def fails(text: str) -> int:
            return 1 // 0

        job = MapReduce(long_text, policy=self.policy).then(MapReduce(fails))
        for backend in (self.pool, Inline()):
            error = await self.assertFailure(job.run(range(3000), backend=backend), TaskFailed)
            self.assertIsInstance(error.__cause__, ZeroDivisionError)

    async def test_first_fails(self) -> None:
        """
        What the first step raises does, and an output that had begun is undone; a stream ends with it.
        """

        def fails(x: int) -> list[tuple[int, int]]:
            return 1 // 0  # type: ignore[return-value]

        job = MapReduce(fails, reduce_by_key=operator.add).then(MapReduce(identity))
        output = self.folder / "out"
        for backend in (self.pool, Inline()):
            await self.assertFailure(job.run(range(30), backend=backend, output=PartFiles(output)), TaskFailed)
            with self.assertRaises(TaskFailed):
                async for _ in job.stream(range(30), backend=backend):
                    self.fail("there is nothing to give")

    async def test_output(self) -> None:
        """
        The last step writes the output. A folder that is there is refused before the first step has begun.
        """
        output = Path(self.mktemp())
        job = MapReduce(by_tens, reducer=all_of).then(MapReduce(identity))
        written = await job.run(range(300), backend=self.pool, output=PartFiles(output))
        lines = [line for part in written.parts for line in Path(part).read_text().splitlines()]
        self.assertEqual(list(map(int, lines)), list(range(300)))
        data = iter(range(300))
        await self.assertFailure(job.run(data, backend=self.pool, output=PartFiles(output)), BadInput)
        self.assertEqual(next(data), 0)

    async def test_worker_dies(self) -> None:
        """
        A worker that dies in a later step loses nothing: the step's input is read again.
        """
        flag = self.folder.absolute() / "died"

        def dies_once(text: str) -> int:
            if int(text) == 1234 and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return int(text)

        job = MapReduce(long_text, policy=self.policy).then(MapReduce(dies_once))
        result = await job.run(range(3000), backend=self.pool)
        self.assertTrue(flag.exists())
        flag.unlink()
        self.assertEqual(result, list(range(3000)))

    async def test_poison(self) -> None:
        """
        A record that always kills its worker is named by its place in the result of the step before.
        """

        def dies(text: str) -> None:
            if int(text) == 17:
                os.kill(os.getpid(), signal.SIGKILL)

        job = MapReduce(long_text, policy=self.policy).then(MapReduce(dies, policy=Policy(retries=1)))
        error = await self.assertFailure(job.run(range(100), backend=self.pool), WorkerDied)
        self.assertIn("of step 1's result", str(error))

    async def test_cancel(self) -> None:
        """
        A run can be cancelled in each of its steps, and then all that it used is closed.
        """
        flags = [self.folder.absolute() / name for name in ("one", "two")]

        def touches(number: int) -> Callable[[Any], list[tuple[int, int]]]:
            def touch(x: Any) -> list[tuple[int, int]]:
                flags[number].touch()
                while waits == number:
                    pass
                return [(1, 1)]

            return touch

        for number in (0, 1):
            waits = number
            job = MapReduce(touches(0), reduce_by_key=operator.add).then(MapReduce(touches(1), reduce=operator.add))
            run = job.start(range(10), backend=self.pool)
            await until(flags[number].exists)
            run.cancel()
            await self.assertFailure(run.result, CancelledError)
            for flag in flags:
                flag.unlink(missing_ok=True)

    async def test_empty_reduce(self) -> None:
        """
        A C{reduce} of nothing, without an initial value, is the TypeError that it always is.
        """
        job = MapReduce(identity, reduce=operator.add).then(MapReduce(identity))
        for backend in (self.pool, Inline()):
            await self.assertFailure(job.run([], backend=backend), TypeError)


class BadInputTests(SynchronousTestCase):
    def test_no_job(self) -> None:
        """
        What follows has to be a job.
        """
        job = MapReduce(identity)
        for following in (identity, None, join([], []), job.job):
            error = self.assertRaises(BadInput, job.then, following)
            self.assertIn("then takes a job", str(error))

    def test_policies(self) -> None:
        """
        What can't be had says so, and which job asks for it; where steps become one it can.
        """
        counts = MapReduce(by_tens, reduce_by_key=operator.add)
        for policy in (Policy(reproducible=True), Policy(seed=0), Policy(checkpoint="path")):
            error = self.assertRaises(BadInput, counts.then, MapReduce(identity, policy=policy, name="late"))
            self.assertIn("the policy of late has", str(error))
            both = MapReduce(identity, policy=policy).then(MapReduce(identity, policy=policy))
            self.assertEqual(len(both.jobs), 1)
        first = MapReduce(by_tens, reduce_by_key=operator.add, policy=Policy(checkpoint="path"))
        self.assertRaises(BadInput, first.then, MapReduce(identity))
        MapReduce(by_tens, reduce_by_key=operator.add, policy=Policy(reproducible=True)).then(MapReduce(identity))

    def test_immutable(self) -> None:
        """
        A chain goes on from another one, which stays what it was.
        """
        one = MapReduce(by_tens, reduce_by_key=operator.add, name="one")
        two = one.then(MapReduce(by_tens, reducer=all_of, name="two"))
        three = two.then(MapReduce(identity, name="three"))
        self.assertEqual([repr(chain) for chain in (two, three)], ["<Chain one, two>", "<Chain one, two, three>"])
        self.assertEqual(repr(one.then(two)), "<Chain one, one, two>")
        self.assertIsInstance(three.then(three), Chain)


class FusedTests(SynchronousTestCase):
    def test_single(self) -> None:
        """
        Two mappers of a record are one of a record.
        """
        fused = Fused(square, False, False, up_to, True, False)
        self.assertTrue(fused.single)
        self.assertEqual(fused(5), range(25 % 4))

    def test_empty_batch(self) -> None:
        """
        A mapper of batches is not asked about an empty one.
        """
        fused = Fused(up_to, True, False, max, False, True)
        self.assertEqual(list(fused([0, 4])), [])


class PartTests(SynchronousTestCase):
    """
    L{PartWriter} and the splits that come of its receipts.
    """

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp(dir=self.mktemp_folder())
        codec = Codec()
        self.store = Store(Spill(self.folder, 1 << 30), codec.dumps, codec.loads, lambda: None)

    def mktemp_folder(self) -> str:
        path = self.mktemp()
        os.makedirs(path)
        return path

    def splits(self, records: list[Any], store: Store | None) -> list[Any]:
        return Interim(3).commit([PartWriter(store).write(iter(records), 1)])

    def test_round_trip(self) -> None:
        """
        The records come back in their order, whatever their sizes, from memory and from a file.
        """

        @settings(max_examples=60, deadline=None, database=None)
        @given(st.lists(st.integers(0, 3000), max_size=400), st.booleans())
        def holds(sizes: list[int], in_memory: bool) -> None:
            records = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
            store = None if in_memory else self.store
            splits = self.splits(records, store)
            self.assertEqual([x for split in splits for some in split.batches_in(store) for x in some], records)
            self.assertEqual(bool(splits and splits[0].path), not in_memory and sum(sizes) > SMALL_PART)

        holds()

    def test_several_sections(self) -> None:
        """
        Some hundred records already make several sections, for several workers; many small ones make few.
        """
        self.assertGreater(len(self.splits(list(range(200)), self.store)), 8)
        self.assertLess(len(self.splits(list(range(100_000)), self.store)), 150)

    def test_large_records(self) -> None:
        """
        A section of large records ends early, and blocks have few of them.
        """
        splits = self.splits([b"x" * (1 << 20)] * 40, self.store)
        self.assertLess(max(split.nbytes for split in splits[1:]), 2 * SECTION)

    def test_damaged(self) -> None:
        """
        A file that is not what was written is found out.
        """
        splits = self.splits(list(map(long_text, range(5000))), self.store)
        path = splits[0].path
        with open(path, "r+b") as file:
            file.seek(100_000)
            file.write(b"?")
        with self.assertRaises(SpillFailed):
            for split in splits:
                list(split.batches_in(self.store))
        os.unlink(path)
        self.assertRaises(SpillFailed, list, splits[0].batches_in(self.store))

    def test_nothing_left(self) -> None:
        """
        A part whose records could not be made leaves no file.
        """

        def records() -> Iterator[str]:
            yield from map(long_text, range(5000))
            raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, PartWriter(self.store).write, records(), 1)
        self.assertEqual(os.listdir(self.folder), [])
