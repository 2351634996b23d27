"""
What settings of a worker's process are worth: its garbage collector, its allocator, its memory's pages.

    python benchmarks/levers.py [--reps N] [--size small|full] [--workloads A,B]

Each workload runs with the workers as they are, and with one setting changed at a time, in turns. Whoever finds one
that pays for his own functions can have it with C{initializer=} or C{env=} of C{Processes}.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench import rounds
from corpus import write_text
from measure import Record, Run, adopt_orphans
from tables import grid
from workloads import SIZES, WORKLOADS

__all__ = ["LEVERS"]

AS_IS = "as it is"

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def mallopt(*options: tuple[int, int]) -> None:
    """
    Change how glibc's C{malloc} works in this process.
    """
    for option, value in options:
        ctypes.CDLL(None).mallopt(option, value)


LEVERS: dict[str, dict[str, Any]] = {
    AS_IS: {},
    "imports not frozen": {"initializer": gc.unfreeze},
    "collect every 50,000": {"initializer": gc.set_threshold, "initargs": (50_000, 20, 100)},
    "collect never": {"initializer": gc.disable},
    "huge pages": {"env": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}},
    "huge pages, no pymalloc": {"env": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "PYTHONMALLOC": "malloc"}},
    "trim at 64 MiB": {"initializer": mallopt, "initargs": [(M_TRIM_THRESHOLD, 64 << 20)]},
    "and mmap at 32 MiB": {
        "initializer": mallopt,
        "initargs": [(M_TRIM_THRESHOLD, 64 << 20), (M_MMAP_THRESHOLD, 32 << 20)],
    },
    "one arena": {"env": {"MALLOC_ARENA_MAX": "1"}},
    "no debug ranges": {"env": {"PYTHONNODEBUGRANGES": "1"}},
}
"""What C{Processes} is told, by the setting's name."""

RUNS = {
    "wordcount_lines": "wordcount_lines",
    "wordcount_lines__pairs": "wordcount_lines",
    "groupsum": "groupsum",
    "echo_small": "echo_small",
    "echo_bytes": "echo_bytes",
    "echo_numpy": "echo_numpy",
}
"""The adapter's functions, and what workload each is for."""


def __getattr__(name: str) -> Callable[[Any], Any]:
    """
    The function C{NUMBER_FUNCTION}: the adapter's, with that lever pulled.
    """
    if not name.startswith("lever"):
        raise AttributeError(name)
    from peers import txmapreduce

    number, function = name.removeprefix("lever").split("_", 1)
    return partial(_with, list(LEVERS.values())[int(number)], getattr(txmapreduce, function))


def _with(settings: dict[str, Any], function: Callable[[Any], Any], inp: Any) -> Any:
    from peers import txmapreduce

    txmapreduce.POOL.update(settings)
    return function(inp)


def table(records: list[Record]) -> str:
    """
    The least time of each, by that without the lever, and in brackets the same of the CPU time of all processes, which
    other work on the machine changes less. Below 1 is faster.
    """
    functions = list(dict.fromkeys(record["function"].split("_", 1)[1] for record in records))
    lines = []
    for number, lever in enumerate(LEVERS):
        if not any(record["system"] == lever for record in records):
            continue
        cells = []
        for function in functions:
            own, base = (
                [record for record in records if record["function"] == f"lever{n}_{function}" and record["ok"]]
                for n in (number, 0)
            )
            if not own or not base:
                cells.append("failed")
                continue
            (work, cpu), (base_work, base_cpu) = (
                (min(record["work"] for record in some), median(record["cpu"] for record in some))
                for some in (own, base)
            )
            cells.append(
                f"{work:.3f} s ({cpu:.2f} s)" if lever == AS_IS else f"{work / base_work:.2f} ({cpu / base_cpu:.2f})"
            )
        lines.append([lever, *cells])
    return "\n".join(grid(["workers", *functions], lines))


def main() -> None:
    parser = argparse.ArgumentParser(prog="levers", description="What settings of the workers' processes are worth.")
    parser.add_argument("--reps", type=int, default=5, metavar="N", help="rounds (default: 5)")
    parser.add_argument("--size", choices=SIZES, default="small", help="how much input (default: small)")
    parser.add_argument("--levers", metavar="A,B", help=f"of {', '.join(LEVERS)} (default: all)")
    parser.add_argument("--workloads", metavar="A,B", help=f"of {', '.join(RUNS)} (default: all)")
    args = parser.parse_args()
    chosen = args.workloads.split(",") if args.workloads else list(RUNS)
    runs = [
        Run(lever, "levers", f"lever{number}_{function}", RUNS[function], WORKLOADS[RUNS[function]].sizes[args.size], 2)
        for function in chosen
        for number, lever in enumerate(LEVERS)
        if lever == AS_IS or not args.levers or lever in args.levers.split(",")
    ]
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="levers-") as name:
        write_text(Path(name), WORKLOADS["wordcount_lines"].sizes[args.size])
        print(table(list(rounds(runs, args.reps, Path(name), 300.0))))


if __name__ == "__main__":
    main()
