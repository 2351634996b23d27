"""
What several test modules share: pools that end with their test, properties that run in a thread, scripts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

import txmapreduce
from txmapreduce import Processes
from txmapreduce._shuffle.partition import stable_hash

TOP = Path(txmapreduce.__file__).parent.parent


class PoolCase(TestCase):
    """
    Tests that have two worker processes, C{self.pool}.
    """

    timeout = 60

    def setUp(self) -> None:
        self.pool = self.processes(2)

    def processes(self, workers: int, **options: Any) -> Processes:
        """
        A pool that is closed at the end of the test.
        """
        pool = Processes(workers, **options)
        self.addCleanup(pool.close)
        return pool


@contextmanager
def interruptible() -> Iterator[None]:
    """
    What is started meanwhile heeds SIGINT, though it may be ignored here, as it is below C{nohup} and many a CI system:
    children take that over.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def environment(**extra: str) -> dict[str, str]:
    """
    What a script has to be started with to find the package and the tests.
    """
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOP), str(Path(__file__).parent.parent)]), **extra}


def python(*arguments: str, stdin: str = "", cwd: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    """
    Run Python with C{arguments} to its end.
    """
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=environment(**extra),
    )


def script(folder: str, source: str, name: str = "script.py") -> Path:
    """
    Write a script into a folder that is made for it.
    """
    path = Path(folder).absolute() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source), "utf-8")
    return path


def partition_of(key: Any, npartitions: int) -> int:
    """
    The number of the partition that owns a key.
    """
    return stable_hash(key) * npartitions >> 32
