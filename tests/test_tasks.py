"""
One map or one reduce task in this process: chunks, splits, blocks, bad records, what is held and handed over.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce import MapReduce, Policy, current_task
from txmapreduce._shuffle import tables
from txmapreduce._tasks.runner import EMPTY, STAYS, MapTask, Reduce, Runner, TaskError
from txmapreduce.testing import failing, functions


class Batches:
    """
    A split whose records come in batches.
    """

    nbytes = 1

    def __init__(self, batches: list[list[Any]], blocks: bool = False) -> None:
        self.blocks = blocks
        self._batches = batches

    def read(self) -> Iterator[Any]:
        return (record for batch in self._batches for record in batch)

    def batches(self) -> Iterator[Sequence[Any]]:
        return iter(self._batches)


def runner(mapper: Any, note: Any = None, **options: Any) -> Runner:
    return Runner(MapReduce(mapper, **options).job.program(), note)


def task(first: int = 0, count: int = 1, chunksize: int = 3, hold: bool = False, attempt: int = 1) -> MapTask:
    return MapTask(attempt=attempt, first=first, count=count, chunksize=chunksize, hold=hold)


def where(x: Any) -> tuple[int, int, Any]:
    return current_task().index, current_task().attempt, x


class MapTests(SynchronousTestCase):
    """
    Map tasks.
    """

    def test_chunks(self) -> None:
        """
        A task of several chunks runs each under its own number; the last may be shorter.
        """
        done = runner(where).map(task(first=5, count=3, attempt=2), list("abcdefgh"))
        self.assertEqual(done.partial, [(5 + n // 3, 2, x) for n, x in enumerate("abcdefgh")])
        self.assertEqual((done.records, done.size, done.held), (8, 8, False))

    def test_note(self) -> None:
        """
        The number of the chunk that is running is noted where it can be seen from outside.
        """
        note, seen = [0], []
        runner(lambda x: seen.append(note[0]), note).map(task(first=5, count=3), list("abcdefgh"))
        self.assertEqual(seen, [5, 5, 5, 6, 6, 6, 7, 7])

    def test_batched(self) -> None:
        """
        A batched mapper gets each chunk as a list.
        """
        done = runner(lambda chunk: [chunk], batched=True).map(task(count=3), range(8))
        self.assertEqual(done.partial, [[0, 1, 2], [3, 4, 5], [6, 7]])
        self.assertEqual(done.records, 8)

    def test_split(self) -> None:
        """
        The batches of a split are gone through one after the other, under one number.
        """
        done = runner(where).map(task(first=4), Batches([["a", "b"], ["c"]]))
        self.assertEqual(done.partial, [(4, 1, "a"), (4, 1, "b"), (4, 1, "c")])
        self.assertEqual(done.records, 3)

    def test_batchesOfASplit(self) -> None:
        """
        A batched mapper gets the batches of a split, cut to the size of chunks where that was given.
        """
        batches = [[1, 2, 3], [4]]
        job = {"batched": True}
        whole = runner(lambda chunk: [chunk], **job).map(task(chunksize=0), Batches(batches))
        self.assertEqual(whole.partial, [[1, 2, 3], [4]])
        cut = runner(lambda chunk: [chunk], **job).map(task(chunksize=2), Batches(batches))
        self.assertEqual(cut.partial, [[1, 2], [3], [4]])

    def test_blocks(self) -> None:
        """
        A batched mapper gets a block of bytes at a time, and what it gives is a list of values; without C{batched} a
        block is a record like any other.
        """
        blocks = Batches([[b"a\nb\n", b"c\n"], [b"d"]], blocks=True)
        batched = runner(bytes.splitlines, batched=True).map(task(), blocks)
        self.assertEqual(batched.partial, [b"a", b"b", b"c", b"d"])
        single = runner(len).map(task(), blocks)
        self.assertEqual(single.partial, [4, 2, 1])
        flat = runner(bytes.splitlines, flat=True).map(task(), blocks)
        self.assertEqual(flat.partial, [b"a", b"b", b"c", b"d"])
        keyed = runner(lambda block: [(line, 1) for line in block.split()], batched=True, reduce_by_key=operator.add)
        self.assertEqual(keyed.map(task(), blocks).partial, dict.fromkeys([b"a", b"b", b"c", b"d"], 1))
        skipping = Policy(bad_records="skip")
        for options in ({"batched": True}, {"flat": True}):
            some = runner(bytes.splitlines, policy=skipping, **options).map(task(), blocks)
            self.assertEqual(some.partial, [b"a", b"b", b"c", b"d"])

    def test_failure(self) -> None:
        """
        What the user's code raises is TaskError with the chunk and the number of the record in the task.
        """
        for options in ({}, {"reduce": operator.add}):
            with self.assertRaises(TaskError) as caught:
                runner(failing.fails_at_7, **options).map(task(first=10, count=4), range(12))
            error = caught.exception
            self.assertEqual((error.chunk, error.record, error.stage), (12, 7, "map"))
            self.assertIsInstance(error.__cause__, ValueError)

    def test_not_a_pair(self) -> None:
        """
        What can't be folded by key is no fault of the record that happened to be read last: the pair is named. With
        C{bad_records="skip"} the record that it is from is left out, and no other.
        """
        bad = {7: ["pair"], 8: [([], 1)], 9: 5}
        by_key: list[dict[str, Any]] = [{"reduce_by_key": operator.add}, {"reducer": lambda key, values: [key]}]
        for options in by_key:
            for record, text in (7, "at the pair 'pair'"), (8, "at the pair ([], 1)"):
                with self.assertRaises(TaskError) as caught:
                    runner(lambda x, r=record: bad[r] if x == r else [(x, 1)], **options).map(task(count=4), range(12))
                error = caught.exception
                self.assertEqual((error.chunk, error.record, error.stage), (2, -1, "combine"))
                self.assertIsInstance(error.__cause__, (TypeError, ValueError))
                self.assertIn(text, error.detail)
            policy = Policy(bad_records="skip")
            done = runner(lambda x: bad.get(x, [(x, 1)]), policy=policy, **options).map(task(count=4), range(12))
            self.assertEqual([record for record, _ in done.report.skipped], [7, 8, 9])
            self.assertEqual(len(done.partial), 9)

    def test_stopIteration(self) -> None:
        """
        A StopIteration of the mapper's is a failure wherever it comes: at the first record, midway, at the last.
        """
        for at in range(6):
            for options in ({}, {"reduce": operator.add}, {"flat": True}, {"reduce_by_key": max}):
                with self.assertRaises(TaskError):
                    runner(functions.Stopping(at, options), **options).map(task(count=2), range(6))

    def test_skip(self) -> None:
        """
        Bad records are noted by their number in the task, those of a batch one by one.
        """
        policy = Policy(bad_records="skip")
        done = runner(failing.fails_at_7, policy=policy).map(task(count=4), range(12))
        self.assertEqual(done.partial, [x for x in range(12) if x != 7])
        self.assertEqual([record for record, _ in done.report.skipped], [7])
        batched = runner(failing.fails_in_batch, batched=True, policy=policy).map(task(count=4), range(12))
        self.assertEqual(batched.partial, [x % 10 for x in range(12) if x != 7])
        self.assertEqual([record for record, _ in batched.report.skipped], [7])
        self.assertEqual((done.records, batched.records), (12, 12))

    def test_skipAll(self) -> None:
        """
        Nothing may be left.
        """
        policy = Policy(bad_records="skip")
        done = runner(failing.raises_no_text, reduce=operator.add, policy=policy).map(task(), range(3))
        self.assertIs(done.partial, EMPTY)
        self.assertEqual([record for record, _ in done.report.skipped], [0, 1, 2])

    def test_longReason(self) -> None:
        """
        The reason is cut to a length that can be read.
        """
        policy = Policy(bad_records="skip")
        done = runner(len, policy=policy).map(task(), [None, 10**5000])
        self.assertEqual([record for record, _ in done.report.skipped], [0, 1])
        self.assertTrue(all(len(text) < 1000 for _, text in done.report.skipped))

    def test_counters(self) -> None:
        """
        Counters are those of one attempt: the next begins with none, also behind one that failed.
        """
        runs = runner(functions.counting)
        for _ in range(2):
            counters = runs.map(task(), range(3)).report.counters
            self.assertEqual(sorted(counters), [("seen", "records", 3), ("seen", "sum", 3)])
        with self.assertRaises(TaskError):
            runs.map(task(), [1, "2"])
        self.assertEqual(sorted(runs.map(task(), [5]).report.counters)[0], ("seen", "records", 1))

    def test_randomAgain(self) -> None:
        """
        A chunk that is run again draws the same numbers.
        """
        runs = runner(functions.drawn, policy=Policy(seed=1))
        first = runs.map(task(first=3), range(3)).partial
        self.assertEqual(runs.map(task(first=3, attempt=2), range(3)).partial, first)

    def test_noTask(self) -> None:
        """
        Outside of tasks there is no current one, also behind a task that failed.
        """
        with self.assertRaises(TaskError):
            runner(failing.fails_at_7).map(task(), [7])
        with self.assertRaises(RuntimeError):
            current_task()


class HoldTests(SynchronousTestCase):
    """
    What is kept from task to task.
    """

    def test_handOver(self) -> None:
        """
        With C{hold} the values of several tasks come at once, in as many parts as are asked for, and only once.
        """
        runs = runner(functions.pairs_of_numbers, reduce_by_key=operator.add)
        whole = runner(functions.pairs_of_numbers, reduce_by_key=operator.add).map(task(), range(100)).partial
        for start in range(0, 100, 25):
            done = runs.map(task(first=start, hold=True), range(start, start + 25))
            self.assertTrue(done.held)
            self.assertIs(done.partial, EMPTY)
        self.assertEqual(done.size, len(whole))
        parts = runs.hand_over(3)
        self.assertEqual(len(parts), 3)
        cut = [table for part in parts for table in part.tables()]
        self.assertEqual({key: value for table in cut for key, value in table.items()}, whole)
        self.assertEqual(sum(map(len, parts)), len(whole))
        self.assertEqual([len(part) for part in runs.hand_over(2)], [0, 0])

    @given(st.integers(1, 9), st.integers(0, 3), st.integers(1, 4))
    def test_keep(self, npartitions: int, keep: int, every: int) -> None:
        """
        Some parts can be left for folds of their own, and the others be sent.
        """
        runs = runner(functions.pairs_of_numbers, reduce_by_key=operator.add)
        runs.map(task(hold=True), range(100))
        parts = runs.hand_over(npartitions, keep, every)
        kept = [n for n, part in enumerate(parts) if part is STAYS]
        self.assertEqual(kept, list(range(keep, npartitions, every)))
        found: dict[Any, Any] = {}
        for n, part in enumerate(parts):
            here = n in kept
            found.update(tables.whole(runs.fold([] if here else [part], True, own=here, partition=(n, npartitions))))
        expected = runner(functions.pairs_of_numbers, reduce_by_key=operator.add).map(task(), range(100)).partial
        self.assertEqual(found, expected)

    def test_afterAFailure(self) -> None:
        """
        A task that failed leaves nothing behind.
        """
        runs = runner(failing.fails_at_7, reduce=operator.add)
        with self.assertRaises(TaskError):
            runs.map(task(hold=True), range(10))
        runs.map(task(hold=True), [1])
        self.assertEqual(runs.hand_over(1), [1])

    def test_retries(self) -> None:
        """
        Where failed tasks are tried again nothing is held, so that they can't spoil what others gave.
        """
        runs = runner(functions.square, reduce=operator.add, policy=Policy(retry_exceptions=ValueError))
        done = runs.map(task(hold=True), [1, 2])
        self.assertEqual((done.held, done.partial), (False, 5))


class FoldTests(SynchronousTestCase):
    """
    Reduce tasks.
    """

    @given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6))
    def test_fold(self, chunks: list[list[int]]) -> None:
        """
        Folding what chunks gave is folding all of it, in order, however they are cut.
        """
        runs = runner(str, reduce=operator.add, initial="<")
        partials = [runs.map(task(), chunk).partial for chunk in chunks]
        half = len(partials) // 2
        halves = [runs.fold(partials[:half], False), runs.fold(partials[half:], False)]
        self.assertEqual(runs.fold(halves, True), "<" + "".join(str(x) for chunk in chunks for x in chunk))

    @given(st.lists(st.tuples(st.lists(st.integers(0, 99)), st.booleans()), min_size=1, max_size=6))
    def test_partitions(self, chunks: list[tuple[list[int], bool]]) -> None:
        """
        Partials of pairs fold to the same, whether each comes whole, in partitions, or as what is kept here.
        """
        runs = runner(lambda x: [(x % 7, x), (x, 1)], reduce_by_key=operator.add)
        whole = runs.map(task(), [x for records, _ in chunks for x in records]).partial
        (first, cut), *rest = chunks
        runs.map(task(hold=True), first)
        kept, *others = runs.hand_over(3 if cut else 1, 0, 3)
        self.assertIs(kept, STAYS)
        partials = list(others)
        for records, cut in rest:
            table = runs.map(task(), records).partial
            partials.extend(runs.parts(table, 3) if cut else [table])
        self.assertEqual(tables.whole(runs.fold(partials, True, own=True)), whole)

    def test_failure(self) -> None:
        """
        What an operator raises is TaskError without a chunk.
        """
        with self.assertRaises(TaskError) as caught:
            runner(functions.square, reduce=failing.fails_to_add).fold([1, 2], True)
        self.assertEqual((caught.exception.stage, type(caught.exception.__cause__)), ("fold", ArithmeticError))

    def test_nothing(self) -> None:
        """
        Nothing, folded, is EMPTY, or the initial value.
        """
        self.assertIs(runner(str, reduce=operator.add).fold([], True), EMPTY)
        self.assertIs(runner(str, reduce=operator.add).fold([EMPTY, EMPTY], True), EMPTY)
        self.assertEqual(runner(str, reduce=operator.add, initial="z").fold([EMPTY], True), "z")

    def test_initialStays(self) -> None:
        """
        An operator that changes its first operand changes a copy of the initial value.
        """
        aggregate = Reduce(functions.extended, [0])
        self.assertEqual([aggregate.finish([1]), aggregate.finish([2])], [[0, 1], [0, 2]])
