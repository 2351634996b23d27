"""
The documentation names tests that there are.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

DOCS = Path(__file__).parent.parent / "docs"
NAME = re.compile(r"`(test_\w+)\.(\w+)\.(\w+)`")


class PromisesTests(SynchronousTestCase):
    def test_everyPromiseHasTests(self) -> None:
        """
        Each row of a promise names at least one test.
        """
        text = (DOCS / "promises.md").read_text("utf-8")
        rows = [line for line in text.splitlines() if re.match(r"\| (?!promise \|)", line)]
        self.assertGreater(len(rows), 40)
        for row in rows:
            self.assertTrue(NAME.search(row), row)

    def test_everyTestExists(self) -> None:
        """
        Each test that a page names is there to be run.
        """
        for page in sorted(DOCS.glob("*.md")):
            for module, case, test in NAME.findall(page.read_text("utf-8")):
                found = getattr(import_module(f"tests.{module}"), case, None)
                self.assertTrue(callable(getattr(found, test, None)), f"{page.name}: {module}.{case}.{test}")
