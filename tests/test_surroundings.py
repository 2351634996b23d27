"""
Tests for L{txmapreduce._worker.surroundings}.
"""

from __future__ import annotations

import os
import pickle
import sys
import warnings

from twisted.trial.unittest import SynchronousTestCase

from txmapreduce._worker.surroundings import surroundings


class SurroundingsTests(SynchronousTestCase):
    """
    Tests for L{surroundings}.
    """

    def test_facts(self) -> None:
        """
        It has the import path, the arguments, the working directory and those warnings filters that can travel.
        """

        class Own(Warning):
            pass

        with warnings.catch_warnings():
            warnings.simplefilter("error", Own)
            warnings.simplefilter("error", BytesWarning)
            facts = pickle.loads(surroundings())
        self.assertEqual((facts["path"], facts["argv"], facts["cwd"]), (sys.path, sys.argv, os.getcwd()))
        categories = [entry[2] for entry in facts["filters"]]
        self.assertIn(BytesWarning, categories)
        self.assertNotIn(Own, categories)

    def test_no_working_directory(self) -> None:
        """
        A working directory that has been removed does not matter.
        """
        self.addCleanup(os.chdir, os.getcwd())
        folder = self.mktemp()
        os.mkdir(folder)
        os.chdir(folder)
        os.rmdir(os.path.realpath(os.getcwd()))
        self.assertEqual(pickle.loads(surroundings())["cwd"], ".")
