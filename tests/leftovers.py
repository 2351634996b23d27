"""
That nothing is left over: the base of test cases with real processes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import psutil
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from .support import interruptible

ROOT = Path(__file__).resolve().parent.parent


def turn(seconds: float = 0) -> Deferred[None]:
    """
    Fires in the reactor's next turn.
    """
    return deferLater(reactor, seconds, lambda: None)


def descriptors() -> dict[int, str]:
    """
    The open descriptors of this process, and what they are.
    """
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed the folder
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def alive(pid: int) -> bool:
    """
    Whether there is such a process. A zombie is none.
    """
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids: list[int], within: float) -> list[int]:
    """
    Wait until processes have ended.

    @return: those that have not.
    """
    watched = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            watched.append(psutil.Process(pid))
    _, rest = psutil.wait_procs(watched, within)
    return [process.pid for process in rest if alive(process.pid)]


def children() -> set[psutil.Process]:
    """
    What this process has started, and what that has: zombies, too.
    """
    return set(psutil.Process().children(recursive=True))


class NothingLeft(TestCase):
    """
    A test case that fails when a test leaves a process, a descriptor or a thread behind.
    """

    timeout = 60

    async def setUp(self) -> None:
        await turn()  # the reactor opens its own descriptors first
        self._threads = set(threading.enumerate())
        self._children = children()
        self._descriptors = descriptors()

    async def tearDown(self) -> None:
        for _ in range(3):  # Twisted closes pipes one turn later
            await turn()
        left = [f"{process.pid} {process.status()}" for process in children() - self._children]
        self.assertEqual(left, [], "processes are left")
        new = {fd: what for fd, what in descriptors().items() if self._descriptors.get(fd) != what}
        self.assertEqual(new, {}, "descriptors are left")
        threads = [thread for thread in threading.enumerate() if not thread.name.startswith("PoolThread-twisted")]
        self.assertEqual(set(threads) - self._threads, set(), "threads are left")

    def temporary(self) -> str:
        """
        A path in the test's own folder, where nothing is yet.
        """
        return os.path.abspath(self.mktemp())


class Host:
    """
    A Python process of its own that runs C{code} and tells things line by line. End it with L{end}.
    """

    def __init__(self, case: TestCase, code: str, *arguments: str, **environment: str) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
        with interruptible():
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-c", textwrap.dedent(code), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=env,
                cwd=os.getcwd(),
                start_new_session=True,
            )
        self.pid = self.process.pid
        case.addCleanup(self.end)

    def line(self) -> str:
        """
        The next line that it prints.
        """
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def output(self, within: float = 30) -> str:
        """
        All that it prints until it ends.
        """
        text, _ = self.process.communicate(timeout=within)
        return text

    def end(self) -> None:
        """
        See to it that it has ended.
        """
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
