"""
The best of each group: of lines C{group<TAB>name<TAB>score}, for each group the names with the highest scores.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from txmapreduce import Inline, MapReduce, Processes, TextFiles

HERE = Path(__file__).parent


def entries(line: str) -> Iterator[tuple[str, tuple[float, str]]]:
    """
    The group of a line, with its score and its name.
    """
    group, name, score = line.split("\t")
    yield group, (float(score), name)


def best_first(entry: tuple[float, str]) -> tuple[float, str]:
    """
    What entries are sorted by: the highest score first, equal ones by name.
    """
    score, name = entry
    return -score, name


def best(count: int, group: str, found: Iterator[tuple[float, str]]) -> Iterator[tuple[str, str, float]]:
    """
    The first ones of a group, whose entries come sorted. The others are never read.
    """
    for score, name in islice(found, count):
        yield group, name, score


def best_so_far(count: int, group: str, found: Iterator[tuple[float, str]]) -> list[tuple[float, str]]:
    """
    What is still needed of some of a group's entries.
    """
    return sorted(found, key=best_first)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the best of each group.")
    parser.add_argument("files", nargs="*", type=Path, default=[HERE / "scores.tsv"], help="group<TAB>name<TAB>score")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many of each group (default: 10)")
    parser.add_argument("--combine", action="store_true", help="drop what is not among them where it is read")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores; 0: in this process)")
    args = parser.parse_args()

    combiner = partial(best_so_far, args.top) if args.combine else None
    job = MapReduce(entries, reducer=partial(best, args.top), combiner=combiner, sort_values=best_first)
    backend = Inline() if args.workers == 0 else Processes(args.workers)
    for group, name, score in job.stream(TextFiles(args.files), backend=backend):
        print(group, name, f"{score:g}", sep="\t")


if __name__ == "__main__":
    main()
