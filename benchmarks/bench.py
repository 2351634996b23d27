"""
The command line: C{bench.py [compare|growth|guard] [options]}. See C{docs/benchmarks.md}.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from corpus import write_text
from growth import growth_markdown, growth_runs
from growth_jobs import GROWTH
from guard import guard_markdown, guard_runs, verdicts
from measure import Record, Run, adopt_orphans, measure
from plots import draw
from systems import System, systems
from tables import markdown, rate_text, summaries
from workloads import SIZES, VIEWS, WORKLOADS

LONG = 40.0
"""Seconds from which a run isn't repeated more than once."""


def machine() -> str:
    """
    What a reader has to know of this machine.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {count} processors"


def say(text: str) -> None:
    """
    Tell how far things are, away from what is printed at the end.
    """
    print(text, file=sys.stderr, flush=True)


def _line(record: Record) -> str:
    name = f"{record['workload']:16} {record['system']}:{record['function']}[{record['size']:,}]"
    if not record["ok"]:
        return f"{name:70} FAILED {str(record.get('error'))[-400:]}"
    unit = WORKLOADS[record["workload"]].unit if record["workload"] in WORKLOADS else "units"
    return f"{name:70} {record['work']:9.3f} s  {rate_text(record['rate'], unit)}"


def rounds(runs: list[Run], reps: int, folder: Path, timeout: float) -> Iterator[Record]:
    """
    All runs once, then all once more, and so on, so that a slower minute hits all alike. What failed isn't repeated,
    and what takes long is repeated once.
    """
    done: dict[Run, int] = {}
    for rep in range(reps):
        for run in runs:
            if done.get(run, reps) <= rep:
                continue
            record = {**measure(run, folder, timeout), "rep": rep}
            done[run] = reps if record["total"] < LONG else 2
            if not record["ok"]:
                done[run] = 0
            say(_line(record))
            yield record


@contextmanager
def _results(path: str | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
    else:
        with open(path, "a", encoding="utf-8") as file:
            yield file


def collect(runs: list[Run], args: argparse.Namespace, more: dict[str, dict[str, str]]) -> list[Record]:
    """
    Do the runs, and write each record as a line of JSON as soon as it is there.

    @param more: what else a record of a system says.
    """
    adopt_orphans()
    records = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name, _results(args.out) as out:
        folder = Path(name)
        if any(run.workload == "wordcount_lines" for run in runs):
            write_text(folder, max(run.size for run in runs if run.workload == "wordcount_lines"))
        for record in rounds(runs, args.reps, folder, args.timeout):
            records.append({**record, **more.get(record["system"], {}), "machine": machine()})
            if out is not None:
                print(json.dumps(records[-1]), file=out, flush=True)
    return records


def read_results(path: str) -> list[Record]:
    """
    The records of a file of results.
    """
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines() if line.strip()]


def _chosen(wanted: str | None, known: Iterable[str], what: str) -> list[str]:
    names = list(known)
    chosen = wanted.split(",") if wanted else names
    if unknown := sorted({*chosen} - {*names}):
        sys.exit(f"No such {what}: {', '.join(unknown)}. There are: {', '.join(names)}")
    return chosen


def _installed(wanted: str | None) -> list[System]:
    known = systems()
    found = [known[name] for name in _chosen(wanted, known, "system")]
    for system in found:
        if system.missing:
            say(f"Left out: {system.name}, which needs {system.missing}.")
    return [system for system in found if not system.missing]


def _show(records: list[Record], wanted: list[str], plot: str | None) -> None:
    print(markdown(records, wanted))
    if plot:
        draw(summaries(records, wanted), plot)


def compare(args: argparse.Namespace) -> int:
    """
    The workloads, side by side.
    """
    wanted = _chosen(args.workloads, [*WORKLOADS, *VIEWS], "workload")
    if args.table:
        _show(read_results(args.table), wanted, args.plot)
        return 0
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        sys.exit("--plot needs matplotlib: pip install matplotlib")
    found = _installed(args.systems)
    needed = dict.fromkeys(VIEWS.get(name, name) for name in wanted)
    runs = [run for name in needed for system in found for run in system.runs(name, args.size, args.workers)]
    more = {system.name: {"kind": system.kind, "version": system.version} for system in found}
    records = collect(runs, args, more)
    _show(records, wanted, args.plot)
    return 0 if all(record["ok"] for record in records if record["kind"] == "ours") else 1


def growth(args: argparse.Namespace) -> int:
    """
    How cost grows.
    """
    wanted = _chosen(args.axes, GROWTH, "axis")
    if args.table:
        records = read_results(args.table)
    else:
        records = collect(growth_runs(wanted, args.full, args.workers), args, {})
    print(growth_markdown([record for record in records if record["workload"] in wanted]))
    return 0 if all(record["ok"] for record in records) else 1


def guard(args: argparse.Namespace) -> int:
    """
    Whether something has become much slower.
    """
    found = verdicts(collect(guard_runs(args.workers), args, {}))
    print(guard_markdown(found))
    return 0 if all(verdict.kept for verdict in found) else 1


def _common(parser: argparse.ArgumentParser, reps: int) -> None:
    parser.add_argument("--reps", type=int, default=reps, metavar="N", help=f"rounds (default: {reps})")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="worker processes (default: 2)")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="S", help="seconds for a run (default: 300)")
    parser.add_argument("--out", metavar="FILE", help="add the results to this file, as lines of JSON")


def _compare_parser(commands: Any) -> None:
    parser = commands.add_parser("compare", help="all systems side by side (the default)")
    _common(parser, 3)
    parser.add_argument("--workloads", metavar="A,B", help=f"of {', '.join([*WORKLOADS, *VIEWS])} (default: all)")
    parser.add_argument("--systems", metavar="A,B", help=f"of {', '.join(systems())} (default: all that are installed)")
    parser.add_argument("--size", choices=SIZES, default="small", help="how much input (default: small)")
    parser.add_argument("--table", metavar="FILE", help="only print the tables of these results")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the ratios; needs matplotlib")
    parser.set_defaults(call=compare)


def _growth_parser(commands: Any) -> None:
    parser = commands.add_parser("growth", help="how cost grows with items, their size, keys, workers and chunks")
    _common(parser, 1)
    parser.add_argument("--axes", metavar="A,B", help=f"of {', '.join(GROWTH)} (default: all)")
    parser.add_argument("--full", action="store_true", help="go to the end of each axis; takes long, and several GB")
    parser.add_argument("--table", metavar="FILE", help="only print the tables of these results")
    parser.set_defaults(call=growth)


def _guard_parser(commands: Any) -> None:
    parser = commands.add_parser("guard", help="fail when something has become much slower")
    _common(parser, 3)
    parser.set_defaults(call=guard)


def parse(arguments: list[str]) -> argparse.Namespace:
    """
    The command line's meaning.
    """
    parser = argparse.ArgumentParser(prog="bench", description="Measure txmapreduce, and what one might use instead.")
    commands = parser.add_subparsers()
    for add in (_compare_parser, _growth_parser, _guard_parser):
        add(commands)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["compare", *arguments]
    return parser.parse_args(arguments)


def main() -> int:
    args = parse(sys.argv[1:])
    return int(args.call(args))


if __name__ == "__main__":
    sys.exit(main())
