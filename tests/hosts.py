"""
Several hosts on this machine: each is a network namespace with an address of its own, behind one bridge.

    unshare --user --map-root-user --net python -m tests.hosts

runs jobs from the host that has the bridge, on a cluster of Dask whose scheduler and workers are on others, and prints
what came of it as JSON. The namespaces go with the processes that are in them: nothing is left, and nothing outside is
touched.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from twisted.internet.defer import Deferred, succeed

from tests.clusters import Cluster, Host
from txmapreduce import Dask, MapReduce, Policy, Processes
from txmapreduce._blocking import blocking
from txmapreduce.errors import BackendUnavailable

ENVIRONMENT = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "8s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "4s",
}
"""After how much silence what is at the other end of a connection counts as gone. Dask's own defaults are longer: 30 s,
300 s and 30 s; it takes no less than 11 s for the first."""

ITEMS = 400


def slow(x: int) -> list[tuple[int, int]]:
    """
    Some values for some keys, after some time.
    """
    time.sleep(0.01)
    chance = random.Random(x)
    return [(chance.randrange(1000), x) for _ in range(100)]


def gathered(key: int, values: Iterator[int]) -> Iterator[tuple[int, int, int]]:
    """
    How many values a key has, and what they add up to.
    """
    found = list(values)
    yield key, len(found), sum(found)


JOB = MapReduce(slow, reducer=gathered, npartitions=4, policy=Policy(chunksize=5))


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def network(hosts: int) -> Iterator[list[Host]]:
    """
    So many hosts. The link of number N is called C{hostN} here.
    """
    ip("link", "set", "lo", "up")
    ip("link", "add", "bridge", "type", "bridge")
    ip("address", "add", "10.77.0.1/24", "dev", "bridge")
    ip("link", "set", "bridge", "up")
    with ExitStack() as ends:
        found = []
        for number in range(hosts):
            # It ends when its input does, which is when this process does.
            holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            ends.enter_context(holder)
            assert holder.stdin is not None and holder.stdout is not None
            holder.stdin.write(b"\n")
            holder.stdin.flush()
            holder.stdout.readline()  # it is in its namespace
            inside = ("nsenter", f"--target={holder.pid}", "--net", "--")
            address = f"10.77.0.{2 + number}"
            ip("link", "add", f"host{number}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            ip("link", "set", f"host{number}", "master", "bridge", "up")
            for command in (f"address add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
                subprocess.run([*inside, "ip", *command.split()], check=True)
            found.append(Host(address, inside))
        yield found


def main() -> None:
    """
    Run the job while nothing happens (C{whole}); then, on one cluster while the host of a C{worker} is cut off, and on
    another while that of the C{scheduler} is. Prints for each whether the result was the one of L{Processes}, the
    error, and the seconds that passed after the cut.
    """
    with network(4) as (head, one, other, lonely), Processes(2) as pool, ExitStack() as ends:
        expected = JOB.run_sync(range(ITEMS), backend=pool)
        clusters = [Cluster(0, host=host, **ENVIRONMENT) for host in (head, lonely)]
        for cluster in clusters:
            ends.callback(cluster.stop)
        for cluster, host in ((clusters[0], one), (clusters[0], other), (clusters[1], one)):
            cluster.add(host)
        backends = [ends.enter_context(Dask(cluster.file)) for cluster in clusters]
        found = {"whole": _Cut(backends[0], None, expected).outcome()}
        cuts = {"worker": _Cut(backends[0], "host2", expected), "scheduler": _Cut(backends[1], "host3", expected)}
        print(json.dumps({**found, **{name: cut.outcome() for name, cut in cuts.items()}}))


class _Cut:
    """
    A run that is half done, and a link that was cut then.
    """

    def __init__(self, backend: Dask, link: str | None, expected: Any) -> None:
        self.expected = expected
        self.run = blocking(lambda: JOB.start(range(ITEMS), backend=backend))
        self.ended: list[float] = []
        blocking(self._watch)
        while self.run.progress().records < ITEMS // 2:
            time.sleep(0.01)
        if link is not None:
            ip("link", "set", link, "down")
        self.begun = time.monotonic()

    def _watch(self) -> Deferred[None]:
        def end(result: Any) -> Any:
            self.ended.append(time.monotonic())
            return result

        self.run.result.addBoth(end)
        return succeed(None)

    def outcome(self) -> dict[str, Any]:
        try:
            exact = blocking(lambda: self.run.result) == self.expected
            error = ""
        except BackendUnavailable as caught:
            exact, error = False, str(caught)
        return {"exact": exact, "error": error, "seconds": self.ended[0] - self.begun}


if __name__ == "__main__":
    main()
