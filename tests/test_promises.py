"""
C{docs/promises.md} names tests that there are.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

PAGE = Path(__file__).parent.parent / "docs" / "promises.md"


class PromisesTests(SynchronousTestCase):
    def test_everyTestExists(self) -> None:
        """
        Each row of a promise names at least one test, and each test that is named is there to be run.
        """
        rows = [line for line in PAGE.read_text("utf-8").splitlines() if re.match(r"\| (?!promise \|)", line)]
        self.assertGreater(len(rows), 40)
        for row in rows:
            names = re.findall(r"`(test_\w+)\.(\w+)\.(\w+)`", row)
            self.assertTrue(names, row)
            for module, case, test in names:
                found = getattr(import_module(f"tests.{module}"), case, None)
                self.assertTrue(callable(getattr(found, test, None)), f"{module}.{case}.{test}")
