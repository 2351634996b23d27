"""
All cases together.
"""

from __future__ import annotations

from ._failures import FailureCases
from ._features import FeatureCases
from ._laws import LawCases
from ._reproducible import ReproducibleCases
from ._runs import RunCases
from ._streams import StreamCases
from ._values import ValueCases

__all__ = ["BackendTests"]


class BackendTests(LawCases, ValueCases, RunCases, FailureCases, StreamCases, FeatureCases, ReproducibleCases):
    """
    What holds on every backend. Set C{examples}, default 10, to say how many inputs each law is tried with.
    """
