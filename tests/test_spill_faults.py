"""
By-key jobs that spill and write part files, while workers are killed and while the disk is full.

C{SPILL_INSTANTS=100} kills workers at so many instants; by default it is a few.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from tests import spilling, support
from tests.leftovers import NothingLeft, turn
from txmapreduce import MapReduce, PartFiles, Policy, Processes
from txmapreduce.outputs import SUCCESS, Written

INSTANTS = int(os.environ.get("SPILL_INSTANTS", "3"))
"""At how many instants a worker is killed."""


class KilledTests(NothingLeft):
    """
    A worker is killed while a job runs that spills and writes part files.
    """

    timeout = 60 + 10 * INSTANTS

    async def setUp(self) -> None:
        await super().setUp()
        self.top = Path(self.temporary())
        self.spills = self.top / "spills"
        self.folder = self.top / "out"
        self.spills.mkdir(parents=True)
        self.hits: Counter[str] = Counter()

    async def written(self, kind: spilling.Kind, pool: Processes, at: float | None) -> tuple[Written, float]:
        """
        Run a job, and kill one of its workers after so many seconds. Returns what was written and how long that took.
        """
        policy = Policy(spill_folder=self.spills, retries=5, speculate=False)
        output = PartFiles(str(self.folder), *kind.output, overwrite=self.folder.exists())
        begun = reactor.seconds()  # type: ignore[attr-defined]
        run = MapReduce(spilling.pairs, policy=policy, **kind.options).start(
            range(spilling.BLOCKS), backend=pool, output=output
        )
        outcome: list[Any] = []
        result = run.result.addBoth(outcome.append)
        while not outcome:
            self.files = max(self.files, len(list(self.spills.glob("*/*"))))
            if at is not None and reactor.seconds() - begun >= at:  # type: ignore[attr-defined]
                at = self.kill(pool, "map" if run.progress().chunks < spilling.BLOCKS else "reduce")
            await turn(0.002)
        await result
        assert isinstance(outcome[0], Written), outcome
        return outcome[0], reactor.seconds() - begun  # type: ignore[attr-defined]

    def kill(self, pool: Processes, phase: str) -> None:
        """
        Kill one of its workers.
        """
        os.kill(random.choice(pool.pids), signal.SIGKILL)
        self.hits[phase] += 1

    def check(self, kind: spilling.Kind, written: Written) -> None:
        """
        Each record is there once, C{_SUCCESS} was the last file to be made, and nothing else is there.
        """
        expected = kind.expected()
        self.assertTrue(kind.read(str(self.folder)) == expected, kind.output)  # a list of differences would take long
        self.assertEqual(written.records, len(expected))
        names = sorted(Path(part).name for part in written.parts)
        self.assertEqual(len(set(names)), len(names))
        self.assertEqual(sorted(os.listdir(self.folder)), sorted([SUCCESS, *names]))
        made = {path.name: path.stat().st_ctime_ns for path in self.folder.iterdir()}
        self.assertEqual(made[SUCCESS], max(made.values()))
        self.assertEqual(sorted(os.listdir(self.top)), ["out", "spills"])
        self.assertEqual(os.listdir(self.spills), [])

    async def test_killed(self) -> None:
        """
        Whenever that happens, in the map phase or in the reduce phase: each record is written once, C{_SUCCESS} comes
        last, and there is no other file, neither in the output's folder nor in that for spilling.
        """
        for number, kind in enumerate(spilling.KINDS):
            self.files = 0
            async with Processes(2, memory_limit=kind.limit, initializer=kind.initializer) as pool:
                written, seconds = await self.written(kind, pool, None)
                self.check(kind, written)
                self.assertGreater(self.files, 0, f"{kind.output}: nothing was spilled")
                share = sum(self.hits.values()) + len(range(number, INSTANTS, len(spilling.KINDS)))
                while sum(self.hits.values()) < share:
                    if random.random() < 0.5:
                        shutil.rmtree(self.folder)  # otherwise it is replaced
                    written, _ = await self.written(kind, pool, random.uniform(0, seconds))
                    self.check(kind, written)
        if INSTANTS > 5:
            print(f"{self.hits['map']} kills in the map phase, {self.hits['reduce']} in the reduce", file=sys.stderr)


FULL = """
    import json, os, sys
    from pathlib import Path
    import psutil
    from tests import spilling
    from txmapreduce import MapReduce, PartFiles, Policy, Processes

    def run(what, disk):
        policy, output, mapper, how = {}, None, spilling.lines_of_noise, {"flat": True}
        if what == "spill":
            policy, mapper, how = {"spill_folder": disk}, spilling.noise, {"reducer": spilling.largest}
        elif what == "checkpoint":
            policy = {"checkpoint": f"{disk}/journal"}
        else:
            output = PartFiles(f"{disk}/out", what)
        job = MapReduce(mapper, policy=Policy(**policy), **how)
        with Processes(2, memory_limit="72MiB" if what == "spill" else None) as pool:
            job.run_sync(range(400), backend=pool, output=output)

    if __name__ == "__main__":
        what, disk = sys.argv[1:]
        try:
            run(what, disk)
        except Exception as error:
            said = [type(error).__name__, str(error)]
        else:
            said = ["", ""]
        left = sorted(path.name for path in Path(disk).rglob("*"))
        room = os.statvfs(disk)
        print(json.dumps([*said, left, len(psutil.Process().children()), room.f_bavail * room.f_frsize]))
"""


class DiskFullTests(SynchronousTestCase):
    """
    40 MB are to be written to a disk of 16 MiB.
    """

    def full(self, what: str) -> tuple[str, str, list[str], int]:
        """
        Runs a job in a process that sees such a disk. Returns its error and that text; what is left on the disk; and
        how many bytes are free there. No process is left.
        """
        disk = Path(self.mktemp()).absolute()
        disk.mkdir()
        source = support.script(self.mktemp(), FULL)
        mounted = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=16m none "$0" && exec "$@"', str(disk)]
        try:
            subprocess.run([*mounted, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self.skipTest(f"no disk can be mounted here: {error}")
        done = subprocess.run(
            [*mounted, sys.executable, str(source), what, str(disk)],
            capture_output=True,
            text=True,
            timeout=100,
            env=support.environment(),
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        kind, text, left, children, room = json.loads(done.stdout)
        self.assertRegex(text, r"No space left on device.*\([0-9.]+ MiB are free there\)")
        self.assertIn(str(disk), text)
        self.assertEqual(children, 0)
        return kind, text, left, room

    def test_spilling(self) -> None:
        """
        While workers spill: one error, which names the folder and says how much room there is. The run's folder is
        gone, and so is what the output had.
        """
        kind, _, left, room = self.full("spill")
        self.assertEqual((kind, left), ("SpillFailed", []))
        self.assertEqual(room, 16 << 20)

    def test_partFiles(self) -> None:
        """
        So it is while part files are written, of every format.
        """
        for format in "text", "jsonl", "pickle", "parquet":
            kind, text, left, room = self.full(format)
            self.assertEqual((kind, left), ("TaskFailed", []))
            self.assertRegex(text, "the output could not be written in chunk")
            self.assertEqual(room, 16 << 20)

    def test_checkpoint(self) -> None:
        """
        And while a journal is written. That stays, good for as far as it had come.
        """
        kind, _, left, _ = self.full("checkpoint")
        self.assertEqual((kind, left), ("CheckpointFailed", ["journal"]))
