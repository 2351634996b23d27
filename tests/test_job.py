"""
Jobs and policies: frozen, and validated when they are made.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import pickle
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txmapreduce import Inline, MapReduce, PartFiles, Policy, Processes, TextFiles
from txmapreduce.aggregates import Counts, Sum
from txmapreduce.errors import BadInput
from txmapreduce.job import Job
from txmapreduce.testing import functions


class PolicyTests(SynchronousTestCase):
    """
    L{Policy}.
    """

    def test_defaults(self) -> None:
        """
        Every field has a default; policies are values.
        """
        self.assertEqual(Policy(), Policy(retries=3, bad_records="raise"))
        self.assertEqual(hash(Policy()), hash(Policy()))
        self.assertEqual(pickle.loads(pickle.dumps(Policy(chunksize=5))), Policy(chunksize=5))
        with self.assertRaises(dataclasses.FrozenInstanceError):
            Policy().retries = 5  # type: ignore[misc]

    def test_refused(self) -> None:
        """
        A value that can't be used is BadInput, and the message names the parameter and the value.
        """
        refused: list[tuple[str, Any]] = [
            *(("chunksize", value) for value in (0, -1, 1.5, "3", True, math.inf)),
            *(("buffersize", value) for value in (0, -1, 1.5, True)),
            *(("retries", value) for value in (-1, None, 1.5, True, "3")),
            *(("task_timeout", value) for value in (0, -1, "5", True, math.inf, math.nan)),
            *(("timeout", value) for value in (0, -1, "5", True, math.inf, math.nan)),
            *(("bad_records", value) for value in ("ignore", None, True)),
            *(("max_bad_records", value) for value in (-1, 1.5, 3)),
            *(("retry_exceptions", value) for value in (5, "ValueError", (ValueError, 5), ValueError(), None)),
            *(("blocksize", value) for value in (0, "many", None, -5, 1.5)),
            *(("seed", value) for value in (1.5, "7", True)),
            *((name, value) for name in ("reproducible", "speculate") for value in (1, "yes", None)),
        ]
        for name, value in refused:
            with self.assertRaises(BadInput, msg=f"{name}={value!r}") as caught:
                Policy(**{name: value})
            self.assertIn(name, str(caught.exception), f"{name}={value!r}")

    def test_oneException(self) -> None:
        """
        One exception class or a list of them will do for C{retry_exceptions}.
        """
        self.assertEqual(Policy(retry_exceptions=OSError).retry_exceptions, (OSError,))  # type: ignore[arg-type]
        self.assertEqual(Policy(retry_exceptions=[OSError]).retry_exceptions, (OSError,))  # type: ignore[arg-type]


class JobTests(SynchronousTestCase):
    """
    L{Job}, and L{MapReduce}, which makes one.
    """

    def test_refused(self) -> None:
        """
        Parameters that are not what they should be, or don't go together, are BadInput; the message names them.
        """
        refused: list[tuple[dict[str, Any], list[str]]] = [
            ({"mapper": 5}, ["mapper"]),
            ({"reduce": operator.add, "reduce_by_key": operator.add}, ["reduce", "reduce_by_key"]),
            ({"reduce": operator.add, "reducer": functions.total}, ["reduce", "reducer"]),
            ({"reduce_by_key": operator.add, "reducer": functions.total}, ["reduce_by_key", "reducer"]),
            ({"reduce": 5}, ["reduce"]),
            ({"reduce": Sum}, ["reduce", "Sum", "()"]),
            ({"reduce_by_key": "add"}, ["reduce_by_key"]),
            ({"reduce_by_key": Counts}, ["reduce_by_key", "Counts"]),
            ({"reducer": 5}, ["reducer"]),
            ({"reducer": functions.total, "combiner": 5}, ["combiner"]),
            ({"combiner": functions.total}, ["combiner", "reducer"]),
            ({"initial": 5}, ["initial"]),
            ({"initial": 5, "reduce": Sum()}, ["initial"]),
            ({"initial": None, "reduce_by_key": max}, ["initial"]),
            ({"flat": "yes"}, ["flat", "'yes'"]),
            ({"batched": 1}, ["batched"]),
            ({"npartitions": 0, "reducer": functions.total}, ["npartitions", "0"]),
            ({"npartitions": 2.0, "reduce_by_key": max}, ["npartitions", "2.0"]),
            ({"npartitions": 10_001, "reduce_by_key": max}, ["npartitions", "10001"]),
            ({"npartitions": 2}, ["npartitions", "reducer"]),
            ({"npartitions": 2, "reduce": max}, ["npartitions", "reduce_by_key"]),
            ({"partitioner": max, "reduce_by_key": max}, ["partitioner", "npartitions"]),
            ({"partitioner": 5, "npartitions": 2, "reduce_by_key": max}, ["partitioner", "5"]),
            ({"partitioner": max}, ["partitioner", "reducer"]),
            ({"sort_values": True, "reduce_by_key": max}, ["sort_values", "reducer"]),
            ({"sort_values": False, "reducer": functions.total}, ["sort_values", "False"]),
            ({"order_keys": False}, ["order_keys", "reducer"]),
            ({"order_keys": 0, "reducer": functions.total}, ["order_keys", "0"]),
            ({"name": 5}, ["name"]),
            ({"policy": 5}, ["policy"]),
            ({"policy": {"retries": 1}}, ["policy"]),
        ]
        for options, words in refused:
            for make in (Job, MapReduce):
                with self.assertRaises(BadInput, msg=str(options)) as caught:
                    make(**{"mapper": functions.square, **options})
                for word in words:
                    self.assertIn(word, str(caught.exception))

    def test_frozen(self) -> None:
        """
        A job does not change.
        """
        with self.assertRaises(dataclasses.FrozenInstanceError):
            MapReduce(functions.square).job.flat = True  # type: ignore[misc]

    def test_title(self) -> None:
        """
        A job is called by its name, else by its mapper's, of whatever kind that is.
        """
        self.assertEqual(Job(functions.square).title, "square")
        self.assertEqual(Job(functions.square, name="mine").title, "mine")
        self.assertEqual(Job(functions.Adder(1)).title, "Adder")

    def test_functions(self) -> None:
        """
        The user's own objects are known by the names of their parameters.
        """
        job = Job(functions.square, reduce=operator.add, initial=5)
        self.assertEqual(job.functions(), {"mapper": functions.square, "reduce": operator.add, "initial": 5})

    def test_pool(self) -> None:
        """
        The options of a pool are checked as well.
        """
        refused: list[tuple[str, Any]] = [
            *(("max_workers", value) for value in (0, -1, 1.5, True, "2")),
            *(("min_workers", value) for value in (-1, 1.5, 5)),
            *(("max_tasks_per_child", value) for value in (0, 1.5)),
            ("threads_per_worker", 0),
            ("initializer", 5),
            *(("idle_timeout", value) for value in (0, -1, "60", math.nan, True)),
            *(("env", value) for value in (5, [("a", "b")], {"a": 1})),
            ("initargs", [1]),
        ]
        for name, value in refused:
            with self.assertRaises(BadInput, msg=f"{name}={value!r}") as caught:
                Processes(**{"max_workers": 2, name: value})
            self.assertIn(name, str(caught.exception))
        for value in (5, "abc"):
            with self.assertRaisesRegex(BadInput, "initargs"):
                Processes(initializer=print, initargs=value)  # type: ignore[arg-type]

    def test_backend(self) -> None:
        """
        What is no backend is refused, and the class of one.
        """
        for value in (5, Inline, Processes):
            result = MapReduce(functions.square).run([1], backend=value)  # type: ignore[arg-type]
            self.assertIn("backend has to be one", str(self.failureResultOf(result, BadInput).value))

    def test_classes(self) -> None:
        """
        The class of a source or a sink is none.
        """
        for options, words in (
            ({"data": TextFiles}, "data has to be"),
            ({"data": [1], "output": PartFiles}, "output takes a PartFiles"),
        ):
            result = MapReduce(functions.square).run(**options, backend=Inline())
            self.assertIn(words, str(self.failureResultOf(result, BadInput).value))
