"""
Jobs whose data is larger than their memory: are they exact, and how much memory has each process?

    scripts/bench large [NAME ...] [--full] [--pairs N] [--keys N] [--limit SIZE] [--folder FOLDER]

Each job runs in a fresh process, whose coordinator and workers are watched from outside; the workers make the pairs
themselves. The answer is held against what DuckDB makes of the same pairs. C{docs/benchmarks.md} has the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import operator
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from txmapreduce import MapReduce, PartFiles, Policy, Processes, aggregates
from txmapreduce.inputs import parse_bytes

__all__ = ["COORDINATOR", "JOBS", "MARGIN", "Size", "check", "main", "verdict", "watched"]

BLOCK = 10_000
"""Pairs that one record stands for."""

STEP = 2_654_435_761
"""A prime, so that consecutive pairs have keys far apart, and all keys are there equally often."""

PERIOD = 0.02
"""Seconds between two looks at the processes."""

MARGIN = 1.1
"""A worker may have so many times its limit for a moment: the pool looks from time to time."""

COORDINATOR = 150 << 20


@dataclass(frozen=True)
class Size:
    """
    How much data there is.
    """

    pairs: int
    keys: int


def even(size: Size, block: int) -> Iterator[tuple[int, int]]:
    """
    Some pairs, with all keys equally often.
    """
    keys = size.keys
    for n in range(block * BLOCK, min((block + 1) * BLOCK, size.pairs)):
        yield n * STEP % keys, n * 7919 % 1000


def skewed(size: Size, block: int) -> Iterator[tuple[int, int]]:
    """
    Some pairs, of which every other one has the key 0.
    """
    keys = size.keys
    for n in range(block * BLOCK, min((block + 1) * BLOCK, size.pairs)):
        yield (n * STEP % keys if n & 1 else 0), n * 7919 % 1000


def single(size: Size, block: int) -> Iterator[tuple[int, int]]:
    """
    Some pairs, all of one key.
    """
    for n in range(block * BLOCK, min((block + 1) * BLOCK, size.pairs)):
        yield 0, n * 7919 % 1000


KEYS = {"even": f"n * {STEP} % $keys", "skewed": f"if(n & 1 = 1, n * {STEP} % $keys, 0)", "single": "0"}
"""The keys of pair C{n}, as DuckDB says it."""


def summed(key: int, values: Iterator[int]) -> Iterable[tuple[int, int]]:
    """
    The sum of the values, none of which is kept.
    """
    yield key, sum(values)


def in_order(key: int, values: Iterator[int]) -> Iterable[tuple[int, int]]:
    """
    The sum of the values, each times a number that depends on its place: it is right only if the order is.
    """
    yield key, sum(map(operator.mul, values, _weights()))


def _weights() -> Iterator[int]:
    while True:
        yield from range(1, 8)


@dataclass(frozen=True)
class Job:
    """
    A job, and what it is good for.

    @ivar pairs: the mapper. C{how}: how its pairs are reduced.
    @ivar full: how much it takes to prove something.
    @ivar sums: what comes of the pairs C{n} of a key with their values C{v}, as DuckDB says it.
    """

    about: str
    pairs: Callable[[Size, int], Iterator[tuple[int, int]]]
    how: dict[str, Any]
    full: Size
    sums: str = "sum(v)"


JOBS = {
    "groupsum": Job("group and sum", even, {"reduce_by_key": operator.add}, Size(60_000_000, 15_000_000)),
    "groupsum_aggregate": Job(
        "the same with aggregates.Sum()", even, {"reduce_by_key": aggregates.Sum()}, Size(60_000_000, 15_000_000)
    ),
    "skew": Job(
        "half of the records have one key", skewed, {"reduce_by_key": operator.add}, Size(20_000_000, 5_000_000)
    ),
    "skew_reducer": Job("the same with a reducer", skewed, {"reducer": summed}, Size(20_000_000, 5_000_000)),
    "one_key": Job(
        "one key with more values than memory, in order",
        single,
        {"reducer": in_order},
        Size(40_000_000, 1),
        "sum(v * (n % 7 + 1))",
    ),
}


@dataclass
class Watch:
    """
    The most memory that each process of a tree has had: what was resident, which is what C{memory_limit} counts.

    @ivar peaks: bytes by process number.
    @ivar spilled: the most bytes that there were in the folder for spilling.
    """

    root: psutil.Process
    folder: Path
    peaks: dict[int, int] = field(default_factory=dict)
    spilled: int = 0

    def look(self) -> None:
        """
        Take down what each process has now.
        """
        with contextlib.suppress(psutil.Error):
            for process in (self.root, *self.root.children(recursive=True)):
                with contextlib.suppress(psutil.Error, OSError):
                    self.peaks[process.pid] = max(self.peaks.get(process.pid, 0), peak_of(process))
        total = 0
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        self.spilled = max(self.spilled, total)

    def workers(self) -> list[int]:
        """
        The peaks of all but the root, the largest first.
        """
        return sorted((peak for pid, peak in self.peaks.items() if pid != self.root.pid), reverse=True)


def peak_of(process: psutil.Process) -> int:
    """
    The most bytes that a process has had: the kernel knows it on Linux, elsewhere what it has now must do.
    """
    if sys.platform == "linux":
        text = Path(f"/proc/{process.pid}/status").read_text("ascii", "replace")
        return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmHWM")), 0)
    return int(process.memory_info().rss)


def run(name: str, size: Size, limit: str, workers: int, folder: Path, form: Any) -> None:
    """
    Run one job in this process, and print what came of it.
    """
    job = JOBS[name]
    policy = Policy(spill_folder=str(folder / "spill"))
    task = MapReduce(partial(job.pairs, size), policy=policy, **job.how)
    begun = time.perf_counter()
    with Processes(workers, memory_limit=limit) as pool:
        written = task.run_sync(range(-(-size.pairs // BLOCK)), backend=pool, output=PartFiles(folder / "out", form))
    print(json.dumps({"seconds": time.perf_counter() - begun, "records": written.records, "parts": len(written.parts)}))


def watched(
    name: str, size: Size, folder: Path, *, limit: str = "256MiB", workers: int = 2, form: str = "tsv"
) -> dict[str, Any]:
    """
    Run one job in a process of its own, and watch that. Its output is in C{folder / "out"}.
    """
    (folder / "spill").mkdir()
    command = [sys.executable, __file__, "--inside", str(folder), name]
    command += ["--pairs", str(size.pairs), "--keys", str(size.keys), "--limit", limit]
    command += ["--workers", str(workers), "--format", form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        watch = Watch(psutil.Process(child.pid), folder / "spill")
        while child.poll() is None:
            watch.look()
            time.sleep(PERIOD)
        assert child.stdout is not None
        text = child.stdout.read()
    if child.returncode:
        raise RuntimeError(f"{name} failed: exit code {child.returncode}")
    left = list((folder / "spill").iterdir())
    return {
        **json.loads(text),
        "coordinator": watch.peaks[child.pid],
        "workers": watch.workers(),
        "spilled": watch.spilled,
        "left": len(left),
    }


def expected(name: str, size: Size) -> str:
    """
    What DuckDB makes of the same pairs, as a query.
    """
    job = JOBS[name]
    key = KEYS[job.pairs.__name__].replace("$keys", str(size.keys))
    pairs = f"SELECT n, {key} AS k, n * 7919 % 1000 AS v FROM range({size.pairs}) AS r(n)"
    return f"SELECT k, {job.sums} AS s FROM ({pairs}) GROUP BY k"


def check(name: str, size: Size, folder: Path, form: str) -> dict[str, Any]:
    """
    Join what was written with what should have been, in full.
    """
    import duckdb

    if form == "parquet":
        found = f"SELECT key AS k, value AS s FROM read_parquet('{folder}/out/part-*.parquet')"
    else:
        columns = "delim='\t', header=false, auto_detect=false, columns={'k': 'BIGINT', 's': 'BIGINT'}"
        found = f"SELECT k, s FROM read_csv('{folder}/out/part-*', {columns})"
    with duckdb.connect() as database:
        database.execute(f"SET memory_limit='4GB'; SET threads=2; SET temp_directory='{folder}/duckdb'")
        begun = time.perf_counter()
        database.execute(f"CREATE TEMP TABLE expected AS {expected(name, size)}")
        seconds = time.perf_counter() - begun
        rows = database.execute(
            f"SELECT count(*), count(f.k), count(e.k), sum(CASE WHEN f.s = e.s THEN 1 ELSE 0 END), sum(f.s)::VARCHAR "
            f"FROM ({found}) AS f FULL JOIN expected AS e ON f.k = e.k"
        ).fetchone()
    assert rows is not None
    every, *others, total = rows
    return {"duckdb": seconds, "exact": others == [every] * 3, "keys": every, "sum": total}


def verdict(record: dict[str, Any], limit: int) -> str:
    """
    One line of the table.
    """
    workers = record["workers"]
    kept = workers[0] <= MARGIN * limit and record["coordinator"] <= COORDINATOR and not record["left"]
    cells = [
        record["name"],
        f"{record['pairs']:,}",
        f"{record['keys']:,}",
        f"{record['seconds']:.1f}",
        f"{record['pairs'] / record['seconds'] / 1e6:.2f}",
        f"{workers[0] / (1 << 20):.0f}",
        f"{record['coordinator'] / (1 << 20):.0f}",
        f"{record['spilled'] / (1 << 20):.0f}",
        f"{record['seconds'] / record['duckdb']:.1f}",
        "yes" if record["exact"] else "**no**",
        "yes" if kept else "**no**",
    ]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| job | pairs | keys | s | M pairs/s | worker MiB | coordinator MiB | spilled MiB | to DuckDB | exact | bounds |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Jobs whose data is larger than their memory.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(JOBS)}; default: all")
    parser.add_argument("--full", action="store_true", help="the sizes that prove something: some minutes for each")
    parser.add_argument("--pairs", type=int, help="how many pairs; default: a thirtieth of the full size")
    parser.add_argument("--keys", type=int, help="how many keys; default: in proportion")
    parser.add_argument("--limit", default="256MiB", help="memory_limit of a worker; default: %(default)s")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--format", default="tsv", choices=["tsv", "parquet"])
    parser.add_argument("--folder", help="where to put files; default: the one for temporary files")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.names) - set(JOBS):
        parser.error(f"there is no job {min(unknown)}, only {', '.join(JOBS)}")
    if options.inside:
        size = Size(options.pairs, options.keys)
        run(options.names[0], size, options.limit, options.workers, Path(options.inside), options.format)
        return
    print(HEAD + "\n|" + "---|" * HEAD.count(" | ") + "---|")
    for name in options.names or JOBS:
        full = JOBS[name].full
        pairs = options.pairs or (full.pairs if options.full else full.pairs // 30)
        size = Size(pairs, options.keys or max(1, full.keys * pairs // full.pairs))
        with tempfile.TemporaryDirectory(prefix="large-", dir=options.folder) as folder:
            record = {"name": name, "pairs": size.pairs, "keys": size.keys}
            record |= watched(
                name, size, Path(folder), limit=options.limit, workers=options.workers, form=options.format
            )
            record |= check(name, size, Path(folder), options.format)
        print(verdict(record, parse_bytes(options.limit)), flush=True)
        print(json.dumps(record), file=sys.stderr)


if __name__ == "__main__":
    main()
