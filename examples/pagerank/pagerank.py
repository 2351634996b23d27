"""
Rank the nodes of a directed graph by PageRank: a job of many steps.

A node's rank is 0.15, and 0.85 times what the nodes that link to it give it: each gives all that it has, in equal
shares. The ranks are what that comes to, beginning with 1 for each.
"""

import argparse
import math
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from txmapreduce import Chain, Inline, MapReduce, Processes, TextFiles, aggregates

DAMPING = 0.85
HERE = Path(__file__).parent

Node = tuple[str, float, list[str]]


def ends(line: str) -> Iterator[tuple[str, str | None]]:
    """
    Step 1: both ends of a link. What is linked to is a node, too.
    """
    source, target = line.split("\t")
    yield source, target
    yield target, None


def node(name: str, targets: Iterator[str | None]) -> Iterator[Node]:
    yield name, 1.0, sorted({target for target in targets if target is not None})


def shares(node: Node) -> Iterator[tuple[str, float | list[str]]]:
    """
    Step 2, again and again: a node gives its rank away, and keeps its links.
    """
    name, rank, targets = node
    yield name, targets
    for target in targets:
        yield target, rank / len(targets)


def ranked(name: str, given: Iterator[float | list[str]]) -> Iterator[Node]:
    targets, shares = [], []
    for value in given:
        if isinstance(value, list):
            targets = value
        else:
            shares.append(value)
    yield name, 1 - DAMPING + DAMPING * math.fsum(shares), targets  # fsum: the same in whatever order they come


def name_and_rank(node: Node) -> tuple[str, float]:
    """
    Step 3: the best, which L{aggregates.TopK} finds.
    """
    return node[:2]


def main() -> None:
    parser = argparse.ArgumentParser(description="Rank the nodes of a directed graph by PageRank.")
    parser.add_argument("links", nargs="?", type=Path, default=HERE / "links.tsv", help="lines: from, tab, to")
    parser.add_argument("--iterations", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many nodes to print (default: 10)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores; 0: in this process)")
    args = parser.parse_args()

    job: MapReduce | Chain = MapReduce(ends, reducer=node)
    for _ in range(args.iterations):
        job = job.then(MapReduce(shares, reducer=ranked))
    job = job.then(MapReduce(name_and_rank, reduce=aggregates.TopK(args.top, key=itemgetter(1))))
    backend = Inline() if args.workers == 0 else Processes(args.workers)
    for name, rank in job.run_sync(TextFiles(args.links), backend=backend):
        print(rank, name, sep="\t")


if __name__ == "__main__":
    main()
