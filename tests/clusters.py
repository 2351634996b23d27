"""
Dask clusters of real processes on this machine, for tests.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.support import environment

_QUIET = {
    "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "warning",
    "DASK_DISTRIBUTED__SCHEDULER__EVENTS_CLEANUP_DELAY": "1s",
}


class Host(NamedTuple):
    """
    Where a process runs: its address, and what comes before its command.
    """

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


HERE = Host()


class Cluster:
    """
    A scheduler and some workers of one thread each, which C{stop} ends.

    @ivar file: the scheduler file.
    """

    def __init__(
        self, workers: int = 2, options: Sequence[str] = ("--no-nanny",), host: Host = HERE, **environment: str
    ) -> None:
        """
        @param options: of C{dask worker}.
        @param host: of the scheduler.
        @param environment: what else the processes find there.
        """
        self.folder = tempfile.mkdtemp(prefix="txmapreduce-dask-")
        self.file = os.path.join(self.folder, "scheduler.json")
        self.log = os.path.join(self.folder, "log")
        self._options = options
        self._environment = environment
        self.workers: list[subprocess.Popen[bytes]] = []
        atexit.register(self.stop)
        self.scheduler = self._start("scheduler", host, "--port", "0", "--idle-timeout", "600")
        while not os.path.exists(self.file):
            assert self.scheduler.poll() is None, self.said()
            time.sleep(0.02)
        for _ in range(workers):
            self.add()

    def add(self, host: Host = HERE) -> None:
        """
        Start one more worker.
        """
        started = self._start("worker", host, "--nthreads", "1", "--death-timeout", "60", *self._options)
        self.workers.append(started)

    def _start(self, what: str, host: Host, *options: str) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [
                    *host.prefix,
                    sys.executable,
                    "-m",
                    f"distributed.cli.dask_{what}",
                    "--scheduler-file",
                    self.file,
                    "--no-dashboard",
                    "--host",
                    host.address,
                    *(["--local-directory", self.folder] if what == "worker" else []),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(**_QUIET, **self._environment),
            )

    def said(self) -> str:
        """
        What the processes have logged.
        """
        with open(self.log, encoding="utf-8") as log:
            return log.read()

    def stop(self) -> None:
        """
        End all processes, and remove what they left.
        """
        atexit.unregister(self.stop)
        started = [*self.workers, *([self.scheduler] if hasattr(self, "scheduler") else [])]
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


_shared: dict[str, Cluster] = {}


def shared(nanny: str = "--no-nanny") -> Cluster:
    """
    Two workers that all tests share which do them no harm, or with C{--nanny} any that lasts. They end with this
    process.
    """
    if nanny not in _shared:
        _shared[nanny] = Cluster(2, (nanny,))
    return _shared[nanny]
