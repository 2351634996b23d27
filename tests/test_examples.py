"""
The examples give what plain Python gives. They are run as scripts, as a reader would run them.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support import python

EXAMPLES = Path(__file__).parent.parent / "examples"
WORKERS = ("0", "2")


class ExampleCase(SynchronousTestCase):
    """
    Tests that have an empty folder and random numbers that come again.
    """

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)
        self.random = random.Random(1)

    def output_of(self, example: str, *arguments: str | Path) -> list[str]:
        """
        The lines that an example prints.
        """
        done = python(str(EXAMPLES / example), *map(str, arguments), cwd=self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.splitlines()

    def write(self, name: str, lines: list[str]) -> Path:
        path = self.folder / name
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return path


class InvertedIndexTests(ExampleCase):
    def test_index(self) -> None:
        """
        Each word has the files that it is in, and how often.
        """
        vocabulary = ["Anna's", "bear", "CAT", "dog", "42", "eel-eel"]
        lines = [" ".join(self.random.choices(vocabulary, k=8)) for _ in range(450)]
        files = [self.write(f"{n}.txt", lines[n * 50 : n * 50 + 50]) for n in range(9)]
        expected: dict[str, list[Any]] = defaultdict(list)
        for path in files:
            for word, count in Counter(re.findall("[a-z]+", path.read_text().lower())).items():
                expected[word].append([str(path), count])
        for workers in WORKERS:
            folder = self.folder / f"index {workers}"
            self.output_of("inverted_index/inverted_index.py", folder, *files, "--workers", workers)
            self.assertTrue((folder / "_SUCCESS").exists())
            entries = [json.loads(line) for part in folder.glob("part-*") for line in part.read_text().splitlines()]
            index = dict(entries)
            self.assertEqual(len(entries), len(index))
            self.assertEqual(index.keys(), expected.keys())
            for word, found in index.items():
                self.assertEqual(found, sorted(expected[word], key=lambda posting: (-posting[1], posting[0])))


class JoinTests(ExampleCase):
    def test_rows(self) -> None:
        """
        Each order has its customer's name, in each kind of join.
        """
        customers = [{"id": n, "name": f"name {n}"} for n in range(0, 60, 2)]
        orders = [{"customer": self.random.randrange(70), "item": f"item {n}"} for n in range(300)]
        files = [
            self.write(name, list(map(json.dumps, records)))
            for name, records in (("orders", orders), ("customers", customers))
        ]
        names = {customer["id"]: customer["name"] for customer in customers}
        items = defaultdict(list)
        for order in orders:
            items[order["customer"]].append(order["item"])
        keys = {
            "inner": names.keys() & items.keys(),
            "left": items.keys(),
            "right": names.keys(),
            "outer": names.keys() | items.keys(),
        }
        for how, wanted in keys.items():
            rows = [f"{key}\t{names.get(key, '-')}\t{item}" for key in sorted(wanted) for item in items.get(key, "-")]
            for workers in WORKERS:
                lines = self.output_of("join/orders.py", *files, "--how", how, "--workers", workers)
                self.assertEqual(lines, rows)

    def test_small_files(self) -> None:
        """
        Without arguments, the files next to it are joined.
        """
        self.assertIn("2\tBob\tsalt", self.output_of("join/orders.py"))


class PageRankTests(ExampleCase):
    def reference(self, links: list[tuple[str, str]], iterations: int) -> dict[str, float]:
        targets: dict[str, set[str]] = {name: set() for link in links for name in link}
        for source, target in links:
            targets[source].add(target)
        ranks = dict.fromkeys(targets, 1.0)
        for _ in range(iterations):
            shares: dict[str, list[float]] = {name: [] for name in targets}
            for name, others in targets.items():
                for other in others:
                    shares[other].append(ranks[name] / len(others))
            ranks = {name: 1 - 0.85 + 0.85 * math.fsum(given) for name, given in shares.items()}
        return ranks

    def test_ranks(self) -> None:
        """
        Ten iterations, to the last digit that is printed.
        """
        links = [(f"n{self.random.randrange(60)}", f"n{self.random.randrange(80)}") for _ in range(400)]
        ranks = self.reference(links, 10)
        best = sorted(ranks.items(), key=lambda item: (-item[1], item[0]))[:5]
        path = self.write("links.tsv", ["\t".join(link) for link in links])
        for workers in WORKERS:
            lines = self.output_of("pagerank/pagerank.py", path, "--top", "5", "--workers", workers)
            self.assertEqual(lines, [f"{value!r}\t{name}" for name, value in best])

    def test_small_file(self) -> None:
        """
        Without arguments, the file next to it is ranked.
        """
        self.assertTrue(self.output_of("pagerank/pagerank.py")[0].endswith("\tproducts"))


class TopPerGroupTests(ExampleCase):
    def test_best(self) -> None:
        """
        The best ten of each group, the groups in order; with a combiner, too.
        """
        rows = [(f"g{self.random.randrange(12)}", f"n{n}", self.random.randrange(90)) for n in range(900)]
        files = [
            self.write(f"{n}.tsv", ["\t".join(map(str, row)) for row in rows[n * 300 : n * 300 + 300]])
            for n in range(3)
        ]
        groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for group, name, score in rows:
            groups[group].append((-score, name))
        expected = [
            f"{group}\t{name}\t{-score}"
            for group, found in sorted(groups.items())
            for score, name in sorted(found)[:10]
        ]
        for workers in WORKERS:
            for options in ([], ["--combine"]):
                lines = self.output_of("top_per_group/top_per_group.py", *files, *options, "--workers", workers)
                self.assertEqual(lines, expected)

    def test_small_file(self) -> None:
        """
        Without arguments, the file next to it is read.
        """
        lines = self.output_of("top_per_group/top_per_group.py", "--top", "2")
        self.assertEqual([line.split("\t")[0] for line in lines], ["north"] * 2 + ["south"] * 2 + ["west"] * 2)


class ClusterTests(ExampleCase):
    if find_spec("distributed") is None:
        skip = "distributed is not installed"

    def test_same(self) -> None:
        """
        A cluster that is started for it counts what the cores of this machine count.
        """
        counts = {"the": 4000, "dog's": 3000, "cat": 2000}
        files = [
            self.write(f"{n}.txt", [f"{word} " * (count // 100) for word, count in counts.items()]) for n in range(100)
        ]
        lines = self.output_of("cluster/cluster.py", *files)
        self.assertEqual(lines[:-1], [f"{count:12,}  {word}" for word, count in counts.items()])
        self.assertEqual(lines[-1], "3 words, the same on this machine and on the cluster")
