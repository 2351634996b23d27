"""
How long a Twisted web server takes to answer other requests while one request runs a job.

    python benchmarks/web_latency.py [RECORDS] [WORKERS]

Prints, for an idle server and for one whose handler runs a job, how many requests were answered and how long they took.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.web.client import Agent, HTTPConnectionPool, readBody
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from txmapreduce import MapReduce, Processes
from txmapreduce.aggregates import Counts

IDLE_SECONDS = 2.0


class Hello(Resource):
    """
    Answers at once.
    """

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return b"hello"


class Count(Resource):
    """
    Runs a job over as many records as it was made for, and answers with the result.
    """

    isLeaf = True

    def __init__(self, pool: Processes, records: int) -> None:
        super().__init__()
        self._job = MapReduce(str, reduce=Counts())
        self._pool = pool
        self._records = records

    def render_GET(self, request: Any) -> int:
        done = self._job.run((n % 1000 for n in range(self._records)), backend=self._pool)
        done.addCallback(lambda counts: request.write(b"%d" % sum(counts.values())))
        done.addBoth(lambda _: request.finish())
        return NOT_DONE_YET


def show(name: str, seconds: list[float]) -> None:
    """
    One line of figures, in milliseconds.
    """
    ordered = sorted(seconds)
    median, late, worst = (1000 * ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.99, 1.0))
    print(f"{name:24} {len(ordered):6} requests  median {median:6.1f} ms  99 % {late:6.1f} ms  worst {worst:6.1f} ms")


async def measure(records: int, workers: int) -> None:
    """
    Serve, ask, print.
    """
    async with Processes(workers) as pool:
        await MapReduce(abs).run(range(workers), backend=pool)
        root = Resource()
        root.putChild(b"hello", Hello())
        root.putChild(b"count", Count(pool, records))
        port = reactor.listenTCP(0, Site(root), interface="127.0.0.1")  # type: ignore[attr-defined]
        agent = Agent(reactor, pool=HTTPConnectionPool(reactor))

        def get(path: str) -> Deferred[bytes]:
            url = f"http://127.0.0.1:{port.getHost().port}/{path}".encode()
            return agent.request(b"GET", url).addCallback(readBody)

        async def hello() -> float:
            begun = time.perf_counter()
            await get("hello")
            return time.perf_counter() - begun

        until = time.perf_counter() + IDLE_SECONDS
        idle = []
        while time.perf_counter() < until:
            idle.append(await hello())
        show("nothing else to do", idle)
        found: list[bytes] = []
        begun = time.perf_counter()
        get("count").addCallback(found.append)
        busy = []
        while not found:
            busy.append(await hello())
        show("while a job runs", busy)
        print(f"{int(found[0])} records in {time.perf_counter() - begun:.2f} s on {workers} workers")
        await port.stopListening()


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    records, workers = [*arguments, *(3_000_000, 2)[len(arguments) :]]
    task.react(lambda _: ensureDeferred(measure(records, workers)))
