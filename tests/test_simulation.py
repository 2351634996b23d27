"""
The schedule keeps its promises whatever happens to the workers: many simulated runs. See L{tests.simulation}.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from tests import simulation
from tests.simulation import Simulation, Wrong, batch, speed
from txmapreduce._schedule.chunking import Reading
from txmapreduce._schedule.partials import Tree
from txmapreduce._schedule.schedule import Schedule

RUNS = 1000


class SimulationTests(SynchronousTestCase):
    def test_manyRuns(self) -> None:
        """
        Every run gives what plain Python gives, or the one error that it has to.
        """
        _, wrong, kinds = batch(range(RUNS))
        self.assertEqual(wrong[:1], [])
        self.assertGreater(kinds.pop("deliveries discarded"), RUNS // 500, kinds)
        self.assertGreater(min(kinds.values()), RUNS // 100, kinds)

    def test_sameStory(self) -> None:
        """
        A seed tells the same story each time.
        """
        one, other = Simulation(8), Simulation(8)
        one.run()
        other.run()
        self.assertEqual(one.told().splitlines()[2:], other.told().splitlines()[2:])

    def test_largeRun(self) -> None:
        """
        Thousands of workers: an event each for what is read, begins and ends, and few more.
        """
        for collects in (True, False):
            events, _ = speed(5_000, 2_000, collects=collects, ordered=False)
            self.assertLess(events, 3 * 5_000 + 10)


class CheckTests(SynchronousTestCase):
    """
    The simulation sees what goes wrong, and tells the story of it.
    """

    def assertSeen(self, expected: str, runs: int = 60) -> None:
        _, wrong, _ = batch(range(runs))
        self.assertTrue([story for story in wrong if expected in story.split("\n", 1)[0]], [w[:200] for w in wrong])

    def test_countedTwice(self) -> None:
        """
        Somebody who listens to what is told of attempts that have ended.
        """
        end = Schedule._end_attempt

        def listens(schedule: Schedule, id: int, *rest: Any) -> object:
            return vars(schedule).setdefault("ended", {}).setdefault(id, end(schedule, id, *rest))

        with patch.object(Schedule, "_end_attempt", listens):
            self.assertSeen("chunks counted twice")

    def test_wrongOrder(self) -> None:
        """
        Partials that change places.
        """
        rightly = Tree.all
        with patch.object(Tree, "all", lambda tree: rightly(tree)[::-1]):
            self.assertSeen(" is not ")

    def test_hangs(self) -> None:
        """
        Something that is never made again.
        """
        # Few events are enough: backups of backups, which nobody counts then, would go on for ever.
        with patch.object(Schedule, "_broken_map", lambda *_: None), patch.object(simulation, "MOST_EVENTS", 2000):
            self.assertSeen("hung: nothing will happen any more")

    def test_tooMuch(self) -> None:
        """
        More than the workers can do with.
        """
        with patch.object(Reading, "room", lambda reading, *_: 0 if reading.pending or reading.ended else 1000):
            self.assertSeen("reads too far ahead")

    def test_story(self) -> None:
        """
        It begins with what is wrong and the seed, and goes on with events, instructions and their times.
        """
        with patch.object(Schedule, "_conclude", lambda _: None):
            error = self.assertRaises(Wrong, Simulation(0).run)
        lines = str(error).splitlines()
        self.assertIn("hung", lines[0])
        self.assertEqual(lines[1], "seed 0")
        self.assertIn("<- Capacity(workers=", lines[3])
        self.assertIn("-> Read(lot=0", lines[4])
