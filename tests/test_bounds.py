"""
That the coordinator's memory, descriptors and threads are bounded whatever happens: L{tests.bounds} with small numbers.
C{scripts/soak} has the large ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

DEATHS = int(os.environ.get("TXMAPREDUCE_SOAK", "40"))


def grown(way: str, size: int) -> dict[str, float]:
    """
    What has grown, in a process of its own.
    """
    command = [sys.executable, "-m", "tests.bounds", way, "--size", str(size)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, timeout=3600).stdout)
    return {name: value for name, value in found.items() if name not in ("way", "seconds each")}


class BoundsTests(SynchronousTestCase):
    """
    Nothing grows but what has to.
    """

    def test_output(self) -> None:
        """
        What workers print goes through, and stays nowhere.
        """
        self.assertLess(grown("flood", 20_000_000)["MiB"], 16)

    def test_stopped_worker(self) -> None:
        """
        What goes through small pipes past a worker that has been stopped does not pile up.
        """
        self.assertLess(grown("stopped", 128 << 20)["MiB"], 64)

    def test_endless_input(self) -> None:
        """
        Of an endless input two chunks are read ahead for each worker, no more.
        """
        found = grown("endless", 2)
        self.assertLessEqual(found["chunks ahead for each worker"], 2)
        self.assertLess(found["MiB"], 5)

    def test_deaths(self) -> None:
        """
        Workers that die leave nothing: no descriptor, no zombie, no thread, and next to no memory. TXMAPREDUCE_SOAK
        says how many of them.
        """
        found = grown("deaths", DEATHS)
        self.assertLess(found.pop("MiB"), 5)
        self.assertEqual(found, {"descriptors": 0, "threads": 0, "zombies": 0})
