"""
What happens at random instants: the coordinator is killed or terminated, or its run is cancelled; and how long it takes
from a worker's death until its chunk runs again. A script for large numbers, C{scripts/instants}; the tests call it
with small ones.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from txmapreduce import MapReduce, Policy, Processes

from . import naughty
from .leftovers import gone, turn

HOST = """
import sys
from twisted.internet import reactor
from txmapreduce import MapReduce, Policy, Processes
from tests import naughty

fired = []

def begin():
    job = MapReduce(naughty.fork_or_work, reduce_by_key=max, policy=Policy(chunksize=1))
    run = job.run(iter(int, 1), backend=Processes(2))
    run.addBoth(fired.append)
    if sys.argv[1] != "0":
        reactor.callLater(float(sys.argv[1]), run.cancel)
        reactor.callLater(float(sys.argv[1]) + 1, reactor.stop)
    print("begun", flush=True)

reactor.callWhenRunning(begin)
reactor.run()
print("fired", len(fired), flush=True)
"""
"""Runs a job without an end. Its argument says after how many seconds to cancel it; 0: not at all."""


def one(way: str, after: float) -> str:
    """
    A coordinator, and its end after so many seconds. Returns what was wrong.
    """
    cancels = way == "cancel"
    command = [sys.executable, "-c", HOST, str(after if cancels else 0)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)
    assert host.stdout is not None
    try:
        host.stdout.readline()
        time.sleep(after)
        family = [child.pid for child in psutil.Process(host.pid).children(recursive=True)]
        if not cancels:
            host.send_signal(signal.SIGKILL if way == "kill" else signal.SIGTERM)
        if left := gone(family, 1.0 + 0.2 * cancels):  # the host cancels by its own clock
            return f"{way} after {after:.3f} s: {len(left)} of {len(family)} processes are left after a second"
        said, _ = host.communicate(timeout=30)
        if way != "kill" and said != "fired 1\n":
            return f"{way} after {after:.3f} s: it said {said!r}"
        return ""
    finally:
        host.kill()
        host.communicate()


def instants(way: str, count: int, seed: int = 0) -> list[str]:
    """
    So many of them. Returns what went wrong.
    """
    chance = random.Random(f"{way} {seed}")
    return list(filter(None, (one(way, chance.uniform(0.001, 1.0)) for _ in range(count))))


async def restarts(count: int, way: str = "") -> list[float]:
    """
    The seconds from a worker's SIGKILL until its chunk runs again, where another worker is idle.

    @param way: C{"deaf"}: SIGCHLD is ignored here; C{"forks"}: a child of the worker's holds its pipes.
    """
    found = []
    if way == "deaf":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    async with Processes(2) as pool:
        await MapReduce(naughty.slow_pid_of, policy=Policy(chunksize=1)).run(range(6), backend=pool)
        with TemporaryDirectory() as folder:
            for number in range(count):
                while len(pool.pids) < 2:
                    await MapReduce(naughty.slow_pid_of, policy=Policy(chunksize=1)).run(range(6), backend=pool)
                path = Path(folder, str(number))
                await MapReduce(partial(naughty.die_once, str(path), way == "forks")).run([0], backend=pool)
                died, again = map(float, path.read_text().split())
                found.append(again - died)
                await turn(0.2)  # the other one is warm again
    return found


def main() -> None:
    """
    One way, or all.
    """
    parser = argparse.ArgumentParser(prog="scripts/instants", description="What happens at random instants.")
    parser.add_argument("ways", nargs="*", default=["kill", "term", "cancel", "restart"])
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    for way in options.ways:
        if way != "restart":
            wrong = instants(way, options.count)
            print(json.dumps({"way": way, "count": options.count, "wrong": wrong}), flush=True)

    async def measure() -> None:
        for way in "", "forks", "deaf":  # the last one stays so
            times = sorted(await restarts(options.count, way))
            p99, median = times[min(len(times) - 1, len(times) * 99 // 100)], statistics.median(times)
            print(json.dumps({"way": f"restart {way}", "count": len(times), "median": median, "p99": p99}), flush=True)

    if "restart" in options.ways:
        react(lambda _: Deferred.fromCoroutine(measure()))


if __name__ == "__main__":
    main()
