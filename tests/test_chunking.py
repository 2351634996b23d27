"""
Tests for L{txmapreduce._schedule.chunking}.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._schedule.chunking import (
    GROWTH,
    LARGEST,
    LARGEST_STREAMED,
    MOST_BYTES,
    SHORTEST,
    TARGET,
    Reading,
    Sizer,
)
from txmapreduce._schedule.events import Drop, Got, MapAttempt, Outcome, Plan, Read


class SizerTests(SynchronousTestCase):
    """
    How large the next task is.
    """

    def sizer(self, units: int, seconds: float, nbytes: int = 0, workers: int = 4, length: int | None = None) -> Sizer:
        sizer = Sizer(workers, length)
        sizer.measured(units, seconds, nbytes)
        return sizer

    def test_nothingMeasured(self) -> None:
        """
        The first tasks have one unit, whatever the length.
        """
        self.assertEqual([Sizer(4, None).next(), Sizer(4, 10**9).next()], [1, 1])

    def test_target(self) -> None:
        """
        Sizes aim at the target time.
        """
        self.assertEqual(self.sizer(128, TARGET / 2).next(), 256)

    def test_slow(self) -> None:
        """
        A unit that takes longer than the target goes alone.
        """
        self.assertEqual(self.sizer(1, 10 * TARGET).next(), 1)

    def test_growth(self) -> None:
        """
        No more than some times what has been measured, however fast that was, nor than the limit.
        """
        self.assertEqual(self.sizer(1, 0.0).next(), GROWTH)
        self.assertEqual(self.sizer(3, 0.0).next(), 3 * GROWTH)
        self.assertEqual(self.sizer(LARGEST, 0.0).next(), LARGEST)

    def test_bytes(self) -> None:
        """
        Large records make small tasks.
        """
        self.assertEqual(self.sizer(1, 0.0, MOST_BYTES // 4).next(), 4)
        self.assertEqual(self.sizer(1, 0.0, 100 * MOST_BYTES).next(), 1)

    def test_end(self) -> None:
        """
        Towards the end of the input tasks get smaller: half of what is left for each worker, but not without limit.
        """
        each = SHORTEST / 10
        sizer = self.sizer(1000, 1000 * each, length=800)
        self.assertEqual(sizer.next(), 100)
        sizer.taken(400)
        self.assertEqual(sizer.next(), 50)
        sizer.taken(10_000)
        self.assertEqual(sizer.next(), 10)

    def test_smoothing(self) -> None:
        """
        One odd task does not turn everything over; a much larger sample does.
        """
        sizer = self.sizer(100, 100 * TARGET / 100)
        sizer.measured(100, 100 * TARGET / 50, 0)
        self.assertTrue(50 < sizer.next() < 100, sizer.next())
        sizer.measured(1000, 1000 * TARGET / 400, 0)
        self.assertEqual(sizer.next(), 400)

    def test_nothing(self) -> None:
        """
        A task without units says nothing.
        """
        self.assertEqual(self.sizer(0, 5.0).next(), 1)

    @given(
        st.lists(st.tuples(st.integers(0, 10**5), st.floats(0, 1e4), st.integers(0, 10**9)), max_size=10),
        st.none() | st.integers(0, 10**6),
        st.integers(1, 1000),
    )
    def test_always(self, tasks: list[tuple[int, float, int]], length: int | None, workers: int) -> None:
        """
        Whatever is measured, the size is one that can be read.
        """
        sizer = Sizer(workers, length)
        for units, seconds, nbytes in tasks:
            sizer.taken(units)
            sizer.measured(units, seconds, nbytes)
            self.assertTrue(1 <= sizer.next() <= LARGEST)


class ReadingTests(SynchronousTestCase):
    """
    What is read, and which numbers its chunks have.
    """

    def reading(self, **plan: Any) -> Reading:
        return Reading(Plan(**{"collects": True, "ordered": False, **plan}))

    def measured(self, reading: Reading, units: int) -> None:
        """
        Tasks of so many units take the target time.
        """
        attempt = MapAttempt(0, 1, 0, 0, units, 1, False)
        reading.measured(attempt, Outcome(None, records=units, seconds=TARGET))

    def test_automatic(self) -> None:
        """
        Without a chunksize each read is one chunk, as large as the sizer says.
        """
        reading = self.reading()
        self.assertEqual(reading.ask(10), Read(0, 1))
        self.assertEqual(reading.got(Got(0, 1, False), 7), MapAttempt(7, 1, 0, 0, 1, 1, False))
        self.measured(reading, 300)
        self.assertEqual(reading.ask(10), Read(1, 300))
        self.assertEqual(reading.got(Got(1, 200, False), 8), MapAttempt(8, 1, 1, 1, 1, 200, False))
        self.assertEqual(reading.next_chunk, 2)

    def test_streamed(self) -> None:
        """
        Where results are taken one by one, fewer records are read at once, however quick they are.
        """
        for plan, expected in (({}, LARGEST_STREAMED), ({"chunksize": 1000}, 4000), ({"chunksize": 10_000}, 10_000)):
            reading = self.reading(streams=True, **plan)
            reading.ask(10)
            reading.got(Got(0, 1, False), 7)
            self.measured(reading, LARGEST)
            reading._sizer.measured(LARGEST, 0.001, 0)
            self.assertEqual(reading.ask(10_000).records, expected, f"{plan}")

    def test_fixed(self) -> None:
        """
        Of a fixed chunksize a read takes as many as the sizer says, no more than there is room for.
        """
        reading = self.reading(chunksize=10)
        self.assertEqual(reading.ask(50), Read(0, 10))
        reading.got(Got(0, 10, False), 1)
        self.measured(reading, 20)
        self.assertEqual(reading.ask(50), Read(1, 200))
        self.assertEqual(reading.got(Got(1, 195, False), 2), MapAttempt(2, 1, 1, 1, 20, 10, False))
        self.assertEqual(reading.ask(3), Read(2, 30))

    def test_noBundle(self) -> None:
        """
        A chunk a read where they may not be bundled.
        """
        reading = self.reading(chunksize=10, bundle=False)
        self.measured(reading, 20)
        self.assertEqual(reading.ask(50), Read(0, 10))

    def test_splits(self) -> None:
        """
        A split is a chunk. Without a chunksize its records are not cut.
        """
        reading = self.reading(splits=True)
        self.measured(reading, 20)
        self.assertEqual(reading.ask(50), Read(0, 1))
        self.assertEqual(reading.got(Got(0, 1, False), 1), MapAttempt(1, 1, 0, 0, 1, 0, False))
        cut = self.reading(splits=True, chunksize=5)
        self.assertEqual(cut.ask(50), Read(0, 1))
        self.assertEqual(cut.got(Got(0, 1, False), 1), MapAttempt(1, 1, 0, 0, 1, 5, False))

    def test_hold(self) -> None:
        """
        Workers may keep what is folded in any order.
        """
        for collects, ordered, hold in [(True, False, False), (False, True, False), (False, False, True)]:
            reading = self.reading(collects=collects, ordered=ordered)
            reading.ask(1)
            attempt = reading.got(Got(0, 1, False), 1)
            assert attempt is not None
            self.assertEqual(attempt.hold, hold)

    def test_end(self) -> None:
        """
        The end comes with no records or with the last of them.
        """
        reading = self.reading()
        reading.ask(1)
        self.assertEqual((reading.pending, reading.ended), (True, False))
        self.assertIsNone(reading.got(Got(0, 0, True), 1))
        self.assertEqual((reading.pending, reading.ended, reading.next_chunk), (False, True, 0))
        other = self.reading()
        other.ask(1)
        self.assertIsNotNone(other.got(Got(0, 1, True), 1))
        self.assertEqual((other.ended, other.next_chunk), (True, 1))

    def test_release(self) -> None:
        """
        A lot is dropped when none of its chunks is needed any more.
        """
        reading = self.reading(chunksize=2)
        reading.ask(5)
        whole = reading.got(Got(0, 6, False), 1)
        assert whole is not None
        part = MapAttempt(2, 1, 0, 0, 1, 2, False)
        rest = MapAttempt(3, 1, 0, 1, 2, 2, False)
        self.assertEqual(reading.release(part), [])
        self.assertEqual(reading.release(rest), [Drop(0)])
