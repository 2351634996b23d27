"""
Measure one run of one system: a fresh interpreter, whose processes are watched from outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from memory import memory_of

__all__ = ["Record", "Run", "adopt_orphans", "measure"]

HERE = Path(__file__).parent
PR_SET_CHILD_SUBREAPER = 36

Record = dict[str, Any]
"""What is known of one run, as it stands in a file of results."""


@dataclass(frozen=True)
class Run:
    """
    What to run.

    @ivar system: what the tables call it.
    @ivar module: where C{function} is.
    @ivar size: as in C{Input.size}.
    """

    system: str
    module: str
    function: str
    workload: str
    size: int
    workers: int


def adopt_orphans() -> None:
    """
    Where the system can, let this process become the parent of all that its descendants leave behind, so that it is
    counted, and ended.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Sampler(threading.Thread):
    """
    Looks at all descendants of this process, often, but never for more than about a tenth of the time.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: dict[psutil.Process, float] = {}
        self.samples: list[tuple[float, int]] = []
        self._own = psutil.Process()
        self._enough = threading.Event()

    def run(self) -> None:
        pause = 0.0
        while not self._enough.wait(pause):
            start = time.perf_counter()
            self.sample()
            pause = max(0.05, 10 * (time.perf_counter() - start))

    def stop(self) -> None:
        self._enough.set()
        self.join()

    def sample(self) -> None:
        """
        Take down the memory of all together, and what CPU time each has had so far.
        """
        total = 0
        for process in self._own.children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):
                times = process.cpu_times()
                self.seen[process] = max(self.seen.get(process, 0.0), times.user + times.system)
                total += memory_of(process)
        self.samples.append((time.perf_counter(), total))

    def peak(self, until: float) -> int:
        """
        The most memory that all had together, up to a moment.
        """
        return max((total for moment, total in self.samples if moment <= until), default=0)

    def kill(self) -> int:
        """
        End what is left of all that was seen, and of all descendants. How many there were.
        """
        left = {*self.seen, *self._own.children(recursive=True)}
        killed = 0
        for process in left:
            with contextlib.suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    process.kill()
                    killed += 1
        return killed


def _environment() -> dict[str, str]:
    path = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONWARNINGS": "ignore"}
    own.pop("PYTHONDONTWRITEBYTECODE", None)  # what is run from its sources would be compiled by every process
    return own


def _command(run: Run, folder: Path) -> list[str]:
    names = [run.module, run.function, run.workload, str(run.size), str(run.workers), str(folder)]
    return [sys.executable, str(HERE / "child.py"), *names]


def _reap(patience: float) -> float:
    """
    Wait for all children. CPU seconds of those that ended, and of theirs.
    """
    cpu, deadline = 0.0, time.perf_counter() + patience
    while time.perf_counter() < deadline:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid:
            cpu += usage.ru_utime + usage.ru_stime
        else:
            time.sleep(0.01)
    return cpu


def _tail(log: Any) -> str:
    log.seek(0)
    return str(log.read().decode("utf-8", "replace")[-1500:])


def _after(seconds: float, call: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    return timer


def measure(run: Run, folder: Path, timeout: float = 300.0) -> Record:
    """
    Do one run.

    This waits for all children of this process, so nothing else may have started any. Seconds are in C{work} (from
    warm workers to the answer), C{wall} (with the start and the end of the workers) and C{total} (with the interpreter,
    imports and the making of the input); bytes in C{peak} (all processes together, sampled) and C{parent_peak}.
    """
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        child = subprocess.Popen(
            _command(run, folder), env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
        )
        sampler = Sampler()
        sampler.start()
        timer = _after(timeout, sampler.kill)
        _, status, usage = os.wait4(child.pid, 0)
        end = time.perf_counter()
        timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        sampler.stop()
        cpu = usage.ru_utime + usage.ru_stime + _reap(0.5)  # those that are about to end may do so
        left = sampler.kill()
        cpu += _reap(10)
        record: Record = {**asdict(run), "ok": False, "total": end - start, "cpu": cpu, "left": left}
        if child.returncode == 0:
            record.update(json.loads(result.read_text("utf-8")) if result.exists() else _whole(end - start, end))
            return _finished(record, sampler)
        late = "took too long; " if end - start >= timeout else ""
        return {**record, "error": f"{late}exit code {child.returncode}: {_tail(log)}"}


def _whole(seconds: float, end: float) -> Record:
    """
    The result of a run that is timed as a whole.
    """
    return {"work": seconds, "wall": seconds, "ended_at": end, "units": 1, "check": "ok", "parent_peak": 0}


def _finished(record: Record, sampler: Sampler) -> Record:
    """
    The record of a run that came to an answer, without what preparing and checking took.
    """
    prepare = record.pop("prepare_cpu", 0.0)
    sampled = sum(sampler.seen.values())  # what ends by a signal, or is never waited for, is missing in rusage
    record["cpu"] = max(record["cpu"], sampled) - record.pop("check_cpu", 0.0) - prepare
    record["total"] -= record.pop("check_seconds", 0.0)
    record["peak"] = max(sampler.peak(record.pop("ended_at")), record.pop("last_peak", 0))
    record["rate"] = record["units"] / record["work"]
    record["ok"] = record["check"] == "ok"
    if not record["ok"]:
        record["error"] = record["check"]
    return record
