"""
Tests for what is in C{benchmarks/}: that answers are right and checked, and that the tables say what was measured. How
fast anything is isn't tested.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase, TestCase

from txmapreduce.testing._case import in_thread

FOLDER = Path(__file__).parent.parent / "benchmarks"

sys.path.append(str(FOLDER))

import bench  # noqa: E402
import cluster  # noqa: E402
import corpus  # noqa: E402
import flames  # noqa: E402
import growth  # noqa: E402
import growth_jobs  # noqa: E402
import guard  # noqa: E402
import scale  # noqa: E402
import sort  # noqa: E402
import systems  # noqa: E402
import tables  # noqa: E402
import workloads  # noqa: E402


def text_folder(case: SynchronousTestCase, size: int = 50_000) -> Path:
    folder = Path(case.mktemp())
    folder.mkdir(parents=True)
    corpus.write_text(folder, size)
    return folder


def record(system: str, work: float, **more: Any) -> dict[str, Any]:
    """
    A record of a run as it stands in a file of results.
    """
    usual = {
        "system": system,
        "kind": {"txmapreduce": "ours", "plain": "reference"}.get(system, "peer"),
        "function": "tiny_default",
        "workload": "tiny_default",
        "machine": "a machine",
        "size": 100,
        "workers": 2,
        "ok": True,
        "work": work,
        "wall": work + 1,
        "total": work + 2,
        "cpu": 2 * work,
        "rate": 100 / work,
        "units": 100,
        "peak": 30_000_000,
        "parent_peak": 20_000_000,
        "left": 0,
    }
    return {**usual, **more}


class AnswerTests(TestCase):
    """
    Every workload's answer is right, and looked at.
    """

    timeout = 60

    def answers(self, module: str, folder: Path) -> list[tuple[Any, Any, Any]]:
        """
        All answers of an adapter, each with its workload and input. Not that of C{startup}, whose pool is left open.
        """
        found = []
        for name in systems.read(FOLDER / "peers" / f"{module}.py").functions:
            workload = workloads.WORKLOADS[name.split("__")[0]]
            inp = workloads.prepared(workload, workload.sizes["tiny"], 2, str(folder))
            if name != "startup":
                found.append((workload, inp, getattr(importlib.import_module(f"peers.{module}"), name)(inp)))
        return found

    async def test_ours(self) -> None:
        """
        Each of ours gives the right answer.
        """
        answers = await in_thread(self.answers, "txmapreduce", text_folder(self))
        self.assertEqual(len({id(workload) for workload, _, _ in answers}), len(workloads.WORKLOADS) - 1)
        for workload, inp, answer in answers:
            workload.check(inp, answer)
            self.assertLessEqual(inp.ready_at, inp.answered_at)

    async def test_wrong(self) -> None:
        """
        An answer that is a little off is noticed, whether it is a list, a dict or a number.
        """
        for workload, inp, answer in await in_thread(self.answers, "plain", text_folder(self)):
            workload.check(inp, answer)
            if isinstance(answer, dict):
                answer[min(answer)] += 1
            elif isinstance(answer, list):
                answer[0] = answer[1]
            else:
                answer += 1
            self.assertRaises(workloads.WrongAnswer, workload.check, inp, answer)

    async def test_growth(self) -> None:
        """
        The jobs that grow give the right answer, too.
        """
        self.patch(growth_jobs, "LEAST_PAIRS", 20_000)
        self.patch(growth_jobs, "TASKS", 50)
        self.patch(growth_jobs, "TRAFFIC", 100_000)
        for name, axis in growth_jobs.GROWTH.items():
            inp = workloads.prepared(axis.workload, 10, 2)
            axis.workload.check(inp, await in_thread(getattr(growth_jobs, name), inp))
            self.assertRaises(workloads.WrongAnswer, axis.workload.check, inp, None if name != "keys" else {1: 1})


class TextTests(SynchronousTestCase):
    """
    The text whose words are counted.
    """

    def test_counts(self) -> None:
        """
        Files of unequal size, together nearly as large as was asked for, and the right counts.
        """
        folder = text_folder(self, 200_000)
        index = json.loads((folder / "text.json").read_text("utf-8"))
        texts = [(folder / name).read_text("utf-8") for name in index["files"]]
        self.assertEqual(len(set(map(len, texts))), 8)
        self.assertTrue(180_000 < sum(map(len, texts)) <= 200_000)
        self.assertEqual(Counter(re.findall("[a-z']+", "".join(texts).lower())), index["counts"])

    def test_spans(self) -> None:
        """
        However a file is cut, each line is in one range, and ranges end where lines do.
        """
        path = Path(self.mktemp())
        path.parent.mkdir(parents=True, exist_ok=True)
        text = b"one\n\na longer line\nlast"
        path.write_bytes(text)
        for size in range(1, len(text) + 2):
            blocks = [workloads.read_span(span) for span in workloads.spans_of([str(path)], size)]
            self.assertEqual(b"".join(blocks), text)
            self.assertTrue(all(not block or block.endswith((b"\n", b"last")) for block in blocks))

    def test_sameWords(self) -> None:
        """
        A line at a time, in pairs or a block at a time: all ways count the same.
        """
        folder = text_folder(self)
        for span in workloads.spans_of([str(folder / "text-0.txt")], 5000):
            counts = workloads.count_lines(span)
            self.assertEqual(workloads.count_pairs(span), counts)
            self.assertEqual(workloads.decoded(workloads.count_block(span)), counts)


class TableTests(SynchronousTestCase):
    """
    From records to tables.
    """

    def rows(self, *records: dict[str, Any], workload: str = "tiny_default") -> list[Any]:
        (summary,) = tables.summaries(list(records), [workload])
        return list(summary.rows)

    def test_medians(self) -> None:
        """
        A row has the median of its runs, the least and the most, and says that they are far apart.
        """
        (row,) = self.rows(*(record("joblib", work) for work in (4.0, 1.0, 2.0)))
        self.assertEqual((row.runs, row.work, row.least, row.most, row.rate), (3, 2.0, 1.0, 4.0, 50.0))
        self.assertEqual(row.notes, ("noisy",))

    def test_ratios(self) -> None:
        """
        Ratios are those of speeds, refer to the best peer, and the best comes first. A reference is no peer.
        """
        rows = self.rows(record("txmapreduce", 2.0), record("loky", 4.0), record("joblib", 8.0), record("plain", 1.0))
        self.assertEqual(
            [(row.name, row.ratio) for row in rows],
            [("plain", 4.0), ("txmapreduce", 2.0), ("loky", 1.0), ("joblib", 0.5)],
        )

    def test_noPeer(self) -> None:
        """
        Without any peer there are no ratios.
        """
        (row,) = self.rows(record("txmapreduce", 2.0))
        self.assertIsNone(row.ratio)

    def test_memory(self) -> None:
        """
        C{memory} compares the bytes of the runs that counted words: half of them is twice as good.
        """
        counting = {"workload": "wordcount_lines", "function": "wordcount_lines__pairs"}
        ours, theirs = record("txmapreduce", 2.0, peak=10, **counting), record("loky", 1.0, peak=20, **counting)
        rows = self.rows(ours, theirs, workload="memory")
        self.assertEqual([(row.name, row.ratio) for row in rows], [("txmapreduce, pairs", 2.0), ("loky, pairs", 1.0)])

    def test_failures(self) -> None:
        """
        What failed isn't part of the medians, and is told.
        """
        bad = record("joblib", 9.0, ok=False, error="Traceback\nit broke")
        (summary,) = tables.summaries([record("loky", 1.0), {**bad, "system": "loky"}, bad], ["tiny_default"])
        (row,) = summary.rows
        self.assertEqual((row.name, row.work, row.notes), ("loky", 1.0, ("1 of 2 runs failed",)))
        self.assertEqual(summary.failures, (("joblib", "it broke"),))

    def test_smallerInput(self) -> None:
        """
        A system that gets less input is compared by its rate, and that is told.
        """
        rows = self.rows(record("loky", 1.0), record("joblib", 0.1, size=10, rate=100.0))
        self.assertEqual([(row.ratio, row.notes) for row in rows], [(1.0, ()), (1.0, ("with 1/10 of the input",))])

    def test_markdown(self) -> None:
        """
        A table has as many cells in each line, and ours stands out.
        """
        text = tables.markdown([record("txmapreduce", 1.0), record("loky", 1.0, version="9.9")])
        lines = [line for line in text.splitlines() if line.startswith("|")]
        self.assertEqual({line.count("|") for line in lines}, {len(tables.HEADINGS) + 1})
        self.assertIn("**txmapreduce**", text)
        self.assertIn("a machine.\n\nVersions: loky 9.9.", text)

    def test_rates(self) -> None:
        """
        Rates are told in the unit of the workload.
        """
        told = [tables.rate_text(4_000_000, "B"), tables.rate_text(1234.5, "items"), tables.rate_text(4, "runs")]
        self.assertEqual(told, ["4.0 MB/s", "1,234 items/s", "250.00 ms each"])

    def test_growth(self) -> None:
        """
        The tables of growth have the cost of a unit, and mark where it rises.
        """
        of = {"workload": "items", "function": "items"}
        records = [record("txmapreduce", work, size=size, units=size, **of) for size, work in ((10, 1e-4), (100, 2e-3))]
        records.append(record("txmapreduce", 1.0, ok=False, size=1000, error="too late", **of))
        text = growth.growth_markdown(records)
        self.assertIn("| 100 | 100 | 0.002 | 20 µs | 2.00 (!) |", text)
        self.assertIn("- 1,000: too late", text)


class GuardTests(SynchronousTestCase):
    """
    Floors, and whether they were kept.
    """

    def verdicts(self, ours: float, **more: Any) -> dict[str, bool]:
        records = [record("multiprocessing", 1.0, workload=workload) for workload in guard.FLOORS]
        records += [record("txmapreduce", ours, workload=workload, **more) for workload in guard.FLOORS]
        return {verdict.workload: verdict.kept for verdict in guard.verdicts(records)}

    def test_floors(self) -> None:
        """
        As fast is fine, ten times slower isn't, and without a right answer no floor is kept.
        """
        self.assertEqual(set(self.verdicts(1.0).values()), {True})
        self.assertEqual(set(self.verdicts(10.0).values()), {False})
        self.assertEqual(set(self.verdicts(1.0, ok=False).values()), {False})


class SystemTests(SynchronousTestCase):
    """
    The adapters.
    """

    def test_names(self) -> None:
        """
        All functions have names of workloads, limits are those of functions, and we are among the systems.
        """
        found = systems.systems()
        self.assertEqual(next(iter(found)), "txmapreduce")
        for system in found.values():
            self.assertLessEqual({*system.limits}, {*system.functions})
            self.assertTrue(system.functions, system.name)
        self.assertEqual(found["multiprocessing"].missing, "")

    def test_imports(self) -> None:
        """
        The adapters of the peers that are installed can be imported.
        """
        names = [f"peers.{system.name}" for system in systems.systems().values() if not system.missing]
        self.assertIn("peers.concurrent_futures", names)
        code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
        path = os.pathsep.join([str(FOLDER), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, cwd="."
        )
        self.assertEqual(done.returncode, 0, done.stderr)


class CommandTests(SynchronousTestCase):
    """
    The command line.
    """

    def bench(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(FOLDER / "bench.py"), *arguments]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)

    def test_compare(self) -> None:
        """
        Measures each system in turns, prints tables, and writes results from which they can be printed again.
        """
        path = Path(self.mktemp())
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = ["--workloads", "tiny_default,startup", "--systems", "txmapreduce,multiprocessing"]
        done = self.bench(*chosen, "--reps", "2", "--size", "tiny", "--out", str(path))
        self.assertEqual(done.returncode, 0, done.stderr)
        records = bench.read_results(str(path))
        turns = [(record["workload"], record["system"], record["rep"]) for record in records]
        names = [(w, s) for w in ("tiny_default", "startup") for s in ("txmapreduce", "multiprocessing")]
        self.assertEqual(turns, [(*name, rep) for rep in (0, 1) for name in names])
        for record in records:
            self.assertTrue(0 < record["work"] <= record["total"], record)
            self.assertEqual((record["ok"], record["left"]), (True, 0))
        for record in records[:2]:
            self.assertTrue(1e6 < record["parent_peak"] < 1e9)
            self.assertTrue(1e6 < record["peak"] < 1e9)
        self.assertEqual(self.bench("--table", str(path)).stdout, done.stdout)

    def test_defaults(self) -> None:
        """
        Options without a command are those of the comparison.
        """
        self.assertIs(bench.parse([]).call, bench.compare)
        self.assertEqual(bench.parse(["--reps", "7"]).reps, 7)
        self.assertIs(bench.parse(["guard"]).call, bench.guard)
        self.assertTrue(bench.parse(["growth", "--full"]).full)

    def test_unknown(self) -> None:
        """
        A name that there isn't is told, with those that there are.
        """
        done = self.bench("--systems", "nonsense")
        self.assertEqual(done.returncode, 1)
        self.assertIn("No such system: nonsense. There are: txmapreduce, ", done.stderr)


class SortTests(SynchronousTestCase):
    def test_same(self) -> None:
        """
        Parts that are not the other sort's file, or not all of it, are told from those that are.
        """
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        one, other, whole = folder / "one", folder / "other", folder / "whole"
        for path, text in ((one, "a\nb\n"), (other, "c\n"), (whole, "a\nb\nc\n")):
            path.write_text(text)
        self.assertTrue(sort.same([one, other], whole))
        for wrong in ([other, one], [one], [one, other, other]):
            self.assertFalse(sort.same(wrong, whole))

    def test_lines(self) -> None:
        """
        So many lines are written as fit into the size.
        """
        path = Path(self.mktemp())
        self.assertEqual(sort.write_lines(path, 1050), 10)
        self.assertEqual([len(line) for line in path.read_text().splitlines()], [99] * 10)


class ClusterTests(SynchronousTestCase):
    """
    What is measured on a cluster.
    """

    if importlib.util.find_spec("distributed") is None:
        skip = "distributed is not installed"
    elif sys.platform != "linux":
        skip = "the kernel tells what went through a connection on Linux"

    def test_traffic(self) -> None:
        """
        What goes through a connection is counted, also when it is closed meanwhile.
        """
        server = socket.create_server(("127.0.0.1", 0))
        with cluster.Traffic() as traffic, server, socket.create_connection(server.getsockname()) as one:
            other, _ = server.accept()
            self.addCleanup(other.close)
            one.sendall(b"x" * 5000)
            left = 5000
            while left:
                left -= len(other.recv(left))
            self.assertGreaterEqual(min(traffic.look()), 5000)
            other.close()
        self.assertTrue(5000 <= min(traffic.sent, traffic.received) <= 5100, (traffic.sent, traffic.received))

    def test_small(self) -> None:
        """
        All ways count the same words, little goes through the coordinator, and input without an end is cancelled.
        """
        options = ["words", "shuffle", "endless", "--size", "200kB", "--rounds", "1", "--records", "2000"]
        done = subprocess.run(
            [sys.executable, str(FOLDER / "cluster.py"), *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        self.assertIn(done.stderr, ("", "not as good as it should be: words\n"))
        self.assertIn("medians of 1, equal answers", done.stdout)
        self.assertRegex(done.stdout, "shuffle: 50 MB between map and reduce .*: 0.[0-9]+ %, exact")
        self.assertIn("cancelled after 2,000 records", done.stdout)


class ScaleTests(SynchronousTestCase):
    """
    The schedule, driven by a clock that is made up.
    """

    def test_model(self) -> None:
        """
        Runs of each kind come to their end with every chunk counted once, also with more workers than chunks. Each
        chunk is read, begins and ends, so there are three events at the least.
        """
        for name, plan in scale.plans(500).items():
            for workers in 3, 1000:
                result = scale.Model(plan, 500, workers).run()
                self.assertGreaterEqual(result.events, 1500, name)
                self.assertGreater(result.seconds, 0)

    def test_wrong_count(self) -> None:
        """
        It is noticed where the schedule counts something else.
        """
        model = scale.Model(scale.plans(50)["list"], 50, 3)
        model._schedule.tally.chunks = 1
        self.assertRaises(AssertionError, model.run)


class FlamesTests(SynchronousTestCase):
    """
    What was sampled, as trees.
    """

    def test_frames(self) -> None:
        """
        Samples count for the coordinator below Twisted's loop and for workers below their own, and nowhere else.
        """
        roots = flames.frames(
            [
                "process 1;main (child.py:9);mainLoop (twisted/base.py:1);doPoll (twisted/x.py:2);said (a.py:3) 4",
                "process 1;main (child.py:9);mainLoop (twisted/base.py:1);doPoll (twisted/x.py:2) 1",
                "process 2;<module> (<string>:1);Worker.serve (txmapreduce/_worker/loop.py:4);f (workloads.py:7) 3",
                "process 1;main (child.py:9);check (workloads.py:5) 8",
            ]
        )
        coordinator, workers = roots["coordinator"], roots["workers"]
        self.assertEqual((coordinator.samples, workers.samples), (5, 3))
        (poll,) = coordinator.calls.values()
        self.assertEqual((poll.name, poll.file, poll.samples), ("doPoll", "twisted/x.py", 5))
        self.assertEqual([call.samples for call in poll.calls.values()], [4])
        self.assertEqual((coordinator.depth(1), coordinator.depth(5)), (3, 2))
