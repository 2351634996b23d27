"""
Every backend passes the public suite.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import clusters
from tests.support import PoolCase, python
from tests.test_dask import DaskCase
from txmapreduce import Dask, Inline, Processes
from txmapreduce.testing import BackendTests, WorkerTests


class InlineTests(BackendTests, TestCase):
    """
    In this process.
    """

    timeout = 60
    examples = 40

    def backend(self) -> Inline:
        return Inline()


class ProcessesTests(BackendTests, WorkerTests, PoolCase):
    """
    In worker processes.
    """

    examples = 12

    def backend(self) -> Processes:
        return self.pool


class DaskTests(BackendTests, DaskCase):
    """
    On a cluster of two workers.
    """

    examples = 3

    def backend(self) -> Dask:
        return self.remote


class DaskWorkerTests(WorkerTests, DaskCase):
    """
    On a cluster whose workers are started again by their nannies.
    """

    def make(self) -> clusters.Cluster:
        return clusters.shared("--nanny")

    def backend(self) -> Dask:
        return self.remote


class ImportTests(SynchronousTestCase):
    def test_functionsAlone(self) -> None:
        """
        Workers import the functions without the suite, and so without Twisted.
        """
        ended = python(
            "-c", "import sys, txmapreduce.testing.failing; print({'twisted', 'hypothesis'} & {*sys.modules})"
        )
        self.assertEqual(ended.stdout, "set()\n", ended.stderr)

    def test_missing(self) -> None:
        """
        Without hypothesis the error names the extra.
        """
        program = "import sys; sys.modules['hypothesis'] = None\nfrom txmapreduce.testing import BackendTests"
        self.assertIn("pip install 'txmapreduce[testing]'", python("-c", program).stderr)
