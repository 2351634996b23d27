"""
A cluster of Dask on this machine: a scheduler and two workers of one thread, as processes of their own.

    scripts/bench cluster [words] [shuffle] [endless] [tasks] [--size SIZE] [--rounds N] [--shuffle SIZE] [--records N]

C{words} counts the words of one text in turns: ours on C{Dask}, C{dask.bag}, C{client.map} by hand, and ours on
C{Processes}. All answers have to be the right one. C{shuffle} runs a job by key, and counts what the coordinator's
process has sent and received by TCP, as the kernel knows it. C{endless} maps an input without an end, and looks at the
memory of the coordinator and of the scheduler. C{tasks} maps nothing by C{client.map}: what a task costs the scheduler.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import socket
import stat
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

import corpus  # noqa: E402
import workloads  # noqa: E402

from tests.clusters import Cluster  # noqa: E402
from txmapreduce import Dask, MapReduce, Processes, TextFiles, aggregates  # noqa: E402
from txmapreduce.inputs import parse_bytes  # noqa: E402

__all__ = ["PARTS", "Traffic", "count", "expected", "main", "pairs", "sums", "words"]

BLOCK = 10_000
"""Pairs that one record of the shuffle stands for."""

VALUE = 1000
"""Bytes of each value."""

KEYS = 500

SHARE = 0.01
"""The coordinator may send and receive so much of what lies between map and reduce."""

GROWTH = 8 << 20
"""So many bytes more than a quarter of the records need may all of them need."""


# Words


def ours(text: list[str], backend: Any) -> Any:
    """
    As the documentation says.
    """
    return MapReduce(workloads.words, flat=True, reduce=aggregates.Counts()).run_sync(TextFiles(text), backend=backend)


def bag(text: list[str], client: Any) -> Any:
    """
    As the documentation of Dask says.
    """
    import dask.bag

    lines = dask.bag.read_text(text, blocksize="16MiB")
    return dict(lines.map(workloads.words).flatten().frequencies().compute(scheduler=client))


def by_hand(text: list[str], client: Any) -> Any:
    """
    A C{Counter} for each range of a file, added up here as they come.
    """
    from distributed import as_completed

    total: Counter[str] = Counter()
    futures = client.map(workloads.count_lines, workloads.spans_of(text), pure=False)
    for _, counts in as_completed(futures, loop=client.loop, with_results=True):
        total.update(counts)
    return total


def words(client: Any, folder: Path, size: int, rounds: int) -> dict[str, list[float]]:
    """
    The seconds that each way took in each round, after one that does not count.
    """
    corpus.write_text(folder, size)
    index = json.loads((folder / "text.json").read_text("utf-8"))
    text = [str(folder / name) for name in index["files"]]
    took: dict[str, list[float]] = {}
    with Dask(client) as cluster, Processes(2) as pool:
        ways: dict[str, Callable[[], Any]] = {
            "Dask": lambda: ours(text, cluster),
            "dask.bag": lambda: bag(text, client),
            "client.map": lambda: by_hand(text, client),
            "Processes": lambda: ours(text, pool),
        }
        for number in range(rounds + 1):
            for name, way in ways.items():
                begun = time.perf_counter()
                answer = way()
                seconds = time.perf_counter() - begun
                if answer != index["counts"]:
                    raise workloads.WrongAnswer(name)
                if number:
                    took.setdefault(name, []).append(seconds)
    return took


def print_words(client: Any, size: int, rounds: int) -> bool:
    """
    A table. Returns whether ours was as fast as the better of the other two.
    """
    with tempfile.TemporaryDirectory() as folder:
        took = words(client, Path(folder), size, rounds)
    medians = {name: statistics.median(times) for name, times in took.items()}
    best = min(medians["dask.bag"], medians["client.map"])
    print("| words | s | least | most | to the better of Dask's own |\n|---|---|---|---|---|")
    for name, times in took.items():
        print(f"| {name} | {medians[name]:.2f} | {min(times):.2f} | {max(times):.2f} | {medians[name] / best:.2f} |")
    print(f"{size / 1e6:.0f} MB, medians of {rounds}, equal answers\n", flush=True)
    return medians["Dask"] <= best


# What goes through the coordinator


class Traffic:
    """
    What this process sends and receives by TCP, while the block runs.

    @ivar sent: how many bytes arrived of those that it sent. C{received}: how many it received.
    """

    _ACKED_AND_RECEIVED = struct.Struct("=QQ")
    _PLACE = 120  # in struct tcp_info, see linux/tcp.h

    def __init__(self) -> None:
        self.sent = self.received = 0
        self._seen: dict[int, tuple[int, int]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._looks, daemon=True)

    def __enter__(self) -> Traffic:
        self._before = self.look()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        self._thread.join()
        after = self.look()
        self.sent, self.received = (now - before for now, before in zip(after, self._before, strict=True))

    def _looks(self) -> None:
        while not self._ended.wait(0.02):  # a connection that is closed is not there any more
            self.look()

    def look(self) -> tuple[int, int]:
        """
        Bytes that were sent and arrived, and bytes that were received, ever, by all connections that were seen.
        """
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # it is gone, or no connection
                if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    continue
                with socket.socket(fileno=os.dup(int(name))) as sock:
                    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    self._seen[os.fstat(sock.fileno()).st_ino] = self._ACKED_AND_RECEIVED.unpack_from(info, self._PLACE)
        acked, received = zip(*self._seen.values(), strict=True) if self._seen else ((), ())
        return sum(acked), sum(received)


def pairs(block: int) -> Iterator[tuple[int, bytes]]:
    """
    10 MB that can't be compressed, by keys in no order.
    """
    chance = random.Random(block)
    for _ in range(BLOCK):
        yield chance.randrange(KEYS), chance.randbytes(VALUE)


def sums(key: int, values: Iterator[bytes]) -> Iterator[tuple[int, int, int]]:
    """
    How many values a key has, and what they add up to.
    """
    each = list(map(zlib.crc32, values))
    yield key, len(each), sum(each)


def expected(blocks: int) -> list[tuple[int, int, int]]:
    """
    What L{sums} gives for so many blocks.
    """
    found: dict[int, list[int]] = {}
    for key, value in itertools.chain.from_iterable(map(pairs, range(blocks))):
        found.setdefault(key, []).append(zlib.crc32(value))
    return [(key, len(each), sum(each)) for key, each in sorted(found.items())]


def count(file: str, blocks: int) -> dict[str, Any]:
    """
    Run the job by key in this process.

    @param file: the scheduler file.
    """
    with Dask(file) as cluster:
        MapReduce(abs).run_sync(range(10), backend=cluster)
        with Traffic() as traffic:
            begun = time.perf_counter()
            result = MapReduce(pairs, reducer=sums).run_sync(range(blocks), backend=cluster)
            seconds = time.perf_counter() - begun
    if result != expected(blocks):
        raise workloads.WrongAnswer("shuffle")
    between = blocks * BLOCK * VALUE
    return {"seconds": seconds, "between": between, "sent": traffic.sent, "received": traffic.received}


def print_count(file: str, size: int) -> bool:
    """
    One line. Returns whether little enough went through the coordinator.
    """
    found = _inside("shuffle", file, max(1, size // (BLOCK * VALUE)))
    share = (found["sent"] + found["received"]) / found["between"]
    print(
        f"shuffle: {found['between'] / 1e6:.0f} MB between map and reduce in {found['seconds']:.1f} s, "
        f"{found['sent'] / 1e3:.0f} kB sent and {found['received'] / 1e3:.0f} kB received by the coordinator: "
        f"{100 * share:.3f} %, exact\n",
        flush=True,
    )
    return share < SHARE


# Input without an end

PARTS = 4


def endless(file: str, way: str, records: int, scheduler: int) -> dict[str, Any]:
    """
    Map numbers until so many were read, then cancel that.

    @param scheduler: its process.
    @return: what this process had in memory after each quarter of them, and what the scheduler had.
    """
    marks = [records * part // PARTS for part in range(1, PARTS + 1)]
    processes = psutil.Process(), psutil.Process(scheduler)
    memory: list[list[int]] = []

    def look(read: int) -> None:
        while len(memory) < PARTS and read >= marks[len(memory)]:
            memory.append([process.memory_info().rss for process in processes])

    begun = time.perf_counter()
    with Dask(file) as cluster:
        if way == "stream":
            for read, value in enumerate(MapReduce(abs).stream(itertools.count(), backend=cluster), 1):
                if value != read - 1:
                    raise workloads.WrongAnswer("stream")
                look(read)
                if read == records:
                    break
        else:
            _reduce_until(cluster, records, look)
    return {"seconds": time.perf_counter() - begun, "memory": memory}


def _reduce_until(cluster: Dask, records: int, look: Callable[[int], None]) -> None:
    """
    The same for a job that reduces.
    """
    from txmapreduce._blocking import blocking

    run = blocking(lambda: MapReduce(abs, reduce=max).start(itertools.count(), backend=cluster))
    run.result.addErrback(lambda _: None)  # it is cancelled
    while (read := run.progress().records) < records:
        look(read)
        time.sleep(0.05)
    look(read)
    blocking(run.cancel)


def print_endless(file: str, records: int, scheduler: int) -> bool:
    """
    A table. Returns whether memory stayed as it was.
    """
    flat = True
    print("| endless | s | coordinator, MiB at each quarter | scheduler, MiB at each quarter |\n|---|---|---|---|")
    for way in "stream", "reduce":
        found = _inside("endless", file, records, way, scheduler)
        columns = list(zip(*found["memory"], strict=True))
        flat = flat and columns[0][-1] - columns[0][0] <= GROWTH
        told = " | ".join(", ".join(str(rss >> 20) for rss in column) for column in columns)
        print(f"| {way} | {found['seconds']:.1f} | {told} |")
    print(f"cancelled after {records:,} records\n", flush=True)
    return flat


# What Dask's scheduler takes

TASKS = 5000


def print_tasks(client: Any, scheduler: int) -> bool:
    """
    One line, which is good whatever it says.
    """
    process = psutil.Process(scheduler)
    before, begun = sum(process.cpu_times()[:2]), time.perf_counter()
    client.gather(client.map(abs, range(TASKS), pure=False))
    seconds, cpu = time.perf_counter() - begun, sum(process.cpu_times()[:2]) - before
    print(f"tasks: {TASKS:,} of nothing in {seconds:.1f} s, {1e3 * cpu / TASKS:.2f} ms of the scheduler's CPU each\n")
    return True


def _inside(what: str, file: str, number: int, way: str = "", scheduler: int = 0) -> dict[str, Any]:
    """
    What a process of its own measures.
    """
    command = [sys.executable, os.path.abspath(__file__), "--inside", what, file, str(number), way, str(scheduler)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


WHAT = ("words", "shuffle", "endless", "tasks")


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        what, file, number, way, scheduler = sys.argv[2:]
        shuffles = what == "shuffle"
        found = count(file, int(number)) if shuffles else endless(file, way, int(number), int(scheduler))
        print(json.dumps(found))
        return
    parser = argparse.ArgumentParser(description="Measure txmapreduce on a cluster of Dask on this machine.")
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(WHAT)}; default: all")
    parser.add_argument("--size", default="60MB", help="of the text (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shuffle", default="50MB", help="between map and reduce (default: %(default)s)")
    parser.add_argument("--records", type=int, default=3_000_000, help="until endless input ends")
    args = parser.parse_args()
    if unknown := set(args.what) - set(WHAT):
        parser.error(f"there is no {min(unknown)}, only {', '.join(WHAT)}")
    from distributed import Client

    cluster = Cluster(2, PYTHONPATH=os.pathsep.join(map(str, (HERE, HERE.parent))))
    kept = {}
    try:
        for what in args.what or WHAT:
            if what in ("words", "tasks"):
                with Client(scheduler_file=cluster.file, set_as_default=False) as client:
                    client.wait_for_workers(2)
                    if what == "words":
                        kept[what] = print_words(client, parse_bytes(args.size), args.rounds)
                    else:
                        kept[what] = print_tasks(client, cluster.scheduler.pid)
            elif what == "shuffle":
                kept[what] = print_count(cluster.file, parse_bytes(args.shuffle))
            else:
                kept[what] = print_endless(cluster.file, args.records, cluster.scheduler.pid)
    finally:
        cluster.stop()
    if missed := [what for what, good in kept.items() if not good]:
        sys.exit(f"not as good as it should be: {', '.join(missed)}")


if __name__ == "__main__":
    main()
