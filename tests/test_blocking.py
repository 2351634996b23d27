"""
Runs from where there is no reactor: scripts, notebooks, threads, asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.support import PoolCase, environment, interruptible, python, script
from txmapreduce import Inline, MapReduce, Processes
from txmapreduce.errors import TaskFailed
from txmapreduce.testing import failing, functions
from txmapreduce.testing._case import in_thread

JOB = """
from txmapreduce import MapReduce
def double(x):
    return 2 * x
print(MapReduce(double).run_sync(range(4)))
"""


class ThreadTests(PoolCase):
    """
    While the application runs the reactor.
    """

    async def test_inAThread(self) -> None:
        """
        C{run_sync} works in a thread, and raises there what the run fails with.
        """
        job = MapReduce(failing.fails_at_7)
        self.assertEqual(await in_thread(lambda: job.run_sync(range(3), backend=self.pool)), [0, 1, 2])
        with self.assertRaises(TaskFailed):
            await in_thread(lambda: job.run_sync(range(10), backend=self.pool))

    async def test_with(self) -> None:
        """
        At the end of a C{with} block of a script or a thread the pool's workers have ended.
        """

        def block() -> tuple[list[int], list[int], list[int]]:
            with Processes(1) as pool:
                squares = MapReduce(functions.square).run_sync(range(4), backend=pool)
                before = pool.pids
            return squares, before, pool.pids

        squares, before, after = await in_thread(block)
        self.assertEqual((squares, len(before), after), ([0, 1, 4, 9], 1, []))
        self.assertFalse(psutil.pid_exists(before[0]))

    async def test_inTheReactorsThread(self) -> None:
        """
        In the reactor's own thread C{run_sync} is a RuntimeError that says what to do.
        """
        await deferLater(reactor, 0)  # trial calls tests before the reactor runs
        with self.assertRaises(RuntimeError) as caught:
            MapReduce(functions.square).run_sync([1], backend=self.pool)
        self.assertIn("run()", str(caught.exception))
        with self.assertRaises(RuntimeError):
            list(MapReduce(functions.square).stream([1], backend=self.pool))

    async def test_twistedCoroutine(self) -> None:
        """
        A coroutine of Twisted's can await C{run_async}.
        """
        self.assertEqual(await MapReduce(functions.square).run_async(range(4), backend=self.pool), [0, 1, 4, 9])
        with self.assertRaises(TaskFailed):
            await MapReduce(failing.fails_at_7).run_async(range(10), backend=self.pool)

    async def test_asyncioInAThread(self) -> None:
        """
        An asyncio loop in another thread can run jobs on this reactor, and cancel them.
        """

        async def main() -> tuple[list[int], bool]:
            squares = await MapReduce(functions.square).run_async(range(4), backend=self.pool)
            task = asyncio.ensure_future(MapReduce(functions.identity).run_async(iter(int, 1), backend=self.pool))
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return squares, task.cancelled()

        self.assertEqual(await in_thread(asyncio.run, main()), ([0, 1, 4, 9], True))


class InlineThreadTests(TestCase):
    """
    The same without workers.
    """

    async def test_cancelled(self) -> None:
        """
        A run that is cancelled while a thread waits for it raises CancelledError there.
        """
        runs = []

        class Kept(MapReduce):
            def start(self, *args: object, **kwargs: object) -> object:
                runs.append(super().start(*args, **kwargs))  # type: ignore[arg-type]
                return runs[-1]

        def records() -> object:
            while True:
                yield 1
                if len(seen) == 50:
                    runs[0].cancel()
                seen.append(1)

        seen: list[int] = []
        with self.assertRaises(CancelledError):
            await in_thread(lambda: Kept(functions.square).run_sync(records(), backend=Inline()))


class ScriptTests(SynchronousTestCase):
    """
    Scripts, each in a process of its own.
    """

    def check(self, done: subprocess.CompletedProcess[str], stdout: str = "[0, 2, 4, 6]\n") -> None:
        self.assertEqual((done.stdout, done.stderr, done.returncode), (stdout, "", 0))

    def test_waysToStart(self) -> None:
        """
        A job of a function in C{__main__} runs from a file, from C{-c}, C{-m}, standard input and an interactive
        session; and a script without C{if __name__ == "__main__"} does not start itself again.
        """
        path = script(self.mktemp(), JOB)
        self.check(python(str(path)))
        self.check(python("-m", "script", cwd=path.parent))
        self.check(python("-c", JOB))
        self.check(python("-", stdin=JOB))
        self.check(python("-c", f"exec({JOB!r})"))
        done = python("-q", "-i", stdin=JOB.replace("    return 2 * x\n", "    return 2 * x\n\n"))
        self.assertEqual((done.stdout, done.returncode), ("[0, 2, 4, 6]\n", 0), done.stderr)

    def test_twiceAndNothingStays(self) -> None:
        """
        C{run_sync} can be called again and again, and the script ends by itself, with all of its processes.
        """
        done = python(
            "-c",
            """if True:
            import os, json
            from txmapreduce import MapReduce
            job = MapReduce(lambda x: os.getpid())
            first, second = set(job.run_sync(range(100))), set(job.run_sync(range(100)))
            for stream in (job.stream(range(10)), job.stream(iter(int, 1))):
                for pid in stream:
                    second.add(pid)
                    break
            print(json.dumps([os.getpid(), *first, *second]))
            """,
        )
        self.assertEqual((done.stderr, done.returncode), ("", 0))
        pids = json.loads(done.stdout)
        self.assertGreater(len(set(pids)), 1)
        self.assertEqual([pid for pid in pids if psutil.pid_exists(pid)], [])

    def test_failure(self) -> None:
        """
        A script whose job fails ends with the traceback, of the worker's as well, and exit code 1.
        """
        done = python("-c", "from txmapreduce import MapReduce\nMapReduce(lambda x: 1 // x).run_sync([0])")
        self.assertEqual(done.returncode, 1)
        self.assertIn("txmapreduce.errors.TaskFailed", done.stderr)
        self.assertIn("ZeroDivisionError", done.stderr)

    def test_output(self) -> None:
        """
        What a mapper prints shows up on the script's own streams, all of it, also when the script ends right after.
        """
        done = python(
            "-c",
            """if True:
            import sys
            from txmapreduce import MapReduce
            def talk(x):
                print("out", x)
                print("err", x, file=sys.stderr)
            MapReduce(talk).run_sync(range(200))
            """,
        )
        self.assertEqual(done.returncode, 0)
        for stream, name in ((done.stdout, "out"), (done.stderr, "err")):
            self.assertEqual(sorted(stream.splitlines()), sorted(f"{name} {x}" for x in range(200)))

    def test_exit(self) -> None:
        """
        A script that exits with a code ends with that code; sys.exit in a thread's run does no harm.
        """
        done = python(
            "-c",
            "import sys\nfrom txmapreduce import MapReduce\n"
            "sys.exit(MapReduce(lambda x: x, reduce=lambda a, b: a + b).run_sync([3, 4]))",
        )
        self.assertEqual((done.stderr, done.returncode), ("", 7))

    def test_interrupt(self) -> None:
        """
        Ctrl-C ends a script at once, in the midst of a long job, with KeyboardInterrupt and all of its processes.
        """
        path = script(
            self.mktemp(),
            """
            import time
            from pathlib import Path
            from txmapreduce import MapReduce

            def long(x):
                Path(FOLDER, str(x)).touch()
                time.sleep(600)

            FOLDER = str(Path(__file__).parent)
            print("begins", flush=True)
            MapReduce(long).run_sync(range(1, 3))
            """,
        )
        command = [sys.executable, str(path)]
        with interruptible():
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
            )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        family = self.running(process, path.parent / "1")
        self.assertTrue(family)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        self.assertLess(time.monotonic() - began, 5)
        self.assertIn("KeyboardInterrupt", stderr)
        self.assertNotEqual(process.returncode, 0)
        _, alive = psutil.wait_procs(family, timeout=5)
        self.assertEqual(alive, [])

    def running(self, process: subprocess.Popen[str], sign: Path) -> list[psutil.Process]:
        """
        The children of a script, as soon as one of them has left a sign.
        """
        assert process.stdout is not None
        process.stdout.readline()
        while not sign.exists():
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        return psutil.Process(process.pid).children(recursive=True)

    def test_asyncio(self) -> None:
        """
        Under plain asyncio C{run_async} gives results and failures, runs side by side, streams, and is cancelled with
        its task.
        """
        done = python(
            "-c",
            """if True:
            import asyncio, os
            from txmapreduce import MapReduce, Processes
            from txmapreduce.errors import TaskFailed

            async def main():
                double = MapReduce(lambda x: 2 * x)
                assert await double.run_async(range(3)) == [0, 2, 4]
                assert await asyncio.gather(*(double.run_async([n]) for n in range(5))) == [[0], [2], [4], [6], [8]]
                try:
                    await MapReduce(lambda x: 1 // x).run_async([0])
                except TaskFailed as error:
                    assert type(error.__cause__) is ZeroDivisionError
                else:
                    raise AssertionError
                assert [y async for y in double.stream(range(4))] == [0, 2, 4, 6]
                endless = asyncio.ensure_future(double.run_async(iter(int, 1)))
                done, _ = await asyncio.wait([endless], timeout=0.2)
                assert not done
                endless.cancel()
                try:
                    await endless
                except asyncio.CancelledError:
                    pass
                else:
                    raise AssertionError
                try:
                    await asyncio.wait_for(double.run_async(iter(int, 1)), 0.1)
                except asyncio.TimeoutError:
                    pass
                else:
                    raise AssertionError
                async with Processes(1) as pool:
                    assert await double.run_async(range(3), backend=pool) == [0, 2, 4]
                assert pool.pids == []
                print("well")

            asyncio.run(main())
            from txmapreduce import MapReduce
            assert asyncio.run(MapReduce(abs).run_async([-1])) == [1]
            """,
        )
        self.check(done, "well\n")

    def test_asyncioReactor(self) -> None:
        """
        Under Twisted's asyncio reactor C{run_async} can be awaited in a coroutine of asyncio's and in one of
        Twisted's.
        """
        done = python(
            "-c",
            """if True:
            import asyncio
            from twisted.internet import asyncioreactor
            asyncioreactor.install()
            from twisted.internet import reactor
            from twisted.internet.defer import Deferred, ensureDeferred
            from twisted.internet.task import react
            from txmapreduce import MapReduce, Processes
            from txmapreduce.errors import TaskFailed

            double = MapReduce(lambda x: 2 * x)

            async def both(pool):
                assert await double.run_async(range(3), backend=pool) == [0, 2, 4]
                assert [y async for y in double.stream(range(3), backend=pool)] == [0, 2, 4]
                try:
                    await MapReduce(lambda x: 1 // x).run_async([0], backend=pool)
                except TaskFailed as error:
                    assert type(error.__cause__) is ZeroDivisionError
                else:
                    raise AssertionError

            async def main(reactor):
                async with Processes(1) as pool:
                    await Deferred.fromFuture(asyncio.ensure_future(both(pool)))
                    print("asyncio")
                    await both(pool)
                    print("Twisted")

            react(lambda reactor: ensureDeferred(main(reactor)))
            """,
        )
        self.check(done, "asyncio\nTwisted\n")

    def test_threads(self) -> None:
        """
        Threads of a script run jobs at the same time.
        """
        done = python(
            "-c",
            """if True:
            from concurrent.futures import ThreadPoolExecutor
            from txmapreduce import MapReduce
            with ThreadPoolExecutor(4) as threads:
                jobs = [threads.submit(MapReduce(lambda x: 2 * x).run_sync, [n]) for n in range(4)]
                print([value for job in jobs for value in job.result()])
            """,
        )
        self.check(done)

    def test_stoppedReactor(self) -> None:
        """
        When the application has stopped its reactor, C{run_sync} says so.
        """
        done = python(
            "-c",
            """if True:
            from twisted.internet import reactor
            from txmapreduce import MapReduce
            from txmapreduce.errors import BackendUnavailable
            reactor.callWhenRunning(reactor.stop)
            reactor.run()
            try:
                MapReduce(abs).run_sync([1])
            except BackendUnavailable as error:
                print(error)
            """,
        )
        self.assertEqual((done.stderr, done.returncode), ("", 0))
        self.assertIn("stopped", done.stdout)

    def test_fork(self) -> None:
        """
        In a fork of a process that has run a job there is no reactor's thread: that is an error, not a hang.
        """
        done = python(
            "-Wignore::DeprecationWarning",  # Python 3.12 and later warn of the fork
            "-c",
            """if True:
            import os
            from txmapreduce import MapReduce
            from txmapreduce.errors import BackendUnavailable
            MapReduce(abs).run_sync([1])
            if not os.fork():
                try:
                    MapReduce(abs).run_sync([1])
                except BackendUnavailable as error:
                    print(error, flush=True)
                finally:
                    os._exit(0)
            os.wait()
            """,
        )
        self.assertEqual((done.stderr, done.returncode), ("", 0))
        self.assertIn("forked", done.stdout)
