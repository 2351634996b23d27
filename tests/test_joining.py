"""
Small splits that follow each other are read as one where a task costs much.
"""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase, TestCase

from txmapreduce import Inline, JsonLines, MapReduce, Policy, TextFiles
from txmapreduce._files.joining import joinable, joined
from txmapreduce._run.feeds import Listed
from txmapreduce._schedule.chunking import Reading
from txmapreduce._schedule.events import Got, Outcome, Plan


class JoinedTests(SynchronousTestCase):
    """
    Splits that are joined.
    """

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.paths = [str(self.folder / name) for name in "abc"]
        for number, path in enumerate(self.paths):
            Path(path).write_text("".join(f"{number}{n}\n" for n in range(100 * number)))

    def test_same(self) -> None:
        """
        However many are joined, they have the records that they have apart, and ranges of one file become one.
        """
        for reader in TextFiles(self.paths), JsonLines(self.paths), TextFiles(self.paths, encoding="utf-16"):
            if reader == TextFiles(self.paths, encoding="utf-16"):
                for path in self.paths:
                    Path(path).write_text(Path(path).read_text("utf-8"), "utf-16")
            splits: list[Any] = list(reader.splits(100))
            self.assertTrue(all(map(joinable, splits, splits[1:])))
            apart = [list(split.read()) for split in splits]
            for count in range(1, len(splits) + 1):
                one = joined(splits[:count])
                self.assertEqual(list(one.read()), list(chain.from_iterable(apart[:count])))
                self.assertEqual(one.nbytes, sum(split.nbytes for split in splits[:count]))
            self.assertEqual([piece[0] for piece in one.pieces], list(map(os.path.abspath, self.paths)))

    def test_apart(self) -> None:
        """
        Those that are read in another way, those from afar and those that are none of files stay apart.
        """
        one, other = (TextFiles(path).splits(100)[0] for path in self.paths[1:])
        self.assertTrue(joinable(one, other))
        self.assertFalse(joinable(one, TextFiles(self.paths[1], blocks=True).splits(100)[0]))
        self.assertFalse(joinable(one, JsonLines(self.paths[1]).splits(100)[0]))
        self.assertFalse(joinable(object(), object()))

    def test_listed(self) -> None:
        """
        As many are taken as were asked for, but not more bytes than the policy's blocksize; there are fewer then.
        """
        splits = TextFiles(self.paths).splits(100)
        total, most = len(splits), 3 * max(split.nbytes for split in splits)
        source = Listed(splits, most)
        taken = [source.take(2), source.take(99), source.take(1)]
        self.assertEqual([each for some in taken for each in some], list(splits[: total - source.left]))
        self.assertEqual((len(taken[0]), len(taken[2])), (2, 1))
        self.assertTrue(2 < len(taken[1]) < 99)
        self.assertLessEqual(sum(split.nbytes for split in taken[1]), most)
        self.assertEqual(source.length, 3 + source.left)


class SizeTests(SynchronousTestCase):
    def test_grows(self) -> None:
        """
        How many splits are one follows the time that they take, and towards the end fewer are.
        """
        reading = Reading(Plan(collects=False, ordered=False, splits=True, joins=True, task_seconds=0.2))
        attempt = reading.got(Got(reading.ask(99).lot, 1, False, "a", 1000), 1)
        assert attempt is not None
        reading.measured(attempt, Outcome(None, records=5000, seconds=0.02))
        self.assertEqual(reading.ask(99).records, 10)
        attempt = reading.got(Got(1, 10, False, "b", 8), 2)
        assert attempt is not None
        self.assertEqual((attempt.first, attempt.count), (1, 1))
        reading.measured(attempt, Outcome(None, records=50_000, seconds=0.4))
        self.assertEqual(reading.ask(99).records, 4)


class Costly(Inline):
    task_seconds = 0.2


class RunTests(TestCase):
    async def test_run(self) -> None:
        """
        A run on a backend whose tasks cost much has fewer chunks, and the same result; where the chunks are part of the
        result, it has as many.
        """
        path = Path(self.mktemp())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{n:09}\n" for n in range(300_000)))
        chunks = []
        for backend, policy in (Inline(), Policy()), (Costly(), Policy()), (Costly(), Policy(reproducible=True)):
            run = MapReduce(int, reduce=max, policy=policy).start(TextFiles(str(path)), backend=backend)
            self.assertEqual(await run.result, 299_999)
            progress = run.progress()
            self.assertEqual((progress.chunks, progress.fraction), (progress.total, 1.0))
            chunks.append(progress.chunks)
        self.assertEqual(chunks[0], chunks[2])
        self.assertLess(chunks[1], chunks[0])
