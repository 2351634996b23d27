"""
Tests for L{txmapreduce._schedule.schedule}: events in, instructions out. No clock, no reactor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._schedule import partials
from txmapreduce._schedule import schedule as _schedule
from txmapreduce._schedule.events import (
    Abort,
    Answer,
    Asked,
    Broke,
    Capacity,
    Conclude,
    Deliver,
    Discard,
    Drop,
    Event,
    Finished,
    FoldAttempt,
    Got,
    InputFailed,
    Instruction,
    Kill,
    Lost,
    MapAttempt,
    Outcome,
    Plan,
    Read,
    Secured,
    Started,
    Submit,
    Taken,
    Tick,
    Unable,
    Wake,
)
from txmapreduce._schedule.schedule import Schedule
from txmapreduce.errors import RunTimedOut, TaskFailed, TaskTimedOut, WorkerDied

DIED = WorkerDied("it died")


def mapping(
    id: int,
    first: int,
    count: int = 1,
    *,
    attempt: int = 1,
    lot: int | None = None,
    size: int = 1,
    alone: bool = False,
    backup: bool = False,
) -> Submit:
    """
    What maps some chunks of values or of an ordered fold; carefully, where the first attempt broke.
    """
    careful = attempt > 1 and not backup
    lot = first if lot is None else lot
    return Submit(MapAttempt(id, attempt, lot, first, count, size, False, alone, backup, careful))


def keeping(id: int, first: int) -> Submit:
    """
    What maps a chunk that its worker may keep.
    """
    return Submit(MapAttempt(id, 1, first, first, 1, 1, True))


def folding(id: int, *inputs: str, attempt: int = 1) -> Submit:
    return Submit(FoldAttempt(id, attempt, inputs, None, False, keeps=True))


def last(id: int, *inputs: str, attempt: int = 1, partition: int | None = None) -> Submit:
    return Submit(FoldAttempt(id, attempt, inputs, partition, True))


def asking(id: int, *inputs: str, attempt: int = 1) -> Submit:
    """
    What folds the result so far.
    """
    return Submit(FoldAttempt(id, attempt, inputs, None, True, keeps=True))


def done(id: int, handle: str = "", **outcome: Any) -> Finished:
    return Finished(id, Outcome(handle or f"h{id}", **{"records": 1, **outcome}))


def kept(id: int, handle: str, **outcome: Any) -> Finished:
    return done(id, handle, secure=False, **outcome)


def broke(id: int, chunk: int | None = None, *, retry: bool = True, charge: bool = True) -> Broke:
    return Broke(id, DIED, retry, charge, chunk)


def starved(id: int, chunk: int | None = None) -> Broke:
    return Broke(id, DIED, True, True, chunk, out_of_memory=True)


class Case(SynchronousTestCase):
    """
    What the tests of a schedule share. Chunks have a fixed size of one record and tasks one chunk, unless said
    otherwise.
    """

    def begin(self, **plan: Any) -> None:
        """
        A new schedule, at time 0.
        """
        values = {"collects": True, "ordered": False, "chunksize": 1, "bundle": False}
        self.schedule = Schedule(Plan(**{**values, **plan}), 0.0)

    def tell(self, *events: Event, now: float = 0.0) -> list[Instruction]:
        """
        What it says to the events.
        """
        return [instruction for event in events for instruction in self.schedule.handle(event, now)]

    def says(self, *events: Event, then: list[Instruction], now: float = 0.0) -> None:
        """
        To these events it says just that.
        """
        self.assertEqual(self.tell(*events, now=now), then)

    def read(self, count: int, workers: int = 1) -> None:
        """
        Have that many chunks read, and the end, whatever it says: attempts 1 to C{count}.
        """
        self.tell(Capacity(max(workers, count)))
        self.tell(*(Got(lot, 1, lot == count - 1) for lot in range(count)))
        self.tell(Capacity(workers))


class ReadingTests(Case):
    """
    What is read, and when.
    """

    def test_twoPerWorker(self) -> None:
        """
        Two tasks per worker, no more, one read after the other.
        """
        self.begin()
        self.assertEqual(self.schedule.start(), [])
        self.says(Capacity(1), then=[Read(0, 1)])
        self.says(Got(0, 1, False), then=[mapping(1, 0), Read(1, 1)])
        self.says(Got(1, 1, False), then=[mapping(2, 1)])
        self.says(done(2), then=[Drop(1), Read(2, 1)])
        self.says(Got(2, 1, False), then=[mapping(3, 2)])

    def test_noWorkers(self) -> None:
        """
        Nothing is read as long as nobody can work on it.
        """
        self.begin()
        self.says(Capacity(0), then=[])
        self.says(Capacity(2), then=[Read(0, 1)])

    def test_capacityGrows(self) -> None:
        """
        More workers, more is read at once.
        """
        self.begin()
        self.tell(Capacity(1), Got(0, 1, False), Got(1, 1, False))
        self.says(Capacity(2), then=[Read(2, 1)])

    def test_capacityShrinks(self) -> None:
        """
        What has been handed out stays so; what comes then waits for its turn.
        """
        self.begin()
        self.tell(Capacity(2), Got(0, 1, False), Got(1, 1, False))
        self.says(Capacity(0), Got(2, 1, False), done(1), then=[Drop(0), Deliver("h1")])
        self.says(Capacity(1), then=[mapping(3, 2)])

    def test_oneReadAtATime(self) -> None:
        """
        However long the input takes.
        """
        self.begin()
        self.says(Capacity(5), then=[Read(0, 1)])
        self.says(Capacity(6), Capacity(7), then=[])

    def test_empty(self) -> None:
        """
        Without records there is nothing to do: the list is empty.
        """
        self.begin()
        self.says(Capacity(1), Got(0, 0, True), then=[Read(0, 1), Conclude(())])
        self.assertTrue(self.schedule.over)
        self.assertEqual(self.schedule.chunks_total, 0)

    def test_emptyFold(self) -> None:
        """
        What no values fold to, the workers know.
        """
        for ordered in (True, False):
            self.begin(collects=False, ordered=ordered)
            self.tell(Capacity(1))
            self.says(Got(0, 0, True), then=[last(2)])
            self.says(done(2), then=[Conclude(("h2",))])

    def test_chunkNumbers(self) -> None:
        """
        A read of several chunks of a fixed size makes one task of them, the last of which may be shorter.
        """
        self.begin(chunksize=10, bundle=True)
        self.tell(Capacity(1))
        self.says(Got(0, 45, False), then=[mapping(1, 0, 5, size=10), Read(1, 10)])
        self.says(Got(1, 10, False), then=[mapping(2, 5, lot=1, size=10)])
        self.assertEqual(self.schedule.next_chunk, 6)
        self.assertIsNone(self.schedule.chunks_total)

    def test_automatic(self) -> None:
        """
        Without a chunksize a read is a chunk.
        """
        self.begin(chunksize=None)
        self.tell(Capacity(1))
        self.says(Got(0, 1, False), then=[mapping(1, 0), Read(1, 1)])
        self.says(done(1, seconds=0.02), then=[Drop(0), Deliver("h1")])
        self.says(Got(1, 1, False), then=[mapping(2, 1), Read(2, 4)])
        self.says(Got(2, 4, False), then=[mapping(3, 2, size=4)])

    def test_splits(self) -> None:
        """
        A split is a chunk.
        """
        self.begin(chunksize=None, splits=True)
        self.tell(Capacity(1))
        self.says(Got(0, 1, False), then=[mapping(1, 0, size=0), Read(1, 1)])
        self.tell(done(1, records=1000, skipped=((999, "bad"),)))
        self.assertEqual([(bad.chunk, bad.record) for bad in self.schedule.tally.skipped], [(0, 999)])
        self.assertEqual(self.schedule.tally.records, 1000)

    def test_endWithLastRecords(self) -> None:
        """
        The end may be told together with the last records: then nothing is asked for any more.
        """
        self.begin()
        self.tell(Capacity(1))
        self.says(Got(0, 1, True), then=[mapping(1, 0)])
        self.assertEqual(self.schedule.chunks_total, 1)
        self.says(done(1), then=[Drop(0), Deliver("h1"), Conclude(())])

    def test_inputFails(self) -> None:
        """
        The input's own error ends the run.
        """
        self.begin()
        self.tell(Capacity(1), Got(0, 1, False))
        error = ValueError("input")
        self.says(InputFailed(error), then=[Abort(error)])
        self.says(done(1), Got(1, 1, False), then=[])

    def test_backendUnable(self) -> None:
        """
        So does the backend's, when it can't go on.
        """
        self.begin()
        self.tell(Capacity(1), Got(0, 1, False))
        self.says(Unable(DIED), then=[Abort(DIED)])

    def test_buffersize(self) -> None:
        """
        No more chunks ahead of the results than that, in bundles or not.
        """
        self.begin(buffersize=3, chunksize=10, bundle=True)
        self.says(Capacity(5), then=[Read(0, 10)])
        self.tell(Got(0, 10, False))
        self.says(done(1, records=10, seconds=0.0001), then=[Drop(0), Deliver("h1")])
        self.tell(Got(1, 10, False))
        self.says(done(2, records=10, seconds=0.0001), then=[Drop(1), Deliver("h2")])
        self.says(Got(2, 10, False), then=[mapping(3, 2, size=10), Read(3, 20)])
        self.says(Got(3, 20, False), then=[mapping(4, 3, 2, lot=3, size=10)])
        self.says(done(3, records=10), then=[Drop(2), Deliver("h3"), Read(4, 10)])


class DeliveryTests(Case):
    """
    Where results go.
    """

    def test_inOrder(self) -> None:
        """
        In input order, however they come.
        """
        self.begin()
        self.read(3, 2)
        self.says(done(3), done(2), then=[Drop(2), Drop(1)])
        self.says(done(1), then=[Drop(0), *map(Deliver, ["h1", "h2", "h3"]), Conclude(())])

    def test_asTheyCome(self) -> None:
        """
        As they come, where order does not matter.
        """
        self.begin(in_order=False, streams=True)
        self.read(2)
        self.says(done(2), then=[Drop(1), Deliver("h2")])
        self.says(done(1), then=[Drop(0), Deliver("h1"), Conclude(())])

    def test_streamWaits(self) -> None:
        """
        Nothing is read while as many results wait as there are tasks for the workers.
        """
        self.begin(streams=True)
        self.tell(Capacity(1), Got(0, 1, False), Got(1, 1, False))
        self.says(done(1), Got(2, 1, False), then=[Drop(0), Deliver("h1"), Read(2, 1), mapping(3, 2)])
        self.says(done(2), then=[Drop(1), Deliver("h2")])
        self.says(done(3), then=[Drop(2), Deliver("h3")])
        self.says(Taken(1), then=[])
        self.says(Taken(1), then=[Read(3, 1)])

    def test_streamWaitsForTurn(self) -> None:
        """
        Results that wait for an earlier one count, too: nothing runs away from a chunk that takes long.
        """
        self.begin(streams=True)
        self.tell(Capacity(1), Got(0, 1, False), Got(1, 1, False), done(2), Got(2, 1, False))
        self.says(done(3), then=[Drop(2)])
        self.says(done(1), then=[Drop(0), *map(Deliver, ["h1", "h2", "h3"])])
        self.says(Taken(2), then=[Read(3, 1)])

    def test_streamBuffersize(self) -> None:
        """
        With a buffersize of 1 the next chunk is read when the last result has been taken.
        """
        self.begin(streams=True, buffersize=1)
        self.says(Capacity(4), Got(0, 1, False), then=[Read(0, 1), mapping(1, 0)])
        self.says(done(1), then=[Drop(0), Deliver("h1")])
        self.says(Taken(1), then=[Read(1, 1)])

    def test_takenBundles(self) -> None:
        """
        A result that covers several chunks frees room for as many.
        """
        self.begin(streams=True, buffersize=4, bundle=True)
        self.tell(Capacity(1), Got(0, 1, False), done(1, seconds=0.0001), Got(1, 1, False), Taken(1))
        self.says(done(2, seconds=0.0001), then=[Drop(1), Deliver("h2")])
        self.tell(Got(2, 1, False))
        self.says(Taken(1), done(3), then=[Drop(2), Deliver("h3")])
        self.assertEqual(self.tell(Got(3, 3, False)), [mapping(4, 3, 3)])
        self.tell(done(4, records=3))
        self.says(Taken(1), then=[Read(4, 1)])
        self.says(Taken(1), then=[])
        self.says(Got(4, 1, False), then=[mapping(5, 6, lot=4), Read(5, 3)])


class RetryTests(Case):
    """
    Attempts that come to nothing.
    """

    def bundle(self, count: int = 5, **plan: Any) -> None:
        """
        A bundle of chunks that runs as attempt 1, and the end of the input.
        """
        self.begin(bundle=True, **plan)
        self.tell(Capacity(2), Got(0, count, True))

    def test_exactly(self) -> None:
        """
        As often as the policy allows and once more, then its last error.
        """
        self.begin(retries=2)
        self.read(1)
        self.says(broke(1, 0), then=[mapping(2, 0, attempt=2)])
        self.says(broke(2, 0), then=[mapping(3, 0, attempt=3)])
        self.says(broke(3, 0), then=[Abort(DIED)])
        self.assertEqual(self.schedule.retried, 2)

    def test_noRetries(self) -> None:
        """
        With C{retries=0} there is one attempt.
        """
        self.begin(retries=0)
        self.read(1)
        self.says(broke(1, 0), then=[Abort(DIED)])

    def test_notCharged(self) -> None:
        """
        What was nobody's fault is made again, as often as it takes.
        """
        self.begin(retries=0)
        self.read(1)
        for id in range(1, 20):
            self.says(broke(id, charge=False), then=[mapping(id + 1, 0)])

    def test_usersError(self) -> None:
        """
        What the user's function raises ends the run at once.
        """
        self.begin()
        self.read(2)
        self.says(broke(2, 1, retry=False), then=[Abort(DIED)])
        self.says(done(1), Asked(1), Tick(), then=[])

    def test_usersErrorMayBeRetried(self) -> None:
        """
        Where the policy says so it is tried again.
        """
        self.begin(retries=1)
        self.read(1)
        self.says(broke(1, 0), then=[mapping(2, 0, attempt=2)])
        self.says(done(2), then=[Drop(0), Deliver("h2"), Conclude(())])

    def test_chargedAlone(self) -> None:
        """
        Of a bundle the chunk that was running is charged and goes alone, before the others go again for free.
        """
        self.bundle()
        again = [mapping(4, 0, 2, lot=0), mapping(3, 2, attempt=2, lot=0), mapping(2, 3, 2, lot=0)]
        self.says(broke(1, 2), then=again)
        self.says(broke(4, 1), then=[mapping(6, 0, lot=0), mapping(5, 1, attempt=2, lot=0)])
        self.assertEqual(self.tell(done(2), done(3), done(5)), [])
        self.says(done(6), then=[Drop(0), *map(Deliver, ["h6", "h5", "h3", "h2"]), Conclude(())])

    def test_edges(self) -> None:
        """
        The first chunk of a bundle, and the last.
        """
        self.bundle()
        self.says(broke(1, 0), then=[mapping(3, 0, attempt=2), mapping(2, 1, 4, lot=0)])
        self.says(broke(2, 4), then=[mapping(5, 1, 3, lot=0), mapping(4, 4, attempt=2, lot=0)])

    def test_nobodyKnows(self) -> None:
        """
        Where nobody knows the chunk, or it is none of the bundle's, the first is charged.
        """
        for chunk in (None, 77):
            self.bundle()
            self.says(broke(1, chunk), then=[mapping(3, 0, attempt=2), mapping(2, 1, 4, lot=0)])

    def test_bundleNotCharged(self) -> None:
        """
        A bundle that had not begun goes again whole.
        """
        self.bundle()
        self.says(broke(1, charge=False), then=[mapping(2, 0, 5)])

    def test_chargesStay(self) -> None:
        """
        What a chunk was charged in a bundle counts when it goes alone.
        """
        self.bundle(retries=1)
        self.tell(broke(1, 2))
        self.says(broke(3, 2), then=[Abort(DIED)])

    def test_outOfMemory(self) -> None:
        """
        What ran out of memory waits until the others under way have ended; and while it runs nothing else begins.
        """
        self.begin()
        self.read(5, workers=1)
        self.tell(done(3), done(4), done(5))
        self.says(starved(1, 0), then=[])
        self.says(done(2), then=[Drop(1), mapping(6, 0, attempt=2, alone=True)])

    def test_nothingBesideIt(self) -> None:
        """
        Of a bundle the guilty chunk alone goes that way; those before and behind it are mapped when it has ended.
        """
        self.begin(bundle=True)
        self.tell(Capacity(2), Got(0, 5, False))
        first, behind = mapping(4, 0, 2, lot=0), mapping(2, 3, 2, lot=0)
        self.assertIn(first, self.tell(starved(1, 2)))
        self.assertIn(mapping(3, 2, attempt=2, lot=0, alone=True), self.tell(done(4)))
        self.assertIn(behind, self.tell(done(3)))

    def test_beforeReading(self) -> None:
        """
        What has to be made again goes before the input.
        """
        self.begin()
        self.tell(Capacity(1), Got(0, 1, False), Got(1, 1, False))
        self.says(broke(1, 0), then=[mapping(3, 0, attempt=2)])

    def test_lateAndTwice(self) -> None:
        """
        What is told of attempts that have ended, or never were, is not listened to.
        """
        self.begin(task_timeout=5.0)
        self.read(2)
        self.tell(broke(1, 0))
        late = [done(1), broke(1, 0), Started(1), done(99), broke(99, retry=False), Started(99)]
        self.says(*late, Secured("x"), Lost("x"), then=[])
        self.says(done(2), then=[Drop(1)])
        self.says(done(2, "again"), broke(2, 1), then=[])
        self.assertEqual(self.schedule.tally.chunks, 1)

    def test_badRecords(self) -> None:
        """
        One more bad record than allowed ends the run.
        """
        self.begin(max_bad_records=2)
        self.read(3)
        self.tell(done(1, skipped=((0, "one"),)), done(2, skipped=((0, "two"),)))
        (abort,) = self.tell(done(3, skipped=((0, "three"),)))
        self.assertIsInstance(abort.error, TaskFailed)
        self.assertEqual(str(abort.error), "more than 2 bad records (the policy's max_bad_records); the last: three")
        self.assertEqual(abort.error.chunk, 2)


class TimeTests(Case):
    """
    Limits of time.
    """

    def test_run(self) -> None:
        """
        The run ends when its time is over, however it stands; a clock may be early by a hair.
        """
        self.begin(timeout=10.0)
        self.assertEqual(self.schedule.start(), [Wake(10.0)])
        self.read(1)
        self.says(Tick(), now=9.0, then=[])
        (abort,) = self.tell(Tick(), now=10.0 - 1e-9)
        self.assertIsInstance(abort.error, RunTimedOut)

    def test_task(self) -> None:
        """
        A task is killed when it has run for too long, not when it has waited.
        """
        self.begin(task_timeout=5.0)
        self.read(2)
        self.says(Started(2), now=3.0, then=[Wake(8.0)])
        (kill,) = self.tell(Tick(), now=8.0)
        self.assertEqual((type(kill), kill.id, type(kill.error)), (Kill, 2, TaskTimedOut))
        self.assertEqual((kill.error.chunk, kill.error.attempt), (1, 1))
        self.says(Tick(), now=20.0, then=[])
        self.says(broke(2, 1), now=20.0, then=[mapping(3, 1, attempt=2)])

    def test_oneWake(self) -> None:
        """
        One tick is asked for at a time: for the first of the tasks that still run.
        """
        self.begin(task_timeout=5.0)
        self.read(3, 2)
        self.says(Started(1), now=1.0, then=[Wake(6.0)])
        self.says(Started(2), now=2.0, then=[])
        self.says(Started(3), now=3.0, then=[])
        self.tell(done(1), done(2))
        self.says(Tick(), now=6.0, then=[Wake(8.0)])
        self.tell(done(3), now=7.0)
        self.assertTrue(self.schedule.over)

    def test_nothingRuns(self) -> None:
        """
        When nothing runs no tick is asked for, until something begins.
        """
        self.begin(task_timeout=5.0)
        self.read(2)
        self.tell(Started(1), done(1), now=1.0)
        self.says(Tick(), now=6.0, then=[])
        self.says(Started(2), now=7.0, then=[Wake(12.0)])

    def test_clockSetBack(self) -> None:
        """
        When the clock goes back an earlier tick is asked for.
        """
        self.begin(task_timeout=5.0)
        self.read(2)
        self.says(Started(1), now=3600.0, then=[Wake(3605.0)])
        self.says(Started(2), now=0.0, then=[Wake(5.0)])

    def test_early(self) -> None:
        """
        A tick that comes a hair too early does what it is for.
        """
        self.begin(task_timeout=5.0)
        self.read(1)
        self.tell(Started(1), now=1.0)
        self.assertEqual(len(self.tell(Tick(), now=6.0 - 1e-7)), 1)

    def test_foldAgain(self) -> None:
        """
        A fold that is made again has all its time again.
        """
        self.begin(collects=False, ordered=True, task_timeout=5.0)
        self.read(1)
        self.says(done(1), then=[Drop(0), last(2, "h1")])
        self.tell(Started(2), now=0.0)
        self.says(broke(2), now=4.0, then=[last(3, "h1", attempt=2)])
        self.says(Started(3), now=4.0, then=[])
        self.says(Tick(), now=5.0, then=[Wake(9.0)])


class FoldTests(Case):
    """
    Ordered folds.
    """

    def setUp(self) -> None:
        self.patch(partials, "FAN_IN", 2)
        self.begin(collects=False, ordered=True, retries=1)

    def test_neighbours(self) -> None:
        """
        Neighbours in input order are folded as soon as they are there, then what came of that; at the end all.
        """
        self.read(5)
        self.says(done(2), then=[Drop(1)])
        self.says(done(1), then=[Drop(0), folding(6, "h1", "h2")])
        self.says(done(4), done(3), then=[Drop(3), Drop(2), folding(7, "h3", "h4")])
        self.says(done(7), done(5), then=[Drop(4)])
        self.says(done(6), then=[folding(8, "h6", "h7")])
        self.says(done(8), then=[last(9, "h8", "h5")])
        self.says(done(9), then=[Conclude(("h9",))])

    def test_again(self) -> None:
        """
        A fold that was lost is made again, under an id of its own; late answers of the first are not listened to.
        """
        self.read(3)
        self.tell(done(1), done(2))
        self.says(broke(4), then=[folding(5, "h1", "h2", attempt=2)])
        self.says(done(4, "late"), broke(4), then=[])
        self.says(done(5), done(3), then=[Drop(2), last(6, "h5", "h3")])

    def test_exactly(self) -> None:
        """
        Folds have as many attempts as chunks.
        """
        self.read(3)
        self.tell(done(1), done(2), broke(4))
        self.says(broke(5), then=[Abort(DIED)])

    def test_notCharged(self) -> None:
        """
        A fold that had not begun is not charged.
        """
        self.read(3)
        self.tell(done(1), done(2))
        for id in range(4, 9):
            self.says(broke(id, charge=False), then=[folding(id + 1, "h1", "h2")])

    def test_usersError(self) -> None:
        """
        What the user's function raises in a fold ends the run, while others still run.
        """
        self.read(5)
        self.tell(done(1), done(2), done(3), done(4))
        self.says(broke(6, retry=False), then=[Abort(DIED)])
        self.says(done(7), done(5), broke(7), then=[])

    def test_lastFoldAgain(self) -> None:
        """
        The last fold is made again, too, and ends the run when it can't be.
        """
        self.read(1)
        self.tell(done(1))
        self.says(broke(2), then=[last(3, "h1", attempt=2)])
        self.says(broke(3), then=[Abort(DIED)])


class KeptTests(Case):
    """
    What workers keep.
    """

    def setUp(self) -> None:
        self.patch(partials, "FAN_IN", 2)
        self.patch(_schedule, "MANY_KEYS", 100)
        self.begin(collects=False, ordered=False, retries=1)

    def test_secured(self) -> None:
        """
        Records are needed until what was made of them is secure.
        """
        self.read(2)
        self.says(kept(1, "a"), then=[])
        self.says(kept(2, "a"), then=[last(3, "a")])
        self.says(Secured("a"), then=[Drop(0), Drop(1)])
        self.says(done(3), then=[Conclude(("h3",))])

    def test_lost(self) -> None:
        """
        What is lost is mapped again, in order and for free; it is no longer counted.
        """
        self.read(4, 2)
        counts = {"counters": (("g", "n", 5),), "skipped": ((0, "bad"),)}
        self.tell(kept(1, "a", **counts), kept(2, "b", **counts), kept(3, "a", **counts))
        self.says(Lost("a"), then=[keeping(6, 0), keeping(5, 2)])
        tally = self.schedule.tally
        self.assertEqual((tally.chunks, tally.records, [bad.chunk for bad in tally.skipped]), (1, 1, [1]))
        self.assertEqual(+tally.counters, {("g", "n"): 5})
        self.assertEqual(self.schedule.retried, 2)
        self.says(Lost("a"), then=[])
        self.tell(kept(4, "b"), kept(5, "b"))
        self.says(kept(6, "c"), then=[last(7, "b", "c")])

    def test_lostWhenAsked(self) -> None:
        """
        What a worker may have died of handing over is mapped again by attempts of which nothing is kept, so they are
        charged with it, and the run ends when that happens as often as it may.
        """
        self.begin(collects=False, ordered=False, retries=1)
        self.read(1)
        self.says(kept(1, "a"), then=[last(2, "a")])
        again = replace(keeping(3, 0), attempt=replace(keeping(3, 0).attempt, at_once=True))
        self.assertFalse(again.attempt.may_hold)
        self.assertIn(again, self.tell(Lost("a", asked=True), broke(2, charge=False)))
        self.tell(broke(3, 0))
        self.assertIsInstance(self.tell(broke(4, 0))[-1], Abort)

    def test_lostAfterSecured(self) -> None:
        """
        What is secure can't be lost.
        """
        self.read(2)
        self.tell(kept(1, "a"), Secured("a"))
        self.says(Lost("a"), Secured("a"), then=[])

    def test_secureAtOnce(self) -> None:
        """
        A worker does not have to keep anything.
        """
        self.read(2)
        self.says(done(1), then=[Drop(0)])
        self.says(done(2), then=[Drop(1), folding(3, "h1", "h2")])
        self.says(done(3), then=[last(4, "h3")])

    def test_folded(self) -> None:
        """
        Where much is secure it is folded; what is kept is not.
        """
        self.read(4)
        self.tell(kept(1, "a"), kept(2, "b"), kept(3, "c"), Secured("a"))
        self.says(Secured("c"), then=[Drop(2), folding(5, "a", "c")])
        self.says(kept(4, "b"), then=[])
        self.says(done(5), then=[last(6, "b", "h5")])

    def test_lostInLastFold(self) -> None:
        """
        When inputs of the last fold are lost their chunks are mapped again, and there is another last fold. In whatever
        order it is told, the first one is not listened to any more.
        """
        gone = broke(3, charge=False)
        for events, id in [([Lost("a"), gone], 4), ([Lost("a"), done(3)], 4), ([gone, Lost("a")], 5)]:
            self.begin(collects=False, ordered=False, retries=1)
            self.read(2)
            self.says(kept(1, "a"), kept(2, "b"), then=[last(3, "a", "b")])
            self.assertIn(keeping(id, 0), self.tell(*events))
            self.says(broke(4, charge=False) if id == 5 else Tick(), then=[])
            self.says(kept(id, "c"), then=[last(id + 1, "b", "c")])
            self.says(done(id + 1, "all"), then=[Conclude(("all",))])

    def test_partitions(self) -> None:
        """
        Many keys are folded by partitions, and put together in their order.
        """
        self.read(2)
        self.tell(kept(1, "a", size=60, nparts=2))
        parts = [last(3, "a", "b", partition=0), last(4, "a", "b", partition=1)]
        self.says(kept(2, "b", size=60, nparts=2), then=parts)
        self.says(done(4), then=[])
        self.says(broke(3), then=[last(5, "a", "b", partition=0, attempt=2)])
        self.says(done(5), then=[Conclude(("h5", "h4"))])

    def test_partitionsAreDeliveredEarly(self) -> None:
        """
        Partitions are delivered in their order as they are done. When inputs of the last fold are lost, nothing that
        was delivered counts any more.
        """
        self.read(2)
        self.tell(kept(1, "a", size=60, nparts=3), kept(2, "b", size=60, nparts=3))
        self.says(done(4), then=[])
        self.says(done(3), then=[Deliver("h3"), Deliver("h4")])
        self.assertIn(Discard(), self.tell(Lost("a")))
        self.tell(broke(5, charge=False))
        self.says(kept(6, "c", size=60, nparts=3), then=[last(id, "b", "c", partition=id - 7) for id in (7, 8, 9)])
        self.says(done(7), then=[Deliver("h7")])
        self.says(done(8), then=[Deliver("h8")])
        self.says(done(9), then=[Conclude(("h9",))])

    def test_streamsGetPartitionsAtTheEnd(self) -> None:
        """
        What was read of a stream can't be taken back, so it comes when nothing can be lost.
        """
        self.begin(collects=False, ordered=False, streams=True)
        self.read(2)
        self.tell(kept(1, "a", size=60, nparts=2), kept(2, "b", size=60, nparts=2))
        self.says(done(3), then=[])
        self.says(done(4), then=[Conclude(("h3", "h4"))])

    def test_cutInOtherWays(self) -> None:
        """
        What is not cut in the same number of partitions is folded whole.
        """
        for nparts in (1, 3):
            self.begin(collects=False, ordered=False)
            self.read(2)
            self.tell(kept(1, "a", size=60, nparts=2))
            self.says(kept(2, "b", size=60, nparts=nparts), then=[last(3, "a", "b")])

    def test_fewKeys(self) -> None:
        """
        Few keys are folded whole.
        """
        self.read(2)
        self.tell(kept(1, "a", size=50, nparts=2))
        self.says(kept(2, "b", size=50, nparts=2), then=[last(3, "a", "b")])


class AskedTests(Case):
    """
    The result so far.
    """

    def setUp(self) -> None:
        self.patch(partials, "FAN_IN", 2)

    def test_nothingYet(self) -> None:
        """
        Before the first chunk there is nothing.
        """
        self.begin(collects=False, ordered=True)
        self.says(Asked(7), then=[Answer(7, ())])

    def test_whileFolding(self) -> None:
        """
        What is just being folded is part of it, in its place.
        """
        self.begin(collects=False, ordered=True)
        self.read(4)
        self.tell(done(1), done(2), done(3))
        self.says(Asked(7), then=[asking(6, "h1", "h2", "h3")])
        self.says(done(5), then=[])
        self.says(Asked(8), then=[asking(7, "h5", "h3")])
        self.says(done(6), then=[Answer(7, ("h6",))])
        self.says(done(7), then=[Answer(8, ("h7",))])

    def test_inputsLost(self) -> None:
        """
        When what was kept is lost in the meantime it is the result of what is left, or nothing.
        """
        self.begin(collects=False, ordered=False)
        self.read(3)
        self.tell(kept(1, "a"), kept(2, "b"))
        self.says(Asked(7), then=[asking(4, "a", "b")])
        self.tell(Lost("a"))
        self.says(broke(4, charge=False), then=[asking(7, "b")])
        self.tell(Lost("b"))
        self.assertEqual(self.tell(broke(7, charge=False))[0], Answer(7, ()))

    def test_failed(self) -> None:
        """
        Whoever asked gets to know what went wrong, and the run goes on.
        """
        self.begin(collects=False, ordered=True, retries=1)
        self.read(2)
        self.tell(done(1))
        self.says(Asked(7), then=[asking(3, "h1")])
        self.says(broke(3, retry=False), then=[Answer(7, (), DIED)])
        self.says(Asked(8), then=[asking(4, "h1")])
        self.says(broke(4), then=[asking(6, "h1", attempt=2)])
        self.says(broke(6), then=[Answer(8, (), DIED)])
        self.assertFalse(self.schedule.over)

    def test_end(self) -> None:
        """
        The run does not wait for it.
        """
        self.begin(collects=False, ordered=True)
        self.read(1)
        self.tell(done(1))
        self.says(Asked(7), then=[asking(3, "h1")])
        self.says(done(2), then=[Conclude(("h2",))])
        self.says(done(3), Asked(8), then=[])
