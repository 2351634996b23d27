"""
What else can go wrong around a run: in the functions, in the surroundings, and with many runs at once. The rest of the
catalogue is in L{tests.test_faults}; C{docs/promises.md} says where each promise is held.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import SynchronousTestCase

from txmapreduce import MapReduce, Policy
from txmapreduce.errors import TaskFailed

from . import naughty
from .support import python, script
from .test_faults import ONE, FaultCase


class FunctionTests(FaultCase):
    """
    Functions that are hard to send.
    """

    async def test_module_not_found(self) -> None:
        """
        A function that needs a module which the worker can't find is one error, with Python's own as its cause; no
        chunk is tried again for it, and the pool goes on.
        """

        def mapper(record: int) -> object:
            import not_to_be_found  # type: ignore[import-not-found]

            return not_to_be_found

        pool = self.pool()
        run = MapReduce(mapper, policy=ONE).start(range(10), backend=pool)
        error = await self.assertFailure(run.result, TaskFailed)
        self.assertIsInstance(error.__cause__, ModuleNotFoundError)
        self.assertIn("not_to_be_found", str(error))
        self.assertEqual(run.progress().retried, 0)
        self.assertEqual(await MapReduce(abs).run([-1], backend=pool), [1])

    async def test_module_that_is_gone(self) -> None:
        """
        What came from a module that can no more be found is sent whole.
        """
        path = script(self.temporary(), "def double(x):\n    return 2 * x\n", "here_only.py")
        sys.path.insert(0, str(path.parent))
        self.addCleanup(sys.modules.pop, "here_only")
        try:
            import here_only  # type: ignore[import-not-found]
        finally:
            sys.path.remove(str(path.parent))
        path.unlink()
        self.assertEqual(await MapReduce(here_only.double).run(range(3), backend=self.pool(1)), [0, 2, 4])

    async def test_large_closure(self) -> None:
        """
        A closure of 200 MB is sent once to each worker, not with each chunk.
        """
        large = os.urandom(1 << 20) * 200
        pool = self.pool()
        run = MapReduce(lambda n: len(large) + n, policy=ONE).start(range(40), backend=pool)
        self.assertEqual(await run.result, [len(large) + n for n in range(40)])
        for slot in pool._pool._slots:  # type: ignore[union-attr]
            read = dict(line.split(": ") for line in Path(f"/proc/{slot.child.pid}/io").read_text().splitlines())
            self.assertLess(int(read["rchar"]), 2 * len(large))


class SurroundingsTests(FaultCase):
    """
    What is odd around the process.
    """

    async def test_clock_set_back(self) -> None:
        """
        That the clock of the wall is set back an hour amid a run costs the run nothing.
        """
        rightly, since = reactor.seconds, time.monotonic()  # type: ignore[attr-defined]
        self.patch(reactor, "seconds", lambda: rightly() - 3600 * (time.monotonic() - since > 0.2))
        mapper = naughty.slow_pid_of
        run = MapReduce(mapper, policy=Policy(chunksize=1, task_timeout=30)).run(range(20), backend=self.pool())
        self.assertEqual(len(await run), 20)


UNGUARDED = """
from txmapreduce import MapReduce, Processes
print("started", flush=True)
def double(x):
    return 2 * x
with Processes(2) as pool:
    print(MapReduce(double).run_sync(range(4), backend=pool))
"""

NOTEBOOK = """
import sys, types
cells = [
    "from txmapreduce import MapReduce, Processes",
    "factor = 2\\nclass Point:\\n    def __init__(self, x):\\n        self.x = x",
    "def double(x):\\n    return Point(factor * x)",
    "with Processes(2) as pool:\\n    points = MapReduce(double).run_sync(range(4), backend=pool)",
    "factor = 3",
    "with Processes(2) as pool:\\n    more = MapReduce(double).run_sync(range(4), backend=pool)",
    "print([p.x for p in points], [p.x for p in more], all(isinstance(p, Point) for p in points + more))",
]
main = sys.modules["__main__"] = types.ModuleType("__main__")  # as IPython has it: without a file
for number, cell in enumerate(cells):
    exec(compile(cell, f"<cell {number}>", "exec"), main.__dict__)
"""

INSIDE = """
from txmapreduce import MapReduce, Processes
def inner(x):
    return x + 1
def outer(x):
    with Processes(1) as pool:
        return sum(MapReduce(inner).run_sync(range(x), backend=pool))
with Processes(2) as pool:
    print(MapReduce(outer).run_sync(range(4), backend=pool))
"""


class ScriptTests(SynchronousTestCase):
    """
    Programs that are started in odd ways.
    """

    def assertPrints(self, source: str, expected: list[str], **environment: str) -> None:
        done = python(str(script(self.mktemp(), source)), **environment)
        self.assertEqual((done.stdout.splitlines(), done.returncode), (expected, 0), done.stderr)

    def test_unguarded(self) -> None:
        """
        A script without C{if __name__ == "__main__"} does not start itself again.
        """
        self.assertPrints(UNGUARDED, ["started", "[0, 2, 4, 6]"])

    def test_notebook(self) -> None:
        """
        Functions and classes of a C{__main__} without a file are sent as they are in that moment.
        """
        self.assertPrints(NOTEBOOK, ["[0, 2, 4, 6] [0, 3, 6, 9] True"])

    def test_inside_a_worker(self) -> None:
        """
        A mapper can run a job of its own; nothing of it stays.
        """
        self.assertPrints(INSIDE, ["[0, 1, 3, 6]"])

    def test_temporary_folder(self) -> None:
        """
        A temporary folder in which nothing can be made is not needed for a run.
        """
        self.assertPrints(UNGUARDED, ["started", "[0, 2, 4, 6]"], TMPDIR="/proc/none")


class ManyTests(FaultCase):
    """
    Many runs at once.
    """

    async def test_hundred_runs(self) -> None:
        """
        A hundred runs on one pool at the same time, some of which fail: each has its own result or error.
        """
        pool = self.pool()
        runs = []
        for number in range(100):
            if number % 10 == 3:
                failing = MapReduce(naughty.raising_value, policy=ONE).run([number], backend=pool)
                runs.append(self.assertFailure(failing, TaskFailed).addCallback(lambda error: str(error.__cause__)))
            else:
                job = MapReduce(abs, reduce=max, policy=Policy(chunksize=7))
                runs.append(job.run(range(-number, 20), backend=pool))
        found = await gatherResults(runs)
        expected = [str(number) if number % 10 == 3 else max(number, 19) for number in range(100)]
        self.assertEqual(found, expected)
