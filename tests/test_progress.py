"""
Watching a run and drawing a bar, with a run that only looks like one and a clock that is moved by hand.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txmapreduce import Inline, MapReduce, progress
from txmapreduce._run.coordinator import Progress
from txmapreduce.errors import BadInput
from txmapreduce.testing._case import in_thread

START = Progress(chunks=0, total=None, records=0, retried=0, skipped=0, seconds=0.0, fraction=None)


@dataclass
class FakeRun:
    """
    Whatever a L{Run} shows of itself.
    """

    now: Progress = START
    result: Deferred[Any] = field(default_factory=Deferred)

    def progress(self) -> Progress:
        return self.now


class WatchTests(SynchronousTestCase):
    """
    L{progress.watch} calls a function.
    """

    def setUp(self) -> None:
        self.run = FakeRun()
        self.clock = Clock()
        self.shown: list[int] = []

    def watch(self) -> None:
        def show(now: Progress) -> None:
            self.shown.append(now.records)

        self.assertIs(progress.watch(self.run, show, interval=2, clock=self.clock), self.run)

    def advance(self, records: int, seconds: float) -> None:
        self.run.now = replace(START, records=records)
        self.clock.advance(seconds)

    def test_shows(self) -> None:
        """
        The function is called at once, at every interval, and with what there was at the end.
        """
        self.watch()
        self.advance(10, 1)
        self.advance(20, 1)
        self.advance(30, 1)
        self.run.result.callback("result")
        self.assertEqual(self.shown, [0, 20, 30])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.successResultOf(self.run.result), "result")

    def test_failure(self) -> None:
        """
        A run that fails stays failed, and nothing is left to be called.
        """
        self.watch()
        self.run.result.errback(ZeroDivisionError())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.failureResultOf(self.run.result, ZeroDivisionError)

    def test_cancelled(self) -> None:
        """
        So does one that is cancelled.
        """
        self.watch()
        self.run.result.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.failureResultOf(self.run.result, CancelledError)

    def test_overAlready(self) -> None:
        """
        A run that is over is shown as it ended.
        """
        self.run.result.callback(1)
        self.watch()
        self.assertEqual(self.shown, [0, 0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_brokenDisplay(self) -> None:
        """
        A function that raises is logged and not called again; the run goes on.
        """
        calls: list[Progress] = []

        def show(now: Progress) -> None:
            calls.append(now)
            raise OSError("the terminal is gone")

        progress.watch(self.run, show, clock=self.clock)
        self.clock.advance(10)
        self.run.result.callback("result")
        self.assertEqual(len(calls), 1)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual(self.successResultOf(self.run.result), "result")

    def test_brokenAtTheEnd(self) -> None:
        """
        Nor does it matter when the function raises at the very end.
        """

        def show(now: Progress) -> None:
            if now.records:
                raise OSError("the terminal is gone")

        progress.watch(self.run, show, clock=self.clock)
        self.run.now = replace(START, records=1)
        self.run.result.callback("result")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.assertEqual(self.successResultOf(self.run.result), "result")


class BarTests(SynchronousTestCase):
    """
    L{progress.bar} draws.
    """

    def setUp(self) -> None:
        self.run = FakeRun()
        self.clock = Clock()
        self.file = StringIO()

    def tearDown(self) -> None:
        if not self.run.result.called:
            self.run.result.callback(None)

    def bar(self) -> None:
        drawn = progress.bar(self.run, title="words", file=self.file, interval=1, clock=self.clock)
        self.assertIs(drawn, self.run)

    def last(self) -> str:
        return self.file.getvalue().rstrip().rpartition("\r")[2]

    def test_fraction(self) -> None:
        """
        Where it is known how much there is, it is a bar with the part that is done.
        """
        self.run.now = replace(START, fraction=0.0)
        self.bar()
        self.run.now = replace(START, fraction=0.5, records=1234, seconds=2.0)
        self.clock.advance(1)
        self.assertRegex(self.last(), r"^words:  50%\|.+\| .*, 1,234 records, 617/s$")

    def test_noFraction(self) -> None:
        """
        Where nobody knows, it is a line that counts; it becomes a bar as soon as somebody does.
        """
        self.bar()
        self.run.now = replace(START, records=5, seconds=1.0)
        self.clock.advance(1)
        self.assertRegex(self.last(), r"^words: [0-9:]+, 5 records, 5/s$")
        self.run.now = replace(START, fraction=0.25)
        self.clock.advance(1)
        self.assertIn(" 25%|", self.last())

    def test_end(self) -> None:
        """
        At the end it shows all there was, ends its line, and lets the result through.
        """
        self.bar()
        self.run.now = replace(START, fraction=1.0, records=9, seconds=3.0)
        self.run.result.callback("result")
        self.assertIn("100%|", self.file.getvalue())
        self.assertTrue(self.file.getvalue().endswith("\n"))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.successResultOf(self.run.result), "result")

    def test_brokenTerminal(self) -> None:
        """
        A terminal that goes away does not end the run.
        """
        self.bar()
        self.file.close()
        self.clock.advance(1)
        self.run.result.callback("result")
        self.flushLoggedErrors(ValueError)
        self.assertEqual(self.successResultOf(self.run.result), "result")

    def test_noThreads(self) -> None:
        """
        A bar leaves neither a thread nor a child process behind.
        """
        before = set(threading.enumerate())
        self.bar()
        self.assertEqual(set(threading.enumerate()) - before, set())

    def test_describe(self) -> None:
        """
        Beside it stand records, and what was retried and skipped where there was something.
        """
        now = replace(START, records=12_000, seconds=2.0, retried=3, skipped=1)
        self.assertEqual(progress.describe(now), "12,000 records, 6,000/s, 3 retried, 1 skipped")
        self.assertEqual(progress.describe(START), "0 records")

    def test_printing(self) -> None:
        """
        What is printed meanwhile comes out in whole lines, the last one too.
        """
        with progress.printing_above(self.file):
            print("one", "two")
            print("three", end="", file=sys.stderr)
            self.assertEqual(self.file.getvalue(), "one two\n")
        self.assertEqual(self.file.getvalue(), "one two\nthree\n")

    def test_noTqdm(self) -> None:
        """
        Without tqdm the error names the extra that brings it.
        """
        self.patch(progress, "_bar_class", None)
        with patch.dict(sys.modules, {"tqdm": None}):
            error = self.assertRaises(BadInput, progress.bar, self.run)
        self.assertIn("pip install 'txmapreduce[progress]'", str(error))


class RunSyncTests(TestCase):
    """
    L{progress.run_sync} is C{run_sync} with a bar.
    """

    async def test_result(self) -> None:
        """
        It gives the same, and has drawn a bar to its end.
        """
        file = StringIO()
        job = MapReduce(abs)
        result = await in_thread(lambda: progress.run_sync(job, [-1, 2], backend=Inline(), file=file))
        self.assertEqual(result, [1, 2])
        self.assertIn("abs: 100%|", file.getvalue())
