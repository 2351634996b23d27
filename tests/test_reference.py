"""
The reference names everything that is public.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import txmapreduce
from txmapreduce import MapReduce, Policy, Processes, aggregates, errors, testing
from txmapreduce.joins import BoundJob
from txmapreduce.runs import Run

PAGE = (Path(__file__).parent.parent / "docs" / "reference.md").read_text("utf-8")


def public(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith("_") and name != "self"]


class ReferenceTests(SynchronousTestCase):
    def assertNamed(self, names: Iterable[str]) -> None:
        """
        Each name stands on the page in code style, alone or with what belongs to it.
        """
        code = " ".join(re.findall(r"```.*?```|`[^`]+`", PAGE, re.DOTALL))
        self.assertEqual([name for name in names if not re.search(rf"\b{name}\b", code)], [])

    def test_names(self) -> None:
        """
        What can be imported from the top, the aggregates, the errors.
        """
        for names in (txmapreduce.__all__, aggregates.__all__, errors.__all__, testing.__all__):
            self.assertNamed(public(names))

    def test_parameters(self) -> None:
        """
        The parameters of what can be called.
        """
        top = [getattr(txmapreduce, name) for name in txmapreduce.__all__]
        for called in (*filter(callable, top), *(getattr(aggregates, name) for name in aggregates.__all__)):
            if called is not txmapreduce.Broadcast and not getattr(called, "_is_protocol", False):
                self.assertNamed(public(inspect.signature(called).parameters))

    def test_fields(self) -> None:
        """
        The fields of a policy, and what jobs, runs and pools have.
        """
        self.assertNamed(field.name for field in dataclasses.fields(Policy))
        for owner in (MapReduce, BoundJob, Run):
            self.assertNamed(public(vars(owner)))
        self.assertNamed(public({"close", "pids"} & set(vars(Processes))))
