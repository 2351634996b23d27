"""
Rank the nodes of a directed graph by PageRank.
"""

import argparse
import math
from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path

from txmapreduce import Broadcast, Inline, MapReduce, Processes, TextFiles, aggregates, broadcast

DAMPING = 0.85
HERE = Path(__file__).parent

Node = tuple[str, list[str]]
Ranks = Broadcast[dict[str, float]]


def ends(line: str) -> Iterator[tuple[str, str | None]]:
    """
    Step 1: both ends of a link. What is linked to is a node, too.
    """
    source, target = line.split("\t")
    yield source, target
    yield target, None


def node(name: str, targets: Iterator[str | None]) -> Iterator[Node]:
    yield name, sorted({target for target in targets if target is not None})


def shares(ranks: Ranks, node: Node) -> Iterator[tuple[str, float]]:
    """
    Step 2, again and again: a node gives its rank away in equal shares.
    """
    name, targets = node
    yield name, 0.0
    for target in targets:
        yield target, ranks.value[name] / len(targets)


def rank(base: float, name: str, shares: Iterator[float]) -> Iterator[tuple[str, float]]:
    yield name, base + DAMPING * math.fsum(shares)  # the same in whatever order they come


def pagerank(nodes: list[Node], iterations: int, backend: Inline | Processes) -> dict[str, float]:
    ranks = {name: 1 / len(nodes) for name, _ in nodes}
    for _ in range(iterations):
        lost = math.fsum(ranks[name] for name, targets in nodes if not targets)  # it goes to all
        base = (1 - DAMPING + DAMPING * lost) / len(nodes)
        job = MapReduce(partial(shares, broadcast(ranks)), reducer=partial(rank, base))
        ranks = dict(job.run_sync(nodes, backend=backend))
    return ranks


def pair(item: tuple[str, float]) -> tuple[str, float]:
    """
    Step 3: the best, which L{aggregates.TopK} finds.
    """
    return item


def main() -> None:
    parser = argparse.ArgumentParser(description="Rank the nodes of a directed graph by PageRank.")
    parser.add_argument("links", nargs="?", type=Path, default=HERE / "links.tsv", help="lines: from, tab, to")
    parser.add_argument("--iterations", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many nodes to print (default: 10)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores; 0: in this process)")
    args = parser.parse_args()

    backend = Inline() if args.workers == 0 else Processes(args.workers)
    nodes = MapReduce(ends, reducer=node).run_sync(TextFiles(args.links), backend=backend)
    ranks = pagerank(nodes, args.iterations, backend)
    best = MapReduce(pair, reduce=aggregates.TopK(args.top, key=itemgetter(1)))
    for name, value in best.run_sync(ranks.items(), backend=backend):
        print(value, name, sep="\t")


if __name__ == "__main__":
    main()
